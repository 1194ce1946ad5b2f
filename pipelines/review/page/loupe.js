"use strict";
// One image, as large as the window allows: zoom, before and after, neighbours.
{
  const { rows, marks, view, el, icon } = NP;
  const loupe = { zoom: new NP.Zoom(), isComparing: false };
  NP.loupe = loupe;
  const node = NP.byId("loupe");
  let stage, strip, bar, title, place, status, before;

  function swipe(way) {
    if (way === "left") view.move(1);
    else if (way === "right") view.move(-1);
    else {
      NP.mark("flag", way === "up" ? 1 : 2, [view.current]);
      if (!view.advances) NP.advance();
    }
  }

  // The picture that an image was made from, over its left part, up to a handle.
  function makeBefore() {
    const picture = el("img", { class: "before", alt: "", draggable: "false" });
    const handle = el(
      "div",
      {
        class: "handle",
        role: "slider",
        tabindex: 0,
        "aria-label": "Before and after",
        "aria-valuemin": 0,
        "aria-valuemax": 100,
      },
      el("span", { class: "grip" }, icon("left"), icon("right")),
    );
    const choice = el("select", { class: "before-choice", "aria-label": "Which picture it was made from" });
    const words = el(
      "div",
      { class: "before-words", "aria-hidden": "true" },
      el("span", { text: "Before" }),
      el("span", { text: "After" }),
    );
    return { picture, handle, choice, words, share: 0.5, column: "" };
  }

  function drawBefore({ left, top, width, height }) {
    const isShown = loupe.isComparing && rows.inputsOf(view.current).length > 0;
    for (const each of [before.picture, before.handle, before.words]) each.hidden = !isShown;
    before.choice.hidden = !isShown || rows.inputsOf(view.current).length < 2;
    if (!isShown) return;
    const at = NP.clamp(left + width * before.share, 0, stage.node.clientWidth);
    Object.assign(before.picture.style, {
      width: `${width}px`,
      height: `${height}px`,
      transform: `translate(${left}px, ${top}px)`,
      clipPath: `inset(0 ${(1 - before.share) * 100}% 0 0)`,
    });
    before.handle.style.transform = `translateX(${at}px)`;
    before.handle.setAttribute("aria-valuenow", Math.round(before.share * 100));
  }

  function setShare(share) {
    before.share = NP.clamp(share, 0, 1);
    stage.draw();
  }

  function listenToHandle() {
    const { handle } = before;
    const follow = (event) => {
      const box = stage.frame.getBoundingClientRect();
      setShare((event.clientX - box.left) / box.width);
    };
    handle.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      handle.setPointerCapture(event.pointerId);
      handle.addEventListener("pointermove", follow);
    });
    for (const name of ["pointerup", "pointercancel"])
      handle.addEventListener(name, () => handle.removeEventListener("pointermove", follow));
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      setShare(before.share + by);
    });
    before.choice.addEventListener("change", () => {
      before.column = before.choice.value;
      loadBefore();
    });
  }

  function loadBefore() {
    const inputs = rows.inputsOf(view.current);
    if (!loupe.isComparing || !inputs.length) return;
    const chosen = inputs.find((each) => each.column === before.column) ?? inputs[0];
    before.choice.replaceChildren(
      ...inputs.map((each) => el("option", { value: each.column, text: each.label ?? each.column })),
    );
    before.choice.value = chosen.column;
    before.picture.src = rows.inputUrl(view.current, chosen.column);
    stage.draw();
  }

  loupe.toggleBefore = () => {
    if (!rows.inputsOf(view.current).length) {
      const isLeftOut = rows.inputs.some((each) => each.has.has(view.current));
      NP.toast(
        isLeftOut ? "This page does not have the picture before" : "This image was made from its prompt alone",
      );
      return;
    }
    loupe.isComparing = !loupe.isComparing;
    loadBefore();
    draw();
  };

  function button(name, words, act) {
    return el(
      "button",
      {
        type: "button",
        class: "plain",
        title: words,
        "aria-label": words.split(" (")[0],
        on: { click: act },
      },
      icon(name),
    );
  }

  function build() {
    strip = NP.filmstrip((i) => view.go(i));
    bar = NP.markBar(() => (view.current < 0 ? [] : [view.current]));
    title = el("p", { class: "loupe-title", dir: "auto" });
    place = el("span", { class: "place" });
    status = el("span", { class: "loupe-status" });
    loupe.beforeButton = button("before", "Before and after (B)", loupe.toggleBefore);
    const tools = el(
      "div",
      { class: "loupe-tools" },
      loupe.beforeButton,
      button("zoom", "100% (Z)", () => stage.toggle()),
      button("info", "Facts (I)", () => NP.facts.toggle()),
    );
    const head = el(
      "div",
      { class: "loupe-head" },
      button("grid", "Back to the grid (G)", () => view.setMode("grid")),
      place,
      title,
      tools,
    );
    NP.bars.addHead(head);
    const back = el(
      "button",
      {
        type: "button",
        class: "step back",
        title: "Previous (←)",
        "aria-label": "Previous image",
        on: { click: () => view.move(-1) },
      },
      icon("left"),
    );
    const on = el(
      "button",
      {
        type: "button",
        class: "step on",
        title: "Next (→)",
        "aria-label": "Next image",
        on: { click: () => view.move(1) },
      },
      icon("right"),
    );
    const body = el("div", { class: "loupe-body" }, stage.node, back, on);
    node.append(body, el("div", { class: "loupe-foot" }, status, bar.node), strip.node);
  }

  function statusWords() {
    const words = [];
    const { policy } = NP;
    if (policy.isShown())
      words.push(`${["Undecided", "Picked", "Rejected"][policy.of(view.current)]} ${policy.words()}`);
    if (marks.changed.has(view.current)) words.push(NP.changedWords(view.current));
    for (const { reviewer, mark } of marks.ofOthers(view.current))
      words.push(`${reviewer}: ${NP.inWords(mark)}`);
    return words.join(" · ");
  }

  const preloaded = [];
  function preload() {
    preloaded.length = 0;
    for (const by of [1, -1, 2]) {
      const i = view.list[view.place(view.current) + by];
      if (i === undefined || rows.isVideo(i) || !rows.url(i)) continue;
      const picture = new Image();
      picture.src = rows.url(i);
      preloaded.push(picture);
    }
  }
  const preloadSoon = NP.later(preload, 120);

  function draw() {
    if (view.mode !== "loupe" || view.current < 0) return;
    const i = view.current;
    stage.show(i);
    stage.node.dataset.flag = NP.FLAGS[marks.own(i, "flag")];
    title.textContent = NP.shorten(rows.prompt(i), 400);
    place.textContent = `${NP.number(view.place(i) + 1)} / ${NP.number(view.list.length)}`;
    status.textContent = statusWords();
    status.classList.toggle("warn", marks.changed.has(i));
    loupe.beforeButton.hidden = !rows.inputsOf(i).length;
    loupe.beforeButton.setAttribute("aria-pressed", loupe.isComparing);
    bar.draw();
    strip.centre();
    stage.draw();
  }

  function onCurrent() {
    if (view.mode !== "loupe") return;
    draw();
    loadBefore();
    preloadSoon();
    const i = view.current;
    const said = NP.inWords(marks.of(i));
    NP.say(
      `${view.place(i) + 1} of ${view.list.length}: ${NP.shorten(rows.prompt(i), 120)}${said ? `, ${said}` : ""}`,
    );
  }

  loupe.toggleZoom = () => stage.toggle();
  loupe.stage = () => stage;

  loupe.start = () => {
    stage = new NP.Stage(loupe.zoom, { onSwipe: swipe });
    before = makeBefore();
    stage.node.append(before.picture, before.words, before.handle, before.choice);
    stage.extra.push(drawBefore);
    listenToHandle();
    build();
    NP.on("current list", onCurrent);
    NP.on("marks thumbs", draw);
    NP.on("mode", () => {
      node.hidden = view.mode !== "loupe";
      if (node.hidden) loupe.zoom.fit();
      if (view.mode === "loupe") node.focus({ preventScroll: true });
    });
    node.tabIndex = -1;
    new ResizeObserver(NP.inFrame(() => view.mode === "loupe" && strip.centre())).observe(node);
  };
}
