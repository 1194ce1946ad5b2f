"use strict";
// The keyboard, as in Lightroom.
{
  const { view, marks, order, rows } = NP;

  // Where the keyboard goes back to after a field or a dialog.
  NP.focusView = () => {
    if (view.mode === "grid") NP.grid.focus();
    else NP.byId(view.mode === "loupe" ? "loupe" : "panes").focus({ preventScroll: true });
  };

  function follow(changes, word) {
    if (!changes) return;
    NP.toast(`${word}: ${changes.length === 1 ? "1 mark" : `${NP.number(changes.length)} marks`}`, {
      seconds: 1.2,
    });
    const { i } = changes[0];
    if (view.place(i) >= 0) view.go(i, { keep: view.mode !== "grid" || view.selected.has(i) });
  }
  NP.undo = () => follow(marks.undo(), "Undone");
  NP.redo = () => follow(marks.redo(), "Made again");

  const isPanes = () => view.mode === "compare" || view.mode === "survey";

  function move(columns, lines, event) {
    if (isPanes()) {
      if (columns) NP.panes.move(columns);
      else NP.panes.moveLine(lines);
    } else if (view.mode === "loupe") view.move(columns || lines);
    else moveInGrid(columns + lines * NP.grid.columns, event);
  }

  // Up and down never leave the column at the edges of the grid.
  function moveInGrid(by, event) {
    const place = view.place(view.current) + by;
    const last = view.list.length - 1;
    if (Math.abs(by) > 1 && place < 0) return;
    const isBelow =
      place > last && Math.floor((place - by) / NP.grid.columns) === Math.floor(last / NP.grid.columns);
    if (isBelow && Math.abs(by) > 1) return;
    view.move(by, { extend: event.shiftKey });
  }

  function page(by, event) {
    const lines = Math.max(1, Math.floor(NP.byId("scroller").clientHeight / NP.grid.rowHeight));
    if (isPanes()) NP.panes.moveLine(by);
    else if (view.mode === "loupe") view.move(by * 10);
    else view.move(by * lines * NP.grid.columns, { extend: event.shiftKey });
  }

  function end(toLast, event) {
    if (isPanes()) NP.panes.move(toLast ? 99 : -99);
    else
      view.go(view.at(toLast ? view.list.length - 1 : 0), { extend: view.mode === "grid" && event.shiftKey });
  }

  function leave() {
    if (NP.facts.isOpen && view.mode === "grid") NP.facts.toggle(false);
    else if (view.mode !== "grid") view.setMode("grid");
    else view.selectNone();
  }

  function toggleZoom() {
    if (isPanes()) NP.panes.toggleZoom();
    else {
      view.setMode("loupe");
      NP.loupe.toggleZoom();
    }
  }

  function toggleCaptions() {
    view.captions = !view.captions;
    NP.grid.rebuild({ centre: true });
    NP.emit("size", null);
  }

  function stack(event) {
    if (!order.group) NP.toast("Choose what to group by, below, and variants stack");
    else if (event.shiftKey) order.toggleAll();
    else if (view.current >= 0) order.toggleStack(view.current);
  }

  const flag = (code) => (event) => NP.mark("flag", code, undefined, { advance: event.shiftKey });

  const BY_NAME = {
    ArrowLeft: (event) => move(-1, 0, event),
    ArrowRight: (event) => move(1, 0, event),
    ArrowUp: (event) => move(0, -1, event),
    ArrowDown: (event) => move(0, 1, event),
    Home: (event) => end(false, event),
    End: (event) => end(true, event),
    PageUp: (event) => page(-1, event),
    PageDown: (event) => page(1, event),
    Enter: () => view.setMode(view.mode === "loupe" ? "grid" : "loupe"),
    " ": () => view.setMode(view.mode === "loupe" ? "grid" : "loupe"),
    Escape: leave,
    "?": () => NP.dialogs.keys(),
    "/": () => (isPanes() ? NP.panes.remove(view.current) : NP.byId("search").focus()),
    "+": () => NP.bars.setSize(view.size * 1.15),
    "=": () => NP.bars.setSize(view.size * 1.15),
    "-": () => NP.bars.setSize(view.size / 1.15),
  };

  const BY_LETTER = {
    p: flag(1),
    x: flag(2),
    u: flag(0),
    c: () => NP.panes.open("compare"),
    n: () => NP.panes.open("survey"),
    z: toggleZoom,
    g: () => view.setMode("grid"),
    e: () => view.setMode("loupe"),
    b: () =>
      view.mode === "loupe" ? NP.loupe.toggleBefore() : (view.setMode("loupe"), NP.loupe.toggleBefore()),
    i: () => NP.facts.toggle(),
    m: () => NP.facts.comment(),
    j: toggleCaptions,
    f: () => NP.bars.toggleFilters(),
    s: stack,
    r: () => view.refresh(),
  };

  const WITH_CONTROL = {
    z: (event) => (event.shiftKey ? NP.redo() : NP.undo()),
    y: () => NP.redo(),
    a: () => view.mode === "grid" && view.selectAll(),
    d: () => view.selectNone(),
    f: () => NP.byId("search").select(),
  };

  // Digits by their place on the keyboard: on some, digits themselves need Shift.
  function digit(event) {
    const found = /^(?:Digit|Numpad)(\d)$/.exec(event.code) ?? /^(\d)$/.exec(event.key);
    return found ? Number(found[1]) : null;
  }

  function markDigit(number, event) {
    const more = { advance: event.shiftKey };
    if (number <= 5) NP.mark("stars", number, undefined, more);
    else {
      const code = number - 5;
      NP.mark("colour", marks.own(view.targets()[0] ?? 0, "colour") === code ? 0 : code, undefined, more);
    }
  }

  function actOf(event) {
    const letter = event.key.length === 1 ? event.key.toLowerCase() : "";
    if (event.ctrlKey || event.metaKey) return event.altKey ? null : WITH_CONTROL[letter];
    if (event.altKey) return null;
    const number = digit(event);
    if (BY_NAME[event.key]) return BY_NAME[event.key];
    if (number !== null) return () => markDigit(number, event);
    return BY_LETTER[letter];
  }

  function showAdvance(isOn) {
    if (view.advances !== isOn) NP.say(isOn ? "Marks go on to the next image" : "Marks stay on the image");
    view.advances = isOn;
    document.body.classList.toggle("advances", isOn);
  }

  // After a click of the mouse the keyboard goes back to the images: Space opens one, and presses no button again.
  function backToImages(event) {
    if (event.detail === 0 || NP.dialogs.isOpen()) return;
    const pressed = event.target.closest?.("button, .choice");
    if (!pressed) return;
    setTimeout(() => {
      const { activeElement } = document;
      if (
        activeElement === document.body ||
        pressed.contains(activeElement) ||
        activeElement.matches("input[type=checkbox]")
      )
        NP.focusView();
    }, 0);
  }

  const isField = (node) => node.matches?.("textarea, select, input:not([type=checkbox], [type=range])");
  const wantsArrows = (node) => node.matches?.("input[type=range], summary");

  function onKey(event) {
    if (event.defaultPrevented || event.isComposing || NP.dialogs.isOpen() || !rows.length) return;
    const node = event.target;
    if (isField(node) || (wantsArrows(node) && /^(Arrow|Home|End|Page)/.test(event.key))) return;
    // Buttons and boxes keep Enter and Space.
    if ((event.key === "Enter" || event.key === " ") && node.matches("button, summary, input, a")) return;
    showAdvance(event.getModifierState("CapsLock"));
    const act = actOf(event);
    if (!act) return;
    event.preventDefault();
    act(event);
  }

  NP.keys = {
    start: () => {
      addEventListener("keydown", onKey);
      addEventListener("click", backToImages);
      addEventListener("keyup", (event) => showAdvance(event.getModifierState("CapsLock")));
    },
  };
}
