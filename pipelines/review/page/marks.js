"use strict";
// The marks: my own, those bound to an earlier picture of the same name, and those of others.
{
  const { rows } = NP;
  const marks = { clock: 0, others: new Map(), changed: new Map(), blind: false, picked: 0, rejected: 0 };
  NP.marks = marks;

  const past = [];
  const future = [];
  let own, counters, disagreeing;
  const earlier = new Map(); // "image field" -> counter of a mark on an earlier picture

  marks.start = () => {
    const { length } = rows;
    own = {
      flag: new Uint8Array(length),
      stars: new Uint8Array(length),
      colour: new Uint8Array(length),
      comment: new Map(),
    };
    counters = new Float64Array(length * NP.FIELDS.length);
    disagreeing = new Uint8Array(length);
  };

  marks.own = (i, field) => (field === "comment" ? (own.comment.get(i) ?? "") : own[field][i]);
  marks.of = (i) => ({
    flag: own.flag[i],
    stars: own.stars[i],
    colour: own.colour[i],
    comment: own.comment.get(i) ?? "",
  });
  marks.arrays = () => own;

  // Who has marked anything in this run, an image of an earlier name and marks taken back included.
  let spoken = new Set(); // the others, as the server or the file names them
  let hasMarked = false;
  marks.hearReviewers = (names) => {
    spoken = new Set(names ?? []);
  };
  marks.reviewers = () => {
    const found = new Set([...spoken, ...marks.others.keys()]);
    if (hasMarked) found.add(rows.run.reviewer);
    return found;
  };

  marks.isMarked = (i) => own.flag[i] || own.stars[i] || own.colour[i] || own.comment.has(i);

  function count(code, by) {
    if (code === 1) marks.picked += by;
    if (code === 2) marks.rejected += by;
  }

  function put(i, field, code) {
    if (field === "comment") {
      if (code) own.comment.set(i, code);
      else own.comment.delete(i);
      return;
    }
    if (field === "flag") {
      count(own.flag[i], -1);
      count(code, 1);
    }
    own[field][i] = code;
  }

  function putEarlier(i, field, value, counter) {
    const key = `${i} ${field}`;
    if ((earlier.get(key) ?? -1) >= counter) return;
    earlier.set(key, counter);
    const mark = marks.changed.get(i) ?? { flag: 0, stars: 0, colour: 0, comment: "" };
    mark[field] = NP.toCode(field, value);
    if (NP.inWords(mark)) marks.changed.set(i, mark);
    else marks.changed.delete(i);
  }

  // A mark of mine that was stored, here or by the server: the highest counter stands.
  function receiveOwn({ image_id, sha256, field, value, counter }) {
    const i = rows.byId.get(image_id);
    const f = NP.FIELDS.indexOf(field);
    if (i === undefined || f < 0) return false;
    hasMarked = true;
    if (sha256 !== rows.sha[i]) {
      putEarlier(i, field, value, counter);
      return true;
    }
    const place = i * NP.FIELDS.length + f;
    if (counters[place] >= counter) return false;
    counters[place] = counter;
    put(i, field, NP.toCode(field, value));
    return true;
  }

  // A mark on the picture as it is now, even that it has none, settles what was said of an earlier one.
  const wasMarkedSince = (i) => NP.FIELDS.some((_, f) => counters[i * NP.FIELDS.length + f] > 0);

  function receiveOther({ reviewer, image_id, sha256, field, value }) {
    const i = rows.byId.get(image_id);
    if (i === undefined || !NP.FIELDS.includes(field) || sha256 !== rows.sha[i]) return;
    if (!marks.others.has(reviewer)) marks.others.set(reviewer, new Map());
    const theirs = marks.others.get(reviewer);
    if (!theirs.has(i)) theirs.set(i, { flag: 0, stars: 0, colour: 0, comment: "" });
    theirs.get(i)[field] = NP.toCode(field, value);
  }

  // Takes what `/api/marks` gives, or what this browser kept. Marks of others replace what was known of them.
  marks.receive = (list, { replaceOthers = false } = {}) => {
    if (replaceOthers) marks.others.clear();
    let came = 0;
    for (const mark of list) {
      if (mark.counter > marks.clock) marks.clock = mark.counter;
      if (mark.reviewer === undefined || mark.reviewer === rows.run.reviewer)
        came += receiveOwn(mark) ? 1 : 0;
      else receiveOther(mark);
    }
    for (const i of marks.changed.keys()) if (wasMarkedSince(i)) marks.changed.delete(i);
    compareAll();
    NP.emit("marks", null);
    return came;
  };

  // "Changed since you picked it (picked, 3 stars)".
  NP.changedWords = (i) => {
    const mark = marks.changed.get(i);
    const act = ["marked", "picked", "rejected"][mark.flag];
    return `Changed since you ${act} it (${NP.inWords(mark)})`;
  };

  // How many reviewers left no flag, picked and rejected an image.
  marks.votes = (i) => {
    const votes = [0, 0, 0];
    votes[own.flag[i]]++;
    for (const theirs of marks.others.values()) votes[theirs.get(i)?.flag ?? 0]++;
    return votes;
  };
  marks.flagBy = (reviewer, i) =>
    reviewer === rows.run.reviewer ? own.flag[i] : (marks.others.get(reviewer)?.get(i)?.flag ?? 0);

  const FAR_APART = 2; // stars
  function isDisputed(i) {
    let bits = own.flag[i];
    let [fewest, most] = own.stars[i] ? [own.stars[i], own.stars[i]] : [9, 0];
    for (const theirs of marks.others.values()) {
      const mark = theirs.get(i);
      bits |= mark?.flag ?? 0;
      if (!mark?.stars) continue;
      fewest = Math.min(fewest, mark.stars);
      most = Math.max(most, mark.stars);
    }
    return bits === 3 || most - fewest >= FAR_APART;
  }

  function compareAll() {
    disagreeing.fill(0);
    for (const theirs of marks.others.values()) {
      for (const i of theirs.keys()) if (isDisputed(i)) disagreeing[i] = 1;
    }
  }

  marks.disagree = (i) => !marks.blind && disagreeing[i] === 1;

  // [{reviewer, mark}] of the others, unless this reviewer asked not to see them.
  marks.ofOthers = (i) => {
    if (marks.blind) return [];
    const found = [];
    for (const [reviewer, theirs] of marks.others) {
      const mark = theirs.get(i);
      if (mark && NP.inWords(mark)) found.push({ reviewer, mark });
    }
    return found;
  };

  function apply(changes, side) {
    hasMarked = true;
    const stored = [];
    const touched = new Set();
    for (const change of changes) {
      const counter = ++marks.clock;
      counters[change.i * NP.FIELDS.length + NP.FIELDS.indexOf(change.field)] = counter;
      put(change.i, change.field, change[side]);
      disagreeing[change.i] = marks.others.size && isDisputed(change.i) ? 1 : 0;
      touched.add(change.i);
      stored.push({
        image_id: rows.imageId[change.i],
        sha256: rows.sha[change.i],
        field: change.field,
        value: NP.toValue(change.field, change[side]),
        counter,
      });
    }
    NP.delivery.keep(stored);
    NP.emit("marks", touched);
  }

  // Sets a field of images. Returns how many changed; nothing changes in a read-only run.
  marks.set = (images, field, code) => {
    if (rows.run.read_only) {
      NP.toast("This page is read-only: marks cannot be made here");
      return 0;
    }
    const changes = [];
    for (const i of images) {
      const before = marks.own(i, field);
      const isConfirmed = before === code && !marks.changed.has(i);
      if (!isConfirmed) changes.push({ i, field, before, after: code });
    }
    if (!changes.length) return 0;
    past.push(changes);
    future.length = 0;
    for (const { i } of changes) marks.changed.delete(i);
    apply(changes, "after");
    return changes.length;
  };

  function move(from, to, side, word) {
    const changes = from.pop();
    if (!changes) {
      NP.toast(`Nothing to ${word}`);
      return null;
    }
    to.push(changes);
    apply(changes, side);
    return changes;
  }

  // The steps that can be undone outlive a reload, in this window.
  const MOST_KEPT = 1000;
  const historyKey = () => `nightpress-undo:${rows.run.id}`;
  marks.keepHistory = () => {
    const steps = past
      .slice(-MOST_KEPT)
      .map((step) => step.map((each) => [rows.imageId[each.i], each.field, each.before, each.after]));
    try {
      sessionStorage.setItem(historyKey(), JSON.stringify(steps));
    } catch {
      // without room for it, undo begins anew after a reload
    }
  };
  marks.takeUpHistory = () => {
    let steps = [];
    try {
      steps = JSON.parse(sessionStorage.getItem(historyKey()) ?? "[]");
    } catch {
      return;
    }
    for (const step of steps) {
      const changes = step.map(([id, field, before, after]) => ({
        i: rows.byId.get(id),
        field,
        before,
        after,
      }));
      if (changes.every(({ i }) => i !== undefined)) past.push(changes);
    }
  };

  marks.undo = () => move(past, future, "before", "undo");
  marks.redo = () => move(future, past, "after", "redo");
  marks.canUndo = () => past.length > 0;
}
