"use strict";
// Which images are shown, and how many more each choice would show.
{
  const { rows, marks } = NP;
  const filters = {
    text: "",
    values: new Map(), // column -> set of codes
    ranges: new Map(), // column -> [low, high]
    flags: new Set(), // 0 unmarked, 1 picked, 2 rejected
    stars: 0, // at least
    colours: new Set(),
    decided: new Set(), // by the policy: 0 undecided, 1 picked, 2 rejected
    only: new Set(), // "changed", "disagree", "comment"
  };
  NP.filters = filters;
  filters.KINDS = ["values", "ranges", "flags", "colours", "decided", "only"];

  let failing; // how many filters each image fails
  let failed; // the last one that it fails
  let tests = []; // [{key, passes}]

  const folded = (text) => text.toLocaleLowerCase().normalize("NFKC");
  let foldedPrompts = null;

  // Words that must all occur, "phrases in quotes", and -words that must not.
  filters.words = (text) =>
    [...folded(text).matchAll(/(-?)(?:"([^"]+)"?|(\S+))/g)]
      .map(([, minus, phrase, word]) => ({ text: phrase ?? word, isWanted: !minus }))
      .filter((each) => each.text);

  function textTest() {
    const words = filters.words(filters.text);
    if (!words.length) return null;
    foldedPrompts ??= rows.prompts.values.map(folded);
    const found = foldedPrompts.map((prompt) =>
      words.every((each) => prompt.includes(each.text) === each.isWanted),
    );
    return (i) => found[rows.prompts.codes[i]];
  }

  function valueTest(column, chosen) {
    const isChosen = new Uint8Array(column.values.length + 1);
    for (const code of chosen) isChosen[code + 1] = 1;
    return (i) => isChosen[column.codes[i] + 1] === 1;
  }

  function markTests() {
    const own = marks.arrays();
    const found = [];
    if (filters.flags.size) found.push({ key: "flags", passes: (i) => filters.flags.has(own.flag[i]) });
    if (filters.stars) found.push({ key: "stars", passes: (i) => own.stars[i] >= filters.stars });
    if (filters.colours.size)
      found.push({ key: "colours", passes: (i) => filters.colours.has(own.colour[i]) });
    if (filters.decided.size)
      found.push({ key: "decided", passes: (i) => filters.decided.has(NP.policy.of(i)) });
    const kinds = {
      changed: (i) => marks.changed.has(i),
      disagree: marks.disagree,
      comment: filters.isCommented,
    };
    for (const kind of filters.only) found.push({ key: `only ${kind}`, passes: kinds[kind] });
    return found;
  }

  filters.isCommented = (i) => own("comment", i) !== "" || marks.ofOthers(i).some(({ mark }) => mark.comment);
  const own = (field, i) => marks.own(i, field);

  function collectTests() {
    const found = [];
    const passes = textTest();
    if (passes) found.push({ key: "text", passes });
    for (const [name, chosen] of filters.values) {
      if (chosen.size) found.push({ key: `value ${name}`, passes: valueTest(rows.byName.get(name), chosen) });
    }
    for (const [name, [low, high]] of filters.ranges) {
      const { values } = rows.byName.get(name);
      found.push({ key: `range ${name}`, passes: (i) => values[i] >= low && values[i] <= high });
    }
    return found.concat(markTests());
  }

  // Numbers of the images that pass every filter, in the order of the plan.
  filters.apply = () => {
    const { length } = rows;
    failing = new Uint8Array(length);
    failed = new Uint8Array(length);
    tests = collectTests();
    tests.forEach(({ passes }, t) => {
      for (let i = 0; i < length; i++) {
        if (passes(i)) continue;
        failing[i]++;
        failed[i] = t;
      }
    });
    const shown = new Int32Array(length);
    let count = 0;
    for (let i = 0; i < length; i++) if (failing[i] === 0) shown[count++] = i;
    return shown.subarray(0, count);
  };

  filters.passes = (i) => tests.every(({ passes }) => passes(i));

  // Calls `act` for each image that passes all filters but one: what a choice in that one would show.
  filters.eachBut = (key, act) => {
    const skipped = tests.findIndex((test) => test.key === key);
    for (let i = 0; i < rows.length; i++) {
      if (failing[i] === 0 || (failing[i] === 1 && failed[i] === skipped)) act(i);
    }
  };

  filters.counts = (column) => {
    const counts = new Int32Array(column.values.length + 1);
    filters.eachBut(`value ${column.name}`, (i) => counts[column.codes[i] + 1]++);
    return counts;
  };

  filters.isActive = () => tests.length > 0;

  filters.clear = () => {
    filters.text = "";
    filters.stars = 0;
    for (const each of filters.KINDS) filters[each].clear();
    NP.emit("filters", null);
  };

  filters.toggle = (set, value) => {
    if (!set.delete(value)) set.add(value);
    NP.emit("filters", null);
  };

  filters.toggleValue = (name, code) => {
    if (!filters.values.has(name)) filters.values.set(name, new Set());
    const chosen = filters.values.get(name);
    if (!chosen.delete(code)) chosen.add(code);
    if (!chosen.size) filters.values.delete(name);
    NP.emit("filters", null);
  };

  filters.setRange = (name, low, high) => {
    if (low === -Infinity && high === Infinity) filters.ranges.delete(name);
    else filters.ranges.set(name, [low, high]);
    NP.emit("filters", null);
  };

  // [{words, remove}] of everything that narrows the view.
  filters.chips = () => {
    const chips = [];
    const add = (words, remove) =>
      chips.push({
        words,
        remove: () => {
          remove();
          NP.emit("filters", null);
        },
      });
    if (filters.text.trim())
      add(`“${NP.shorten(filters.text.trim(), 40)}”`, () => {
        filters.text = "";
      });
    const flagWords = ["Unmarked", "Picked", "Rejected"];
    for (const flag of filters.flags) add(flagWords[flag], () => filters.flags.delete(flag));
    if (filters.stars)
      add(`${"★".repeat(filters.stars)} or more`, () => {
        filters.stars = 0;
      });
    for (const colour of filters.colours) {
      add(colour ? `Label ${NP.COLOURS[colour]}` : "No label", () => filters.colours.delete(colour));
    }
    const decidedWords = ["Undecided", "Picked", "Rejected"];
    for (const flag of filters.decided)
      add(`${decidedWords[flag]} ${NP.policy.words()}`, () => filters.decided.delete(flag));
    const onlyWords = { changed: "Changed since marked", disagree: "Disagreement", comment: "Commented" };
    for (const kind of filters.only) add(onlyWords[kind], () => filters.only.delete(kind));
    for (const [name, chosen] of filters.values) addValueChips(add, rows.byName.get(name), chosen);
    for (const [name, [low, high]] of filters.ranges) {
      const words = `${rows.byName.get(name).label} ${rangeWords(low, high)}`;
      add(words, () => filters.ranges.delete(name));
    }
    return chips;
  };

  function addValueChips(add, column, chosen) {
    const remove = (codes) => () => {
      for (const code of codes) chosen.delete(code);
      if (!chosen.size) filters.values.delete(column.name);
    };
    if (chosen.size > 4) {
      add(`${column.label}: ${chosen.size} values`, remove([...chosen]));
      return;
    }
    for (const code of chosen) {
      add(`${column.label}: ${code < 0 ? "none" : NP.shorten(column.values[code], 40)}`, remove([code]));
    }
  }

  function rangeWords(low, high) {
    if (low === -Infinity) return `≤ ${NP.figure(high)}`;
    if (high === Infinity) return `≥ ${NP.figure(low)}`;
    return `${NP.figure(low)} – ${NP.figure(high)}`;
  }
}
