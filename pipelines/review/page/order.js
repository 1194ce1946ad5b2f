"use strict";
// The order of the images shown: sorted, and grouped so that variants stand together.
{
  const { rows, marks } = NP;
  const order = { by: "", descending: false, group: "", closed: false, opened: new Set(), shut: new Set() };
  NP.order = order;

  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  function ranks(values) {
    const sorted = values.map((_, code) => code).sort((a, b) => collator.compare(values[a], values[b]));
    const found = new Float64Array(values.length);
    sorted.forEach((code, rank) => {
      found[code] = rank;
    });
    return found;
  }

  // A number for each image by which it is sorted; NaN, which comes last, for those without a value.
  function keys(by) {
    const own = marks.arrays();
    if (by === "stars") return (i) => own.stars[i];
    if (by === "flag") return (i) => [1, 0, 2][own.flag[i]];
    const column = rows.byName.get(by);
    if (column.kind === "number") return (i) => column.values[i];
    const found = column.numeric ? column.values.map((_, code) => code) : ranks(column.values);
    return (i) => (column.codes[i] < 0 ? NaN : found[column.codes[i]]);
  }

  order.sorted = (images) => {
    if (!order.by) return images;
    const keyOf = keys(order.by);
    const values = new Float64Array(rows.length);
    for (const i of images) values[i] = keyOf(i);
    const sign = order.descending ? -1 : 1;
    return images.slice().sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (x === y) return a - b;
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;
      return sign * (x - y);
    });
  };

  // Groups in the order of their first image: [[image, ...], ...].
  function groups(images) {
    const column = rows.byName.get(order.group);
    const found = new Map();
    for (const i of images) {
      const code = column.codes[i];
      const key = code < 0 ? `alone ${i}` : code;
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(i);
    }
    return [...found.values()];
  }

  order.groupKey = (i) => rows.byName.get(order.group)?.codes[i] ?? -1;
  order.isClosed = (i) => {
    const key = order.groupKey(i);
    return order.closed ? !order.opened.has(key) : order.shut.has(key);
  };

  // What stands for a closed stack: a picked image, else the one with most stars, else the first not rejected.
  order.cover = (members) => {
    const own = marks.arrays();
    const worth = (i) => [0, 100, -100][own.flag[i]] + own.stars[i];
    return members.reduce((best, i) => (worth(i) > worth(best) ? i : best), members[0]);
  };

  // {list, stacks}: the images shown, and for each that begins or covers a stack how large that is.
  order.stacked = (images) => {
    const stacks = new Map();
    if (!rows.byName.has(order.group)) return { list: images, stacks };
    const list = [];
    for (const members of groups(images)) {
      if (members.length > 1 && order.isClosed(members[0])) {
        const cover = order.cover(members);
        stacks.set(cover, { members, isClosed: true });
        list.push(cover);
        continue;
      }
      const stack = members.length > 1 ? { members, isClosed: false } : null;
      for (const i of members) {
        if (stack) stacks.set(i, stack);
        list.push(i);
      }
    }
    return { list: Int32Array.from(list), stacks };
  };

  order.toggleStack = (i) => {
    const key = order.groupKey(i);
    const set = order.closed ? order.opened : order.shut;
    if (!set.delete(key)) set.add(key);
    NP.emit("order", null);
  };

  order.toggleAll = () => {
    order.closed = !order.closed;
    order.opened.clear();
    order.shut.clear();
    NP.emit("order", null);
  };
}
