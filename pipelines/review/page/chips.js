"use strict";
// Above the grid: what narrows the view, each with a way to take it away; and what is said where nothing is shown.
{
  const { rows, view, filters, el, icon } = NP;

  function drawChips() {
    const chips = filters.chips();
    const box = NP.byId("chips");
    const stale = view.stale();
    box.hidden = !chips.length;
    box.replaceChildren(
      ...chips.map(({ words, remove }) =>
        el(
          "button",
          { type: "button", class: "chip", "aria-label": `Remove: ${words}`, on: { click: remove } },
          el("span", { dir: "auto", text: words }),
          icon("reject"),
        ),
      ),
      chips.length > 1
        ? el("button", {
            type: "button",
            class: "chip clear",
            text: "Clear all",
            on: { click: filters.clear },
          })
        : "",
      stale
        ? el("button", {
            type: "button",
            class: "chip stale",
            text: `${NP.plural(stale, "image")} marked since: refresh (R)`,
            on: { click: view.refresh },
          })
        : "",
    );
  }

  function drawEmpty() {
    const empty = NP.byId("empty");
    empty.hidden = view.list.length > 0;
    if (!empty.hidden) empty.replaceChildren(...emptyWords());
  }

  const emptyWords = () => {
    if (!rows.length)
      return [
        el("h2", { text: "No images yet" }),
        el("p", {
          text: rows.run.complete
            ? "This run has no image that could be shown."
            : "The run has not stored an image yet. Reload the page later.",
        }),
      ];
    return [
      el("h2", { text: "No image fits these filters" }),
      el("button", {
        type: "button",
        class: "small-button",
        text: "Clear all filters",
        on: { click: filters.clear },
      }),
    ];
  };

  NP.chips = {
    start: () => {
      NP.on("list", drawChips);
      NP.on("list", drawEmpty);
      NP.on("marks", NP.later(drawChips, 250));
    },
  };
}
