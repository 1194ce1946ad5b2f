"use strict";
// The bar above: run, search, ways of looking, saving. The bar below: counts, marks, order, size.
{
  const { rows, marks, view, filters, order, el, icon } = NP;
  const bars = {};
  NP.bars = bars;
  const top = NP.byId("top");
  const bottom = NP.byId("bottom");
  const parts = {};

  function button(name, words, act, more = {}) {
    return el(
      "button",
      {
        type: "button",
        class: "plain",
        title: words,
        "aria-label": words.split(" (")[0],
        on: { click: act },
        ...more,
      },
      icon(name),
    );
  }

  bars.isNarrow = () => matchMedia("(max-width: 760px)").matches;

  // What the ways of looking other than the grid show in the place of the search field.
  bars.addHead = (head) => top.insertBefore(head, top.querySelector(".modes"));

  bars.toggleFilters = (isOpen = document.body.classList.contains("no-filters")) => {
    document.body.classList.toggle("no-filters", !isOpen);
    parts.filter.setAttribute("aria-expanded", isOpen);
    NP.byId("filters").inert = !isOpen;
    NP.emit("panel", null);
  };

  bars.setTheme = (theme) => {
    document.documentElement.dataset.theme = theme;
    remember("nightpress-theme", theme);
  };

  const SIZE_KEY = () => `nightpress-size-${bars.isNarrow() ? "narrow" : "wide"}`;
  function remember(key, value) {
    try {
      localStorage.setItem(key, value);
    } catch {
      // the browser keeps nothing: it holds until the page is closed
    }
  }
  function rememberedSize() {
    try {
      return Number(localStorage.getItem(SIZE_KEY())) || view.size;
    } catch {
      return view.size;
    }
  }
  bars.toggleTheme = () => {
    const isDark = getComputedStyle(document.documentElement).colorScheme.includes("dark");
    bars.setTheme(isDark ? "light" : "dark");
  };

  function modeButtons() {
    const open = {
      grid: () => view.setMode("grid"),
      loupe: () => view.setMode("loupe"),
      compare: () => NP.panes.open("compare"),
      survey: () => NP.panes.open("survey"),
    };
    const keys = { grid: "G", loupe: "E", compare: "C", survey: "N" };
    parts.modes = Object.keys(open).map((mode) =>
      el(
        "button",
        {
          type: "button",
          class: "plain",
          data: { mode },
          title: `${mode[0].toUpperCase()}${mode.slice(1)} (${keys[mode]})`,
          "aria-label": mode[0].toUpperCase() + mode.slice(1),
          on: { click: open[mode] },
        },
        icon(mode),
      ),
    );
    return el("div", { class: "modes", role: "group", "aria-label": "Ways of looking" }, ...parts.modes);
  }

  function searchField() {
    parts.search = el("input", {
      id: "search",
      type: "search",
      placeholder: "Search prompts",
      "aria-label": "Search prompts",
      autocomplete: "off",
      spellcheck: "false",
    });
    parts.search.addEventListener(
      "input",
      NP.later(() => {
        filters.text = parts.search.value;
        NP.emit("filters", null);
      }, 90),
    );
    parts.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === "Escape") {
        event.preventDefault();
        event.stopPropagation();
        NP.focusView();
      }
    });
    return el("label", { class: "search" }, icon("search"), parts.search);
  }

  function buildTop() {
    parts.filter = button("filter", "Filters (F)", () => bars.toggleFilters(), {
      "aria-expanded": true,
      "aria-controls": "filters",
    });
    parts.name = el("h1", { class: "run-name", text: rows.run.name, title: rows.run.url ?? "" });
    parts.shown = el("span", { class: "shown", "aria-live": "polite" });
    parts.saving = el("button", {
      type: "button",
      class: "saving",
      on: { click: () => NP.dialogs.saving() },
    });
    parts.failed = el("button", {
      type: "button",
      class: "small-button failed",
      hidden: !rows.run.num_failed,
      text: `${NP.number(rows.run.num_failed || 0)} failed`,
      on: { click: () => NP.dialogs.failed() },
    });
    parts.blind = el("button", {
      type: "button",
      class: "small-button blind",
      hidden: true,
      text: "Blind",
      title: "Hide the marks of others",
      "aria-pressed": false,
      on: { click: bars.toggleBlind },
    });
    top.replaceChildren(
      parts.filter,
      el("div", { class: "run" }, parts.name, parts.shown, parts.failed),
      searchField(),
      modeButtons(),
      parts.blind,
      parts.saving,
      button("theme", "Dark or light surround", bars.toggleTheme, { class: "plain theme" }),
      el("button", {
        type: "button",
        class: "plain help",
        text: "?",
        title: "Keys (?)",
        "aria-label": "Keys",
        on: { click: () => NP.dialogs.keys() },
      }),
    );
  }

  bars.toggleBlind = () => {
    if (marks.isBlindForced) {
      NP.toast("This review is blind: what others say is not sent to this page");
      return;
    }
    marks.blind = !marks.blind;
    filters.only.delete("disagree");
    filters.decided.clear();
    NP.toast(marks.blind ? "The marks of others are hidden" : "The marks of others are shown");
    NP.emit("filters", null);
    NP.emit("marks", null);
  };

  function option(value, text) {
    return el("option", { value, text });
  }

  function sortChoice() {
    const columns = rows.columns.map((column) => option(column.name, column.label));
    parts.sort = el(
      "select",
      { "aria-label": "Sort by" },
      option("", "Plan order"),
      option("flag", "Flag"),
      option("stars", "Stars"),
      ...columns,
    );
    parts.sort.addEventListener("change", () => {
      order.by = parts.sort.value;
      order.descending = order.by === "stars" || rows.byName.get(order.by)?.name.startsWith("score");
      NP.emit("order", null);
      NP.focusView();
    });
    parts.direction = button("down", "Turn the order round", () => {
      order.descending = !order.descending;
      NP.emit("order", null);
    });
    parts.direction.classList.add("direction");
    return el("label", { class: "order" }, el("span", { class: "soft", text: "Sort" }), parts.sort);
  }

  function groupChoice() {
    const columns = [...rows.groupOnly, ...rows.columns].filter((column) => column.kind === "category");
    parts.group = el(
      "select",
      { "aria-label": "Group by" },
      option("", "Nothing"),
      ...columns.map((column) => option(column.name, column.label)),
    );
    parts.group.addEventListener("change", () => {
      order.group = parts.group.value;
      order.opened.clear();
      order.shut.clear();
      NP.emit("order", null);
      NP.focusView();
    });
    parts.stacks = button("stack", "Close or open all stacks (Shift+S)", () => order.toggleAll());
    return el("label", { class: "order" }, el("span", { class: "soft", text: "Group" }), parts.group);
  }

  bars.setSize = (size) => {
    view.size = Math.round(NP.clamp(size, 88, 560));
    parts.size.value = view.size;
    remember(SIZE_KEY(), view.size);
    NP.grid.rebuild({ centre: true });
    NP.emit("size", null);
  };

  function buildBottom() {
    parts.tally = el("div", { class: "tally" });
    parts.bar = NP.markBar(() => view.targets());
    view.size = NP.clamp(rememberedSize(), 88, 560);
    parts.size = el("input", {
      type: "range",
      min: 88,
      max: 560,
      step: 8,
      value: view.size,
      "aria-label": "Size of thumbnails",
    });
    parts.size.addEventListener("input", () => bars.setSize(Number(parts.size.value)));
    const sort = sortChoice();
    const group = groupChoice();
    parts.undo = button("undo", "Undo (Ctrl+Z)", () => NP.undo());
    bottom.append(
      parts.tally,
      parts.bar.node,
      parts.undo,
      el(
        "div",
        { class: "orders" },
        sort,
        parts.direction,
        group,
        parts.stacks,
        el("label", { class: "size" }, icon("grid"), parts.size),
      ),
    );
  }

  // What all reviewers come to, beside what I said; nothing while only I have a say.
  function decidedNode() {
    const { policy } = NP;
    if (!policy.isShown()) return null;
    const [picked, rejected] = [policy.picked, policy.rejected].map(NP.number);
    return el("span", {
      class: "soft decided-count",
      title: `Decided ${policy.words()}: ${picked} picked, ${rejected} rejected`,
      text: `${policy.name}: ${picked} picked, ${rejected} rejected`,
    });
  }

  function drawTally() {
    const selected =
      view.mode === "grid" && view.selected.size > 1 ? `${NP.number(view.selected.size)} selected` : "";
    const nodes = [
      el("span", { class: "tally-pick" }, icon("pick"), NP.number(marks.picked)),
      el("span", { class: "tally-reject" }, icon("reject"), NP.number(marks.rejected)),
      decidedNode(),
      el("span", { class: "soft selected-count", text: selected }),
      el("span", {
        class: "advance",
        title: "Caps Lock is on: each mark goes on to the next image",
        text: "Caps: goes on",
      }),
    ];
    parts.tally.replaceChildren(...nodes.filter(Boolean));
    parts.tally.setAttribute("role", "group");
    parts.tally.setAttribute(
      "aria-label",
      `${NP.plural(marks.picked, "image")} picked, ${marks.rejected} rejected${selected ? `, ${selected}` : ""}`,
    );
    parts.bar.draw();
    parts.undo.disabled = !marks.canUndo();
  }

  function drawShown() {
    const all = NP.plural(rows.length, "image");
    parts.shown.textContent = view.matching === rows.length ? all : `${NP.number(view.matching)} of ${all}`;
    document.title = `${rows.run.name} · review`;
    if (document.activeElement !== parts.search) parts.search.value = filters.text;
    parts.sort.value = order.by;
    parts.group.value = order.group;
    parts.direction.classList.toggle("up", !order.descending);
    parts.direction.disabled = !order.by;
    parts.stacks.disabled = !order.group;
    parts.stacks.setAttribute("aria-pressed", order.closed);
  }

  function drawSaving() {
    const { delivery } = NP;
    const words = rows.run.read_only ? "Read-only" : delivery.words();
    parts.saving.textContent = words;
    parts.saving.dataset.tone = delivery.tone();
    parts.saving.classList.toggle("calm", !delivery.unsaved() && !NP.isStatic);
    parts.saving.classList.toggle("exports", NP.isStatic);
  }

  let lastTone = "";
  function saySaving() {
    const tone = NP.delivery.tone();
    if (tone !== lastTone) NP.say(NP.delivery.words());
    lastTone = tone;
  }

  function drawMode() {
    for (const each of parts.modes) each.setAttribute("aria-pressed", each.dataset.mode === view.mode);
  }

  bars.start = () => {
    buildTop();
    buildBottom();
    drawSaving();
    drawMode();
    NP.on("list", () => {
      drawShown();
    });
    NP.on("list current marks", NP.inFrame(drawTally));
    NP.on("delivery", () => {
      drawSaving();
      saySaving();
    });
    NP.on("mode", drawMode);
    NP.on("marks", () => {
      parts.blind.hidden = !marks.others.size && !marks.isBlindForced;
      parts.blind.setAttribute("aria-pressed", marks.blind);
    });
    // On narrow windows the filters lie over the images: a touch beside them closes them.
    NP.byId("main").addEventListener(
      "pointerdown",
      (event) => {
        if (!bars.isNarrow() || document.body.classList.contains("no-filters")) return;
        event.preventDefault();
        bars.toggleFilters(false);
      },
      { capture: true },
    );
    NP.on("current list mode", () => document.body.classList.toggle("selecting", view.selected.size > 1));
    NP.pinchGrid(NP.byId("scroller"), (scale) => bars.setSize(view.size * scale));
  };
}
