"use strict";
// The state of the page in its address, behind #: it can be reloaded, kept and sent.
{
  const { rows, filters, order, view } = NP;
  const address = {};
  NP.address = address;
  let isReading = false;

  const DECIDED = ["undecided", "picked", "rejected"];
  const FLAGS = ["unmarked", "picked", "rejected"];
  const number = (text, otherwise) => (text === "" || Number.isNaN(Number(text)) ? otherwise : Number(text));

  function write() {
    const state = new URLSearchParams();
    if (filters.text.trim()) state.set("q", filters.text.trim());
    for (const flag of filters.flags) state.append("flag", FLAGS[flag]);
    if (filters.stars) state.set("stars", filters.stars);
    for (const flag of filters.decided) state.append("decided", DECIDED[flag]);
    for (const colour of filters.colours) state.append("colour", NP.COLOURS[colour]);
    for (const kind of filters.only) state.append("only", kind);
    for (const [name, chosen] of filters.values) {
      const column = rows.byName.get(name);
      for (const code of chosen)
        state.append(code < 0 ? "without" : `is.${name}`, code < 0 ? name : column.values[code]);
    }
    for (const [name, [low, high]] of filters.ranges) {
      state.set(`in.${name}`, `${low === -Infinity ? "" : low}..${high === Infinity ? "" : high}`);
    }
    if (order.by) state.set("sort", (order.descending ? "-" : "") + order.by);
    if (order.group !== (rows.run.group_by ?? "")) state.set("group", order.group);
    if (order.closed) state.set("stacks", "closed");
    if (view.mode !== "grid") state.set("view", view.mode);
    if (view.mode === "compare" || view.mode === "survey")
      state.set("of", NP.panes.images.map((i) => rows.imageId[i]).join(","));
    if (view.captions) state.set("captions", "1");
    if (view.current > 0 || view.mode !== "grid") state.set("at", rows.imageId[view.current] ?? "");
    return state.toString();
  }

  function readValues(state) {
    for (const [key, value] of state) {
      const name = key.slice(3);
      const column = rows.byName.get(key === "without" ? value : name);
      if (!column) continue;
      if (key.startsWith("is.") || key === "without") {
        const code = key === "without" ? -1 : column.values.indexOf(value);
        if (column.kind !== "category" || (code < 0 && key !== "without")) continue;
        if (!filters.values.has(column.name)) filters.values.set(column.name, new Set());
        filters.values.get(column.name).add(code);
      } else if (key.startsWith("in.") && column.kind === "number") {
        const [low, high] = value.split("..");
        filters.ranges.set(name, [number(low, -Infinity), number(high ?? "", Infinity)]);
      }
    }
  }

  function readFilters(state) {
    filters.text = state.get("q") ?? "";
    for (const each of filters.KINDS) filters[each].clear();
    for (const flag of state.getAll("flag")) if (FLAGS.includes(flag)) filters.flags.add(FLAGS.indexOf(flag));
    for (const flag of state.getAll("decided"))
      if (DECIDED.includes(flag) && NP.policy.isShown()) filters.decided.add(DECIDED.indexOf(flag));
    for (const colour of state.getAll("colour"))
      if (NP.COLOURS.includes(colour)) filters.colours.add(NP.COLOURS.indexOf(colour));
    for (const kind of state.getAll("only"))
      if (["changed", "disagree", "comment"].includes(kind)) filters.only.add(kind);
    filters.stars = NP.clamp(Math.trunc(number(state.get("stars") ?? "", 0)), 0, 5);
    readValues(state);
  }

  function readOrder(state) {
    const sort = state.get("sort") ?? "";
    const by = sort.replace(/^-/, "");
    order.by = by === "stars" || by === "flag" || rows.byName.has(by) ? by : "";
    order.descending = sort.startsWith("-");
    const group = state.get("group") ?? rows.run.group_by ?? "";
    order.group = rows.byName.get(group)?.kind === "category" ? group : "";
    order.closed = state.get("stacks") === "closed";
    view.captions = state.get("captions") === "1";
  }

  // The address is written a moment late. A reload within that moment finds the state in the window's own memory.
  const memory = () => `nightpress-address:${rows.run.id}`;
  function keep() {
    try {
      sessionStorage.setItem(memory(), write());
    } catch {
      // then the address alone has it
    }
  }
  function kept() {
    try {
      return sessionStorage.getItem(memory());
    } catch {
      return null;
    }
  }

  address.readFirst = () => {
    const isReload = performance.getEntriesByType("navigation")[0]?.type === "reload";
    address.read(isReload ? (kept() ?? location.hash.slice(1)) : undefined);
    update();
  };

  address.read = (hash) => {
    const state = new URLSearchParams(typeof hash === "string" ? hash : location.hash.slice(1));
    isReading = true;
    readFilters(state);
    readOrder(state);
    view.refresh();
    const at = rows.byId.get(state.get("at") ?? "");
    if (at !== undefined && view.place(at) >= 0) view.go(at, { keep: true });
    const mode = state.get("view") ?? "grid";
    const images = (state.get("of") ?? "")
      .split(",")
      .map((id) => rows.byId.get(id))
      .filter((i) => i !== undefined);
    if ((mode === "compare" || mode === "survey") && images.length > 1) NP.panes.open(mode, images);
    else if (mode === "loupe" && view.current >= 0) view.setMode("loupe");
    else view.setMode("grid");
    isReading = false;
    NP.emit("size", null);
  };

  const update = NP.later(() => {
    const hash = write();
    if (hash !== location.hash.slice(1))
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }, 200);

  // Going from the grid to an image is a step that the browser's Back takes back.
  function onMode(before) {
    if (isReading) return;
    if (before === "grid") history.pushState(null, "", `#${write()}`);
    else update();
  }

  address.start = () => {
    NP.on("list current size", () => isReading || update());
    NP.on("mode", onMode);
    addEventListener("popstate", address.read);
    addEventListener("hashchange", address.read);
    addEventListener("pagehide", keep);
  };
}
