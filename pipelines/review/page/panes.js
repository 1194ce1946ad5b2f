"use strict";
// Several images side by side: compared, with zoom and pan in step, or surveyed, taking away what loses.
{
  const { rows, marks, view, el, icon } = NP;
  const MOST = { compare: 8, survey: 24 };
  const panes = { zoom: new NP.Zoom(), images: [] };
  NP.panes = panes;

  const node = NP.byId("panes");
  const head = el("div", { class: "panes-head" });
  const field = el("div", { class: "panes-field" });
  node.append(field);
  let made = []; // {node, stage, bar, zoom, i}
  let ratio = 1;

  // The images to compare: the selection, else the current one and the next.
  function chosen(mode) {
    const selected = [...view.selected].sort((a, b) => view.place(a) - view.place(b));
    if (selected.length > MOST[mode]) {
      NP.toast(
        `${mode === "compare" ? "Compare" : "Survey"} shows at most ${MOST[mode]}: the first of ${selected.length} selected`,
        { seconds: 5 },
      );
    }
    if (selected.length > 1) return selected.slice(0, MOST[mode]);
    const place = view.place(view.current);
    const stack = view.stacks.get(view.current);
    if (stack?.isClosed) return stack.members.slice(0, MOST[mode]);
    const count = mode === "compare" ? 2 : 4;
    const first = NP.clamp(place, 0, Math.max(0, view.list.length - count));
    return [...view.list.subarray(first, first + count)];
  }

  panes.open = (mode, images = chosen(mode)) => {
    if (images.length < 2) {
      NP.toast("Two images are needed to compare");
      return;
    }
    panes.images = images;
    panes.zoom.fit();
    const isSame = view.mode === mode;
    view.setMode(mode);
    if (isSame) rebuild();
    if (!images.includes(view.current)) view.go(images[0], { keep: true });
  };

  // Rows and columns that leave the pictures largest.
  function bestColumns(count, width, height) {
    let best = { side: 0, columns: 1 };
    for (let columns = 1; columns <= count; columns++) {
      const lines = Math.ceil(count / columns);
      const side = Math.min(width / columns, (height / lines - 34) / ratio);
      if (side > best.side) best = { side, columns };
    }
    return best.columns;
  }

  function arrange() {
    const columns = bestColumns(made.length, field.clientWidth, field.clientHeight);
    field.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    field.style.gridTemplateRows = `repeat(${Math.ceil(made.length / columns)}, minmax(0, 1fr))`;
    panes.columns = columns;
  }

  function pane(i) {
    const zoom = view.mode === "compare" ? panes.zoom : new NP.Zoom();
    const stage = new NP.Stage(zoom);
    stage.zoomsOnClick = view.mode === "compare";
    stage.onTap = () => activate(i);
    stage.show(i);
    const bar = NP.markBar(() => [i], { isSmall: true });
    const away = el(
      "button",
      {
        type: "button",
        class: "plain away",
        title: "Take away (/)",
        "aria-label": "Take away",
        on: { click: () => panes.remove(i) },
      },
      icon("reject"),
    );
    const name = el("span", { class: "pane-name", dir: "auto", text: paneName(i) });
    const foot = el("div", { class: "pane-foot" }, name, bar.node, away);
    const pane = el(
      "div",
      { class: "pane", role: "group", "aria-label": NP.shorten(rows.prompt(i), 120) },
      stage.node,
      foot,
    );
    pane.addEventListener("pointerdown", () => activate(i));
    return { node: pane, stage, bar, i };
  }

  // What sets the images apart: the values of columns in which they differ.
  function paneName(i) {
    const words = [];
    const columns = rows.columns.filter((column) => column.kind === "category" && !column.derived);
    columns.sort((a, b) => a.values.length - b.values.length);
    for (const column of columns) {
      if (words.length === 3) break;
      const all = new Set(panes.images.map((each) => rows.text(column, each)));
      if (all.size > 1)
        words.push(column.numeric ? `${column.label} ${rows.text(column, i)}` : rows.text(column, i));
    }
    return words.filter(Boolean).join(" · ") || rows.imageId[i];
  }

  function activate(i) {
    if (view.current !== i) view.go(i, { keep: true });
  }

  function rebuild() {
    for (const each of made) each.stage.close();
    made = [];
    if (view.mode !== "compare" && view.mode !== "survey") {
      field.replaceChildren();
      return;
    }
    const ratios = panes.images.map((i) => rows.height[i] / rows.width[i]).sort((a, b) => a - b);
    ratio = ratios[ratios.length >> 1];
    made = panes.images.map(pane);
    field.replaceChildren(...made.map((each) => each.node));
    arrange();
    draw();
  }

  function draw() {
    if (!made.length) return;
    const isCompare = view.mode === "compare";
    const words = el("span", {
      text: `${isCompare ? "Compare" : "Survey"}: ${NP.plural(made.length, "image")}`,
    });
    const hint = el("span", {
      class: "soft hint",
      text: isCompare ? "zoom and pan move all of them" : "/ or × takes an image away",
    });
    const back = el(
      "button",
      {
        type: "button",
        class: "plain",
        title: "Back to the grid (G)",
        "aria-label": "Back to the grid",
        on: { click: () => view.setMode("grid") },
      },
      icon("grid"),
    );
    head.replaceChildren(back, words, hint);
    for (const each of made) {
      each.node.classList.toggle("current", each.i === view.current);
      each.node.dataset.flag = NP.FLAGS[marks.own(each.i, "flag")];
      each.node.dataset.colour = NP.COLOURS[marks.own(each.i, "colour")];
      each.bar.draw();
    }
  }

  panes.move = (by) => {
    const at = panes.images.indexOf(view.current);
    const next = NP.clamp(at + by, 0, panes.images.length - 1);
    view.go(panes.images[next], { keep: true });
    NP.say(`${next + 1} of ${panes.images.length}: ${NP.shorten(rows.prompt(panes.images[next]), 100)}`);
  };
  panes.moveLine = (by) => panes.move(by * panes.columns);

  panes.remove = (i) => {
    if (panes.images.length <= 1) return;
    const at = panes.images.indexOf(i);
    panes.images = panes.images.filter((each) => each !== i);
    view.selected.delete(i);
    if (view.current === i) view.go(panes.images[Math.min(at, panes.images.length - 1)], { keep: true });
    rebuild();
    NP.say(`${NP.plural(panes.images.length, "image")} left`);
  };

  panes.toggleZoom = () => made.find((each) => each.i === view.current)?.stage.toggle();

  panes.start = () => {
    NP.bars.addHead(head);
    NP.on("mode", () => {
      node.hidden = view.mode !== "compare" && view.mode !== "survey";
      rebuild();
      if (!node.hidden) node.focus({ preventScroll: true });
    });
    node.tabIndex = -1;
    NP.on("current marks", draw);
    new ResizeObserver(NP.inFrame(() => made.length && arrange())).observe(field);
  };
}
