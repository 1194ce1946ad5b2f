"use strict";
// The filters by mark, at the top of the side: flags, stars, colours, and what wants a look.
{
  const { rows, marks, filters, facets, el, icon } = NP;
  let nodes;

  const FLAG_WORDS = [
    [1, "Picked", "pick"],
    [2, "Rejected", "reject"],
    [0, "Unmarked", "none"],
  ];
  const DECIDED_WORDS = [FLAG_WORDS[0], FLAG_WORDS[1], [0, "Undecided", "none"]];
  const KINDS = [
    ["changed", "Changed since marked", "changed"],
    ["disagree", "Disagreement", "compare"],
    ["comment", "Commented", "comment"],
  ];

  function countsOf(key, codeOf) {
    const counts = [0, 0, 0];
    filters.eachBut(key, (i) => counts[codeOf(i)]++);
    return counts;
  }

  function kindCount(kind) {
    let count = 0;
    const has = {
      changed: (i) => marks.changed.has(i),
      disagree: marks.disagree,
      comment: filters.isCommented,
    }[kind];
    filters.eachBut(`only ${kind}`, (i) => {
      if (has(i)) count++;
    });
    return count;
  }

  function signed(name) {
    const node = icon(name);
    node.classList.add("sign", name);
    return node;
  }

  // Boxes for three flags; the one that has the focus keeps it.
  function drawThree(node, words, counts, chosen) {
    const focused = [...node.children].findIndex((each) => each.contains(document.activeElement));
    node.replaceChildren(
      ...words.map(([flag, label, name]) =>
        facets.choice({
          label,
          count: counts[flag],
          mark: signed(name),
          isChosen: chosen.has(flag),
          toggle: () => filters.toggle(chosen, flag),
        }),
      ),
    );
    node.children[focused]?.querySelector("input").focus({ preventScroll: true });
  }

  function drawFlags() {
    const { flag } = marks.arrays();
    drawThree(
      nodes.flags,
      FLAG_WORDS,
      countsOf("flags", (i) => flag[i]),
      filters.flags,
    );
  }

  // Under the policy, once somebody else has a say.
  function drawDecided() {
    const { policy } = NP;
    nodes.decision.hidden = !policy.isShown();
    if (nodes.decision.hidden) return;
    nodes.policy.textContent = `Decided ${policy.words()}`;
    nodes.waiting.hidden = !policy.isWaiting();
    nodes.waiting.textContent = `${policy.lead} has marked nothing yet.`;
    drawThree(nodes.decided, DECIDED_WORDS, countsOf("decided", policy.of), filters.decided);
  }

  function drawKinds() {
    const shown = KINDS.map(([kind, label, name]) => ({ kind, label, name, count: kindCount(kind) }));
    nodes.kinds.replaceChildren(
      ...shown
        .filter(({ kind, count }) => count || filters.only.has(kind))
        .map(({ kind, label, name, count }) =>
          facets.choice({
            label,
            count,
            mark: signed(name),
            isChosen: filters.only.has(kind),
            toggle: () => filters.toggle(filters.only, kind),
          }),
        ),
    );
  }

  function setStars(stars) {
    filters.stars = filters.stars === stars ? 0 : stars;
    NP.emit("filters", null);
  }

  function makeStars() {
    return [1, 2, 3, 4, 5].map((stars) =>
      el("button", {
        type: "button",
        class: "star",
        text: "★",
        title: `${NP.plural(stars, "star")} or more`,
        "aria-label": `${NP.plural(stars, "star")} or more`,
        on: { click: () => setStars(stars) },
      }),
    );
  }

  function makeColours() {
    return NP.COLOURS.slice(1).map((name, k) =>
      el("button", {
        type: "button",
        class: "swatch",
        data: { colour: name },
        title: `Label ${name}`,
        "aria-label": `Label ${name}`,
        on: { click: () => filters.toggle(filters.colours, k + 1) },
      }),
    );
  }

  function draw() {
    drawFlags();
    drawDecided();
    drawKinds();
    nodes.stars.forEach((button, k) => {
      button.classList.toggle("on", k < filters.stars);
      button.setAttribute("aria-pressed", filters.stars === k + 1);
    });
    nodes.colours.forEach((button, k) => button.setAttribute("aria-pressed", filters.colours.has(k + 1)));
  }

  NP.markFacets = {
    start: (side) => {
      nodes = {
        flags: el("div", { class: "choices", id: "flag-choices" }),
        kinds: el("div", { class: "choices" }),
        policy: el("h3", { class: "policy", id: "policy-name" }),
        waiting: el("p", { class: "word" }),
        decided: el("div", { class: "choices", role: "group", "aria-labelledby": "policy-name" }),
        stars: makeStars(),
        colours: makeColours(),
      };
      const { policy, waiting, decided } = nodes;
      nodes.decision = el("div", { class: "decision", hidden: true }, policy, waiting, decided);
      const line = el(
        "div",
        { class: "mark-line" },
        el("div", { class: "star-choice", role: "group", "aria-label": "Stars, at least" }, ...nodes.stars),
        el("div", { class: "colour-choice", role: "group", "aria-label": "Colour labels" }, ...nodes.colours),
      );
      side.append(el("section", { class: "facet marks" }, nodes.flags, line, nodes.kinds, nodes.decision));
      NP.on("list", draw);
      NP.on(
        "marks",
        NP.later(() => rows.length && draw(), 120),
      );
    },
  };
}
