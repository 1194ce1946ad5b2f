"use strict";
// Buttons that mark: pick, reject, stars, colours. They show what the image has.
{
  const { marks, view, el, icon } = NP;

  // `targets` gives the images that a press marks; the first is shown.
  NP.markBar = (targets, { isSmall = false } = {}) => {
    const press = (field, code) => () => {
      const [first] = targets();
      if (first === undefined) return;
      const isOn = field !== "stars" && marks.own(first, field) === code;
      NP.mark(field, isOn ? 0 : code, targets());
    };
    const flag = (name, code, words) =>
      el(
        "button",
        {
          type: "button",
          class: `flag-button ${name}`,
          title: words,
          "aria-label": words.split(" (")[0],
          on: { click: press("flag", code) },
        },
        icon(name),
      );
    const flags = [flag("pick", 1, "Pick (P)"), flag("reject", 2, "Reject (X)")];
    const stars = [1, 2, 3, 4, 5].map((n) =>
      el("button", {
        type: "button",
        class: "star",
        text: "★",
        title: `${NP.plural(n, "star")} (${n})`,
        "aria-label": NP.plural(n, "star"),
        on: { click: () => pressStar(n) },
      }),
    );
    const pressStar = (n) => {
      const [first] = targets();
      if (first !== undefined) NP.mark("stars", marks.own(first, "stars") === n ? 0 : n, targets());
    };
    const colours = NP.COLOURS.slice(1).map((name, k) =>
      el("button", {
        type: "button",
        class: "swatch",
        data: { colour: name },
        title: k < 4 ? `Label ${name} (${k + 6})` : `Label ${name}`,
        "aria-label": `Label ${name}`,
        on: { click: press("colour", k + 1) },
      }),
    );
    const group = (words, kind, nodes) =>
      el("div", { class: `mark-group ${kind}`, role: "group", "aria-label": words }, ...nodes);
    const node = el(
      "div",
      { class: isSmall ? "mark-bar small" : "mark-bar" },
      group("Flag", "flags", flags),
      group("Stars", "stars-group", stars),
      group("Colour label", "colours", colours),
    );

    const draw = () => {
      const [first] = targets();
      const mark = first === undefined ? { flag: 0, stars: 0, colour: 0 } : marks.of(first);
      flags.forEach((button, k) => button.setAttribute("aria-pressed", mark.flag === k + 1));
      stars.forEach((button, k) => {
        button.classList.toggle("on", k < mark.stars);
        button.setAttribute("aria-pressed", k + 1 === mark.stars);
      });
      colours.forEach((button, k) => button.setAttribute("aria-pressed", mark.colour === k + 1));
      for (const button of [...flags, ...stars, ...colours])
        button.disabled = first === undefined || NP.rows.run.read_only;
    };
    return { node, draw };
  };

  function words(field, code, count) {
    const said = {
      flag: ["Flag removed", "Picked", "Rejected"][code],
      stars: code ? "★".repeat(code) : "No stars",
      colour: code ? `Label ${NP.COLOURS[code]}` : "Label removed",
    }[field];
    return count > 1 ? `${said}: ${NP.plural(count, "image")}` : said;
  }

  // Marks images, says so, and goes on to the next where that is wanted.
  NP.mark = (field, code, images = view.targets(), { advance = false } = {}) => {
    if (!images.length) return;
    view.stayHere();
    const count = marks.set(images, field, code);
    if (NP.rows.run.read_only) return;
    if (count) NP.toast(words(field, code, images.length), { seconds: 1.2 });
    const isOne = images.length === 1 && images[0] === view.current;
    if ((advance || view.advances) && isOne) NP.advance();
  };

  NP.advance = () => {
    if (view.mode === "compare" || view.mode === "survey") NP.panes.move(1);
    else if (view.place(view.current) + 1 >= view.list.length) NP.toast("That was the last image shown");
    else view.move(1);
  };
}
