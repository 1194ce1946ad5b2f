"use strict";
// Starts the page: reads rows and marks, from the server or from this file, and shows them.
{
  const { rows, marks, view, el } = NP;
  const POLL_MS = 20000;

  function theme() {
    try {
      const chosen = localStorage.getItem("nightpress-theme");
      if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
    } catch {
      // the browser keeps nothing: its own preference holds
    }
  }

  // Atlases inside the page are long data URLs: as blobs they are named shortly in each tile.
  async function shortened(sheet) {
    if (!sheet) return;
    sheet.atlases = sheet.atlases.map((url) => {
      if (!url.startsWith("data:")) return url;
      const [head, data] = url.split(",", 2);
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      return URL.createObjectURL(new Blob([bytes], { type: head.slice(5).split(";")[0] }));
    });
  }

  async function readHere(node) {
    NP.isStatic = true;
    const data = JSON.parse(node.textContent);
    node.remove();
    shortened(data.rows.thumbs);
    shortened(data.rows.strips);
    return data;
  }

  async function readServer() {
    NP.isStatic = false;
    const [rowsAnswer, marksAnswer] = await Promise.all([fetch("api/rows"), fetch("api/marks")]);
    for (const answer of [rowsAnswer, marksAnswer]) {
      if (answer.ok) continue;
      const words = await answer.json().then(
        (said) => said.error,
        () => "",
      );
      throw new Error(words || `The server answers ${answer.status}`);
    }
    return { rows: await rowsAnswer.json(), marks: await marksAnswer.json() };
  }

  function receive(answer, kept) {
    if (answer) {
      NP.policy.receive(answer);
      marks.hearReviewers(answer.reviewers);
      marks.isBlindForced = Boolean(answer.blind_forced);
      marks.blind = Boolean(answer.blind) || marks.isBlindForced;
    }
    marks.receive([...(answer?.marks ?? []), ...kept]);
  }

  async function poll() {
    if (document.hidden) return;
    try {
      const answer = await NP.delivery.fetchMarks();
      if (!answer) return;
      marks.hearReviewers(answer.reviewers);
      marks.receive(answer.marks, { replaceOthers: true });
    } catch {
      // saving says whether the server answers; the marks of others wait
    }
  }

  function show(data) {
    if (data.rows.format !== 1)
      throw new Error(`This page reads rows of format 1, not ${data.rows.format}: reload it`);
    rows.fill(data.rows);
    if (NP.isStatic) {
      rows.run.reviewer = null;
      NP.sheets.fill(data.sheets);
      NP.delivery = NP.browserMarks();
    }
    marks.start();
    NP.policy.start();
    const side = NP.byId("filters");
    NP.markFacets.start(side);
    NP.facets.start(side);
    NP.bars.start();
    NP.chips.start();
    NP.grid.start();
    NP.loupe.start();
    NP.panes.start();
    NP.facts.start();
    receive(data.marks, NP.delivery.start());
    marks.takeUpHistory();
    addEventListener("pagehide", marks.keepHistory);
    NP.keys.start();
    NP.address.readFirst();
    NP.address.start();
    NP.dialogs.notes();
    NP.lateThumbs.start();
    if (NP.bars.isNarrow()) NP.bars.toggleFilters(false);
    document.body.classList.remove("loading");
    NP.grid.focus();
    if (!NP.isStatic) {
      setInterval(poll, POLL_MS);
      document.addEventListener("visibilitychange", poll);
    }
    NP.readyAt = performance.now();
    document.body.dataset.ready = "yes";
  }

  function refuse(error) {
    document.body.classList.remove("loading");
    const empty = NP.byId("empty");
    empty.hidden = false;
    empty.replaceChildren(
      el("h2", { text: "The images cannot be shown" }),
      el("p", { text: error.message }),
      el("p", {
        class: "soft",
        text: NP.isStatic ? "" : "Is nightpress review still running? Open the address that it prints.",
      }),
    );
    console.error(error);
  }

  theme();
  NP.byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    NP.focusView();
  });
  document.body.dataset.mode = view.mode;
  const here = NP.byId("data");
  (here ? readHere(here) : readServer()).then(show).catch(refuse);
}
