"use strict";
// The filters at the side: one for each column, with counts that follow the other filters.
{
  const { rows, filters, el, icon } = NP;
  const facets = {};
  NP.facets = facets;

  const FEW = 8; // values shown of a column that has more than `SOME`
  const SOME = 12;
  const MOST = 200; // values shown of a column that is searched
  const OPEN_AT_FIRST = 6;
  const BARS = 32;

  // Columns of every run, by their names in the metadata.
  const SETTINGS = new Set([
    "id",
    "variant",
    "negative_prompt",
    "scheduler",
    "num_inference_steps",
    "guidance_scale",
    "model",
    "dtype",
    "speed",
    "mode",
    "strength",
    "size",
    "width",
    "height",
    "loras",
    "lora",
    "lora_scale",
    "controlnets",
    "references",
    "passes",
    "parent",
    "draw",
    "draws",
    "gate",
  ]);

  const sections = []; // {column, node, body, update}
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  // A box to tick, with how many images it would show.
  facets.choice = ({ label, count, isChosen, mark, toggle, none }) => {
    const box = el("input", { type: "checkbox", checked: isChosen, on: { change: toggle } });
    const name = el("span", {
      class: none ? "name none" : "name",
      dir: "auto",
      text: label,
      title: label.length > 24 ? label : null,
    });
    const number = el("span", { class: "count", text: NP.number(count) });
    return el(
      "label",
      { class: count || isChosen ? "choice" : "choice zero" },
      box,
      mark ?? null,
      name,
      number,
    );
  };

  function ordered(column, counts) {
    const codes = column.values.map((_, code) => code);
    if (column.numeric) return codes;
    return codes.sort(
      (a, b) => counts[b + 1] - counts[a + 1] || collator.compare(column.values[a], column.values[b]),
    );
  }

  function valuesToShow(section, counts) {
    const { column } = section;
    const chosen = filters.values.get(column.name) ?? new Set();
    const asked = section.search?.value.trim().toLocaleLowerCase() ?? "";
    let codes = ordered(column, counts);
    if (asked) codes = codes.filter((code) => column.values[code].toLocaleLowerCase().includes(asked));
    const most = section.isWhole ? MOST : column.values.length > SOME ? FEW : SOME;
    const shown = codes.filter((code) => chosen.has(code)).concat(codes.filter((code) => !chosen.has(code)));
    const visible = shown.slice(0, Math.max(most, Math.min(chosen.size, MOST)));
    if (column.numeric || codes.length <= most) visible.sort((a, b) => codes.indexOf(a) - codes.indexOf(b));
    return { visible, found: codes.length, chosen };
  }

  function choices(section, counts) {
    const { column } = section;
    const { visible, found, chosen } = valuesToShow(section, counts);
    const nodes = visible.map((code) =>
      facets.choice({
        label: column.values[code] === "" ? "empty text" : column.values[code],
        none: column.values[code] === "",
        count: counts[code + 1],
        isChosen: chosen.has(code),
        toggle: () => filters.toggleValue(column.name, code),
      }),
    );
    if (column.codes.includes(-1)) {
      const toggle = () => filters.toggleValue(column.name, -1);
      nodes.push(
        facets.choice({ label: "none", none: true, count: counts[0], isChosen: chosen.has(-1), toggle }),
      );
    }
    return { nodes, found, shown: visible.length };
  }

  function updateCategory(section) {
    const counts = filters.counts(section.column);
    const { nodes, found, shown } = choices(section, counts);
    const focused = focusedPlace(section.list);
    section.list.replaceChildren(...nodes);
    restoreFocus(section.list, focused);
    const total = section.column.values.length;
    section.more.hidden = total <= SOME;
    section.more.textContent = section.isWhole ? "Fewer" : `All ${NP.number(total)} values`;
    section.word.hidden = !section.isWhole || shown === found;
    section.word.textContent = `${NP.number(shown)} of ${NP.number(found)} shown: type to find others`;
    section.search.hidden = !section.isWhole;
  }

  // A box that is ticked is made anew: the focus goes to the one with the same words.
  function focusedPlace(list) {
    const label = document.activeElement?.closest?.(".choice");
    return label && list.contains(label) ? label.querySelector(".name").textContent : null;
  }
  function restoreFocus(list, words) {
    if (words === null) return;
    const label = [...list.children].find((each) => each.querySelector(".name").textContent === words);
    label?.querySelector("input").focus({ preventScroll: true });
  }

  function categorySection(section) {
    const { column } = section;
    section.list = el("div", { class: "choices" });
    section.search = el("input", {
      type: "search",
      class: "find",
      placeholder: `Find in ${NP.number(column.values.length)} values`,
      "aria-label": `Find a value of ${column.label}`,
      hidden: true,
      on: { input: NP.later(() => updateCategory(section), 80) },
    });
    section.word = el("p", { class: "word", hidden: true });
    section.more = el("button", { class: "more", type: "button", hidden: true });
    section.more.addEventListener("click", () => {
      section.isWhole = !section.isWhole;
      section.search.value = "";
      updateCategory(section);
      if (section.isWhole) section.search.focus();
    });
    section.body.append(section.search, section.list, section.word, section.more);
    section.update = () => updateCategory(section);
  }

  function extent(values) {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  }

  function bars(section) {
    const [low, high] = section.extent;
    const counts = new Int32Array(BARS);
    const { values } = section.column;
    const scale = high > low ? BARS / (high - low) : 0;
    filters.eachBut(`range ${section.column.name}`, (i) => {
      if (!Number.isNaN(values[i])) counts[Math.min(BARS - 1, Math.floor((values[i] - low) * scale))]++;
    });
    const most = Math.max(1, ...counts);
    const [from, to] = filters.ranges.get(section.column.name) ?? [-Infinity, Infinity];
    counts.forEach((count, bar) => {
      const node = section.bars.children[bar];
      node.style.height = `${count ? Math.max(6, (100 * count) / most) : 0}%`;
      const middle = low + (bar + 0.5) / (scale || 1);
      node.classList.toggle("out", middle < from || middle > to);
    });
  }

  function updateRange(section) {
    const [from, to] = filters.ranges.get(section.column.name) ?? [-Infinity, Infinity];
    const [low, high] = section.extent;
    const position = (value) => Math.round(((value - low) / (high - low || 1)) * 1000);
    section.low.value = from === -Infinity ? 0 : position(from);
    section.high.value = to === Infinity ? 1000 : position(to);
    section.from.value = from === -Infinity ? "" : NP.figure(from);
    section.to.value = to === Infinity ? "" : NP.figure(to);
    bars(section);
  }

  function readSliders(section) {
    const [low, high] = section.extent;
    const [a, b] = [Number(section.low.value), Number(section.high.value)].sort((x, y) => x - y);
    const value = (position) => Number((low + ((high - low) * position) / 1000).toPrecision(6));
    filters.setRange(section.column.name, a <= 0 ? -Infinity : value(a), b >= 1000 ? Infinity : value(b));
  }

  function readFields(section) {
    const number = (field, otherwise) =>
      field.value.trim() === "" || Number.isNaN(Number(field.value)) ? otherwise : Number(field.value);
    filters.setRange(section.column.name, number(section.from, -Infinity), number(section.to, Infinity));
  }

  function rangeSection(section) {
    const { column } = section;
    section.extent = extent(column.values);
    section.bars = el(
      "div",
      { class: "bars", "aria-hidden": "true" },
      ...Array.from({ length: BARS }, () => el("i")),
    );
    const slider = (words, value) =>
      el("input", {
        type: "range",
        min: 0,
        max: 1000,
        value,
        "aria-label": `${column.label}: ${words}`,
        on: { input: NP.later(() => readSliders(section), 60) },
      });
    section.low = slider("lowest", 0);
    section.high = slider("highest", 1000);
    const field = (words, value) =>
      el("input", {
        type: "text",
        inputmode: "decimal",
        placeholder: NP.figure(value),
        "aria-label": `${column.label}: ${words}`,
        on: { change: () => readFields(section) },
      });
    section.from = field("from", section.extent[0]);
    section.to = field("to", section.extent[1]);
    const fields = el("div", { class: "fields" }, section.from, el("span", { text: "to" }), section.to);
    section.body.append(section.bars, el("div", { class: "double" }, section.low, section.high), fields);
    section.update = () => updateRange(section);
  }

  function addSection(column, place) {
    const body = el("div", { class: "body" });
    const summary = el("summary", {}, el("span", { text: column.label }), icon("down"));
    const node = el("details", { class: "facet", open: place < OPEN_AT_FIRST }, summary, body);
    const section = { column, node, body, isWhole: false };
    if (column.kind === "number") rangeSection(section);
    else categorySection(section);
    node.addEventListener("toggle", () => node.open && section.update());
    sections.push(section);
    return node;
  }

  facets.update = () => {
    for (const section of sections) {
      if (section.node.open) section.update();
      const { name } = section.column;
      section.node.classList.toggle("used", filters.values.has(name) || filters.ranges.has(name));
    }
  };

  facets.start = (side) => {
    // What the manifest carries comes first, and of that columns of few values: they are what one chooses by.
    const rank = (column) =>
      (SETTINGS.has(column.name) ? 2 : 0) +
      (column.kind === "category" && column.values.length <= 60 ? 0 : 1);
    const columns = rows.columns.slice().sort((a, b) => rank(a) - rank(b));
    side.append(...columns.map(addSection));
    NP.on("list", facets.update);
  };
}
