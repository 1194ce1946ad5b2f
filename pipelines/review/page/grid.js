"use strict";
// The windowed grid: only the rows in sight, and a few beside them, are in the page.
{
  const { rows, marks, view, thumbs, tile, el } = NP;
  const grid = { columns: 1, rowHeight: 1 };
  NP.grid = grid;

  const GAP = 6;
  const PAD = 12; // around the grid
  const FOOT = 22;
  const CAPTION = 34;
  const INSET = 6; // between the edge of a tile and its picture
  const BEYOND = 2; // rows above and below what is in sight
  const TALLEST = 12e6; // browsers stop at some 17 million pixels

  const scroller = NP.byId("scroller");
  const node = NP.byId("grid");
  const shown = new Map(); // row of the grid -> its element
  let measure = { boxWidth: 0, boxHeight: 0 };
  let tallest = 1;

  function fewestColumns(width) {
    const rowHeight = width * tallest + FOOT;
    return Math.max(1, Math.ceil(Math.sqrt((view.list.length * rowHeight) / TALLEST)));
  }

  // Sizes for the width at hand. Very many images get at least so many columns that the page is not too tall.
  grid.layOut = () => {
    const width = scroller.clientWidth - 2 * PAD;
    if (width <= 0) return;
    const wished = Math.max(1, Math.floor((width + GAP) / (view.size + GAP)));
    grid.columns = Math.max(wished, fewestColumns(view.size));
    grid.cellWidth = Math.floor((width - GAP * (grid.columns - 1)) / grid.columns);
    const boxWidth = grid.cellWidth - 2 * INSET;
    const boxHeight = Math.max(24, Math.round(boxWidth * tallest));
    grid.rowHeight = boxHeight + INSET + FOOT + (view.captions ? CAPTION : 0) + GAP;
    if (
      measure.boxWidth !== boxWidth ||
      measure.boxHeight !== boxHeight ||
      measure.captions !== view.captions
    ) {
      measure = { boxWidth, boxHeight, captions: view.captions };
    }
    const lines = Math.ceil(view.list.length / grid.columns);
    node.style.height = `${lines * grid.rowHeight + 2 * PAD}px`;
    node.style.setProperty("--columns", grid.columns);
    node.style.setProperty("--cell", `${grid.cellWidth}px`);
    node.style.setProperty("--box", `${boxHeight}px`);
    node.classList.toggle("captioned", view.captions);
    node.classList.toggle("small", grid.cellWidth < 120);
    node.setAttribute("aria-rowcount", lines);
    node.setAttribute("aria-colcount", grid.columns);
  };

  function rowOf(line) {
    const row = el("div", { class: "row", role: "row" });
    shown.set(line, row);
    node.append(row);
    return row;
  }

  function fill(row, line) {
    const from = line * grid.columns;
    const images = view.list.subarray(from, from + grid.columns);
    row.style.transform = `translateY(${PAD + line * grid.rowHeight}px)`;
    row.setAttribute("aria-rowindex", line + 1);
    while (row.children.length > images.length) row.lastChild.remove();
    while (row.children.length < images.length) row.append(tile.make());
    images.forEach((i, column) => {
      const cell = row.children[column];
      cell.setAttribute("aria-colindex", column + 1);
      tile.show(cell, i, measure);
    });
  }

  // The rows that must be in the page: those in sight, and that of the current image, which has the focus.
  function wantedLines() {
    const lines = Math.ceil(view.list.length / grid.columns);
    const top = scroller.scrollTop - PAD;
    const first = Math.max(0, Math.floor(top / grid.rowHeight) - BEYOND);
    const last = Math.min(lines, Math.ceil((top + scroller.clientHeight) / grid.rowHeight) + BEYOND);
    const wanted = new Set();
    for (let line = first; line < last; line++) wanted.add(line);
    const place = view.place(view.current);
    if (place >= 0) wanted.add(Math.floor(place / grid.columns));
    return wanted;
  }

  grid.draw = ({ again = false } = {}) => {
    if (view.mode !== "grid") return;
    const wanted = wantedLines();
    const free = [];
    for (const [line, row] of shown) {
      if (wanted.has(line)) continue;
      shown.delete(line);
      free.push(row);
    }
    for (const line of wanted) {
      const row = shown.get(line);
      if (row && !again) continue;
      if (row) fill(row, line);
      else if (free.length) {
        const reused = free.pop();
        shown.set(line, reused);
        fill(reused, line);
      } else fill(rowOf(line), line);
    }
    for (const row of free) row.remove();
    sharpenSoon();
  };

  const FLIGHT = 8; // pixels in a millisecond, some eight screens in a second
  let lastTop = 0;
  let lastTime = 0;

  function onScroll() {
    const now = performance.now();
    const speed = Math.abs(scroller.scrollTop - lastTop) / Math.max(8, now - lastTime);
    lastTop = scroller.scrollTop;
    lastTime = now;
    thumbs.isFlying = speed > FLIGHT;
    grid.draw();
    if (thumbs.isFlying) land();
  }

  // What flew by without pictures gets them where the grid comes to rest.
  const land = NP.later(() => {
    thumbs.isFlying = false;
    for (const cell of grid.cells()) cell.image = -1;
    grid.draw({ again: true });
  }, 90);

  const sharpenSoon = NP.later(() => {
    if (view.mode !== "grid") return;
    const list = [];
    for (const cell of grid.cells()) {
      const i = cell.image;
      if (cell.parts.pic.firstChild || !thumbs.needsMore(i, cell.picture.width) || !isInSight(cell)) continue;
      list.push({ node: cell.parts.pic, i, isWanted: () => cell.image === i && cell.isConnected });
    }
    thumbs.sharpen(list);
  }, 250);

  function isInSight(cell) {
    const { top, bottom } = cell.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  }

  grid.cells = function* cells() {
    for (const row of shown.values()) yield* row.children;
  };
  grid.nodeCount = () => node.querySelectorAll("*").length;

  grid.cellOf = (i) => {
    const place = view.place(i);
    if (place < 0) return null;
    return shown.get(Math.floor(place / grid.columns))?.children[place % grid.columns] ?? null;
  };

  // Scrolls just far enough for the current image to be whole in sight.
  grid.reveal = ({ centre = false } = {}) => {
    const place = view.place(view.current);
    if (place < 0 || view.mode !== "grid") return;
    const top = PAD + Math.floor(place / grid.columns) * grid.rowHeight;
    const bottom = top + grid.rowHeight;
    const { scrollTop, clientHeight } = scroller;
    if (centre && (top < scrollTop || bottom > scrollTop + clientHeight)) {
      scroller.scrollTop = top - (clientHeight - grid.rowHeight) / 2;
    } else if (top - PAD < scrollTop) scroller.scrollTop = top - PAD;
    else if (bottom + PAD > scrollTop + clientHeight) scroller.scrollTop = bottom + PAD - clientHeight;
  };

  function showFocus() {
    for (const cell of grid.cells()) tile.showFocus(cell, cell.image);
    const cell = grid.cellOf(view.current);
    if (cell) node.setAttribute("aria-activedescendant", cell.id);
    else node.removeAttribute("aria-activedescendant");
  }

  grid.focus = () => node.focus({ preventScroll: true });

  grid.rebuild = ({ centre = false } = {}) => {
    grid.layOut();
    grid.reveal({ centre });
    grid.draw({ again: true });
    showFocus();
  };

  function playHere(cell) {
    if (cell) thumbs.play(cell.parts.pic, cell.image, cell.picture.width, cell.picture.height);
    else thumbs.stop();
  }

  grid.start = () => {
    tallest = rows.tallest();
    scroller.addEventListener("scroll", NP.inFrame(onScroll), { passive: true });
    new ResizeObserver(NP.inFrame(() => grid.rebuild({ centre: true }))).observe(scroller);
    node.addEventListener("pointerover", (event) => playHere(event.target.closest(".cell")));
    node.addEventListener("pointerleave", () => thumbs.stop());
    NP.on("list", () => grid.rebuild({ centre: true }));
    NP.on("current", () => {
      if (view.mode !== "grid") return;
      grid.reveal();
      grid.draw();
      showFocus();
      const cell = grid.cellOf(view.current);
      if (cell && thumbs.isClip(view.current)) playHere(cell);
    });
    NP.on("atlas", () => {
      measure = {};
      grid.rebuild();
    });
    NP.on("thumbs", (came) => {
      for (const cell of grid.cells()) {
        if (!came.has(cell.image)) continue;
        if (rows.isClip(cell.image)) cell.parts.pic.replaceChildren();
        if (cell.parts.pic.firstChild) continue;
        thumbs.show(cell.parts.pic, cell.image, cell.picture.width, cell.picture.height);
      }
    });
    NP.on("mode", () => {
      if (view.mode !== "grid") return;
      grid.rebuild({ centre: true });
      grid.focus();
    });
    NP.on("marks", (touched) => {
      for (const cell of grid.cells()) {
        if (touched === null || touched.has(cell.image)) tile.showMarks(cell, cell.image);
      }
    });
    grid.listen();
  };

  // A finger that rests on an image selects it; its click does nothing more.
  let wasLong = false;
  function listenForLongPress() {
    let timer = 0;
    const end = () => clearTimeout(timer);
    node.addEventListener("pointerdown", (event) => {
      wasLong = false;
      const cell = event.target.closest(".cell");
      if (!cell || event.pointerType !== "touch") return;
      timer = setTimeout(() => {
        wasLong = true;
        view.toggle(cell.image);
        NP.say(view.selected.has(cell.image) ? "Selected" : "Not selected");
      }, 450);
    });
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) node.addEventListener(name, end);
    scroller.addEventListener("scroll", end, { passive: true });
    node.addEventListener("contextmenu", (event) => NP.isTouch() && event.preventDefault());
  }

  // The pointer: a click makes current, a double click opens; with Shift and Ctrl it selects.
  grid.listen = () => {
    node.addEventListener("click", (event) => {
      const cell = event.target.closest(".cell");
      if (!cell || wasLong) return;
      if (event.target.closest(".badge[data-kind=stack]")) {
        view.go(cell.image);
        NP.order.toggleStack(cell.image);
      } else if (event.target.closest(".flag")) {
        view.go(cell.image);
        marks.set([cell.image], "flag", marks.own(cell.image, "flag") === 1 ? 0 : 1);
      } else if (NP.isTouch() && view.selected.size > 1) view.toggle(cell.image);
      else if (event.shiftKey) view.go(cell.image, { extend: true });
      else if (event.ctrlKey || event.metaKey) view.toggle(cell.image);
      else view.go(cell.image);
      if (NP.isTouch() && view.selected.size < 2 && !event.target.closest(".foot, .badge"))
        view.setMode("loupe");
      grid.focus();
    });
    listenForLongPress();
    node.addEventListener("dblclick", (event) => {
      if (event.target.closest(".box")) view.setMode("loupe");
    });
  };
}
