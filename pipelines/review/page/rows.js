"use strict";
// The images of the run, by number: columns, prompts, and where each picture is.
{
  const rows = { length: 0, columns: [], byName: new Map(), byId: new Map(), failed: [], constants: {} };
  NP.rows = rows;

  function category(name, label, values, codes) {
    return { name, label, kind: "category", values, codes: Int32Array.from(codes) };
  }

  const capital = (text) => text.slice(0, 1).toLocaleUpperCase() + text.slice(1);

  function prepared(column) {
    const label = capital(column.label || column.name);
    if (column.kind === "category") {
      const values = column.values.map((value) => String(value));
      return category(column.name, label, values, column.codes);
    }
    const values = Float64Array.from(column.values, (value) => (value === null ? NaN : value));
    const distinct = new Set();
    for (const value of values) {
      if (!Number.isNaN(value)) distinct.add(value);
      if (distinct.size > 12) break;
    }
    // A few values (steps, guidance) are picked from a list, as categories are.
    if (distinct.size > 12) return { name: column.name, label, kind: "number", values };
    const sorted = [...distinct].sort((a, b) => a - b);
    const codes = Array.from(values, (value) => (Number.isNaN(value) ? -1 : sorted.indexOf(value)));
    return { ...category(column.name, label, sorted.map(NP.figure), codes), numeric: true };
  }

  // A category of what each image has, in the order in which it first occurs.
  function derived(name, label, valueOf) {
    const values = [];
    const seen = new Map();
    const codes = new Int32Array(rows.length);
    for (let i = 0; i < rows.length; i++) {
      const value = valueOf(i);
      if (!seen.has(value)) {
        seen.set(value, values.length);
        values.push(value);
      }
      codes[i] = seen.get(value);
    }
    return { name, label, kind: "category", values, codes, derived: true };
  }

  function addDerived() {
    if (!["width", "height", "size"].some((name) => rows.byName.has(name))) {
      const size = derived("size", "Size", (i) => `${rows.width[i]} × ${rows.height[i]}`);
      if (size.values.length > 1) rows.columns.push(size);
    }
    if (!rows.byName.has("id")) {
      const id = derived("id", "Row", (i) => rows.imageId[i].replace(/_\d+$/, ""));
      rows.groupOnly.push(id);
    }
    rows.groupOnly.push({ name: "prompt", label: "Prompt", kind: "category", ...rows.prompts });
    for (const column of [...rows.columns, ...rows.groupOnly]) rows.byName.set(column.name, column);
  }

  rows.fill = (answer) => {
    Object.assign(rows, {
      run: answer.run,
      length: answer.length,
      imageId: answer.image_id,
      sha: answer.sha256,
      prompts: { values: answer.prompt.values, codes: Int32Array.from(answer.prompt.codes) },
      width: answer.width,
      height: answer.height,
      failed: answer.failed ?? [],
      constants: answer.constants ?? {},
      thumbs: answer.thumbs,
      strips: answer.strips,
      mediaType: answer.media_type,
      numFrames: answer.num_frames,
      images: answer.images,
      inputs: (answer.inputs ?? []).map((each) => ({
        ...each,
        // The row of each image made from such a picture, and which picture of the page that is.
        has: new Map(each.rows.map((i, k) => [i, each.pictures?.[k]])),
      })),
      pictures: answer.pictures ?? [],
      groupOnly: [],
    });
    rows.columns = answer.columns.map(prepared);
    for (const column of rows.columns) rows.byName.set(column.name, column);
    addDerived();
    rows.imageId.forEach((id, i) => rows.byId.set(id, i));
  };

  rows.prompt = (i) => rows.prompts.values[rows.prompts.codes[i]] ?? "";

  // The text of a value; empty where the image has none.
  rows.text = (column, i) => {
    if (column.kind === "number") return NP.figure(column.values[i]);
    return column.codes[i] < 0 ? "" : column.values[column.codes[i]];
  };

  rows.url = (i) => {
    if (rows.images) return rows.images[i];
    return NP.isStatic ? null : `image/${encodeURIComponent(rows.imageId[i])}?v=${rows.sha[i]}`;
  };
  rows.isVideo = (i) => Boolean(rows.mediaType?.values[rows.mediaType.codes[i]]?.startsWith("video/"));
  rows.isClip = (i) => (rows.numFrames?.[i] ?? 1) > 1;
  // A page without a server has the pictures themselves, or not all of them.
  rows.inputsOf = (i) =>
    rows.inputs.filter((each) => (NP.isStatic ? each.has.get(i) >= 0 : each.has.has(i)));
  rows.inputUrl = (i, column) => {
    if (!NP.isStatic) return `input/${encodeURIComponent(rows.imageId[i])}/${encodeURIComponent(column)}`;
    return rows.pictures[rows.inputs.find((each) => each.column === column).has.get(i)];
  };

  // How high pictures are for their width: the box of a tile fits nearly all of them.
  rows.tallest = () => {
    const ratios = Array.from({ length: Math.min(rows.length, 4096) }, (_, k) => {
      const i = Math.floor((k * rows.length) / Math.min(rows.length, 4096));
      return rows.height[i] / rows.width[i];
    }).sort((a, b) => a - b);
    return NP.clamp(ratios[Math.floor(ratios.length * 0.95)] ?? 1, 0.5, 1.25);
  };
}
