"use strict";
// Marks of the page without a server: kept in this browser, and exported as a file for `nightpress review --import`.
{
  const { rows } = NP;

  NP.browserMarks = () => {
    let prefix = "";
    let isLost = false;
    let sinceExport = 0;
    const kept = new Map(); // image_id and sha256 -> { field: mark }
    const store = { session: "", status: "saved" };

    function write(key, text) {
      try {
        localStorage.setItem(key, text);
        isLost = false;
      } catch {
        isLost = true;
      }
    }

    // Kept in the browser, so that what is exported twice is imported once.
    function rememberedSession() {
      const key = `nightpress-file-session:${rows.run.id}`;
      const fresh = `file-${NP.randomHex(6)}`;
      try {
        const kept = localStorage.getItem(key) ?? fresh;
        localStorage.setItem(key, kept);
        return kept;
      } catch {
        return fresh;
      }
    }

    function load(key) {
      const found = JSON.parse(localStorage.getItem(key));
      kept.set(key, found);
      return Object.values(found);
    }

    store.start = () => {
      prefix = `nightpress-file:${rows.run.id}:`;
      store.session = rememberedSession();
      addEventListener("beforeunload", (event) => isLost && event.preventDefault());
      try {
        return Object.keys(localStorage)
          .filter((key) => key.startsWith(prefix))
          .flatMap(load);
      } catch {
        isLost = true;
        return [];
      }
    };

    store.keep = (made) => {
      for (const mark of made) {
        const key = `${prefix}${mark.image_id}:${mark.sha256}`;
        const fields = kept.get(key) ?? {};
        fields[mark.field] = mark;
        kept.set(key, fields);
        write(key, JSON.stringify(fields));
      }
      sinceExport += made.length;
      NP.emit("delivery", null);
    };

    store.all = () => [...kept.values()].flatMap((fields) => Object.values(fields));
    store.unsaved = () => (isLost ? sinceExport : 0);
    store.refused = () => 0;
    store.flush = () => {};
    store.retry = () => {};
    store.fetchMarks = async () => null;
    store.tone = () => (isLost ? "bad" : "");
    store.words = () => {
      if (isLost) return "This browser keeps no marks: export them before you close this page";
      const count = store.all().length;
      return count
        ? `Only this browser has ${NP.plural(count, "mark")}: export`
        : "Marks stay in this browser";
    };

    store.exported = (reviewer) => {
      sinceExport = 0;
      const head = { format: 1, run: rows.run.id, name: rows.run.name, reviewer, session: store.session };
      return JSON.stringify({ ...head, exported_at: new Date().toISOString(), marks: store.all() }, null, 1);
    };
    return store;
  };
}
