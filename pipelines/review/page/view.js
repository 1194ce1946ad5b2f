"use strict";
// What is looked at: the list of images shown, the current one, the selection, and the way of looking.
{
  const { rows, filters, order } = NP;
  const view = {
    list: new Int32Array(0),
    stacks: new Map(),
    matching: 0, // images that pass the filters, those inside closed stacks too
    current: -1, // the number of an image, -1 while none is shown
    selected: new Set(),
    mode: "grid",
    advances: false, // to the next image after each mark
    size: innerWidth < 760 ? 112 : 208, // wished width of a thumbnail, in CSS pixels
    captions: false,
  };
  NP.view = view;

  let places = new Int32Array(0); // image -> its place in the list, -1 if it is not shown
  let anchor = -1;
  let chosen = -1; // the image that was last gone to: a filter that hides it gives it back when it is taken away

  view.stayHere = () => {
    chosen = view.current;
  };

  view.place = (i) => (i < 0 ? -1 : (places[i] ?? -1));
  view.at = (place) => view.list[NP.clamp(place, 0, view.list.length - 1)] ?? -1;

  // The current image stays; if it is gone, the next one that is still shown takes its place.
  function nearest(before, i) {
    if (i >= 0 && places[i] >= 0) return i;
    const cover = i >= 0 && rows.byName.has(order.group) ? coverOf(i) : -1;
    if (cover >= 0) return cover;
    const from = before.indexOf(i);
    for (let k = Math.max(0, from); k < before.length; k++) if (places[before[k]] >= 0) return before[k];
    for (let k = from - 1; k >= 0; k--) if (places[before[k]] >= 0) return before[k];
    return view.list[0] ?? -1;
  }

  // The cover of the closed stack that an image is in.
  function coverOf(i) {
    for (const [cover, stack] of view.stacks) if (stack.isClosed && stack.members.includes(i)) return cover;
    return -1;
  }

  view.refresh = () => {
    const before = view.list;
    const passing = filters.apply();
    const { list, stacks } = order.stacked(order.sorted(passing));
    view.list = list;
    view.stacks = stacks;
    view.matching = passing.length;
    places = new Int32Array(rows.length).fill(-1);
    list.forEach((i, place) => {
      places[i] = place;
    });
    const kept = [...view.selected].filter((i) => places[i] >= 0);
    view.selected = new Set(kept);
    if (anchor >= 0 && places[anchor] < 0) anchor = -1;
    view.current = places[chosen] >= 0 ? chosen : nearest(before, view.current);
    if (chosen < 0) chosen = view.current;
    NP.emit("list", null);
    NP.emit("current", null);
  };

  // How many images in view no longer pass the filters, since they were marked.
  view.stale = () => {
    let count = 0;
    if (filters.isActive()) for (const i of view.list) if (!filters.passes(i)) count++;
    return count;
  };

  view.go = (i, { extend = false, keep = false } = {}) => {
    if (i < 0) return;
    if (extend) selectTo(i);
    else if (!keep) {
      view.selected.clear();
      anchor = i;
    }
    view.current = i;
    chosen = i;
    NP.emit("current", null);
  };

  view.move = (by, options) => view.go(view.at(view.place(view.current) + by), options);

  function selectTo(i) {
    if (anchor < 0) anchor = view.current;
    const [from, to] = [view.place(anchor), view.place(i)].sort((a, b) => a - b);
    view.selected = new Set(view.list.subarray(from, to + 1));
  }

  view.toggle = (i) => {
    if (!view.selected.size && view.current >= 0 && view.current !== i) view.selected.add(view.current);
    if (!view.selected.delete(i)) view.selected.add(i);
    anchor = i;
    view.current = i;
    chosen = i;
    NP.emit("current", null);
  };

  view.selectAll = () => {
    view.selected = new Set(view.list);
    NP.say(`${NP.plural(view.list.length, "image")} selected`);
    NP.emit("current", null);
  };
  view.selectNone = () => {
    view.selected.clear();
    anchor = view.current;
    NP.emit("current", null);
  };

  // What a mark is for: in the grid the selection (of a closed stack its cover), elsewhere the current image.
  view.targets = () => {
    if (view.current < 0) return [];
    if (view.mode !== "grid") return [view.current];
    return view.selected.size > 1 ? [...view.selected] : [view.current];
  };

  view.setMode = (mode) => {
    if (view.mode === mode) return;
    const before = view.mode;
    view.mode = mode;
    document.body.dataset.mode = mode;
    NP.emit("mode", before);
    NP.emit("current", null);
  };

  NP.on("filters order", view.refresh);
}
