"use strict";
// One tile of the grid: a picture, and below it what was said about it.
{
  const { rows, marks, view, thumbs, el, icon } = NP;
  NP.tile = {};

  const STAR = "★";

  function starsNode() {
    return el("span", { class: "stars", "aria-hidden": "true" });
  }

  NP.tile.make = () => {
    const cell = el("div", { class: "cell", role: "gridcell" });
    const pic = el("div", { class: "pic" });
    const box = el("div", { class: "box" }, pic);
    const badge = el("span", { class: "badge", hidden: true });
    const flag = el("span", { class: "flag", "aria-hidden": "true" }, icon("pick"), icon("reject"));
    const others = el("span", { class: "others", "aria-hidden": "true" });
    const signs = el("span", { class: "signs", "aria-hidden": "true" });
    const foot = el("div", { class: "foot" }, flag, starsNode(), signs, others);
    const caption = el("div", { class: "caption", dir: "auto" });
    cell.append(box, badge, foot, caption);
    cell.parts = { pic, box, badge, flag, stars: foot.children[1], signs, others, caption };
    return cell;
  };

  function name(i) {
    const stack = view.stacks.get(i);
    const words = [NP.shorten(rows.prompt(i), 140) || rows.imageId[i]];
    const said = NP.inWords(marks.of(i));
    if (said) words.push(said);
    if (marks.changed.has(i)) words.push(NP.changedWords(i));
    if (marks.disagree(i)) words.push("reviewers disagree");
    if (stack?.isClosed) words.push(`stack of ${stack.members.length}`);
    if (rows.isClip(i)) words.push("clip");
    return words.join(", ");
  }

  function showBadge({ badge }, i) {
    const stack = view.stacks.get(i);
    const isCounted = stack && (stack.isClosed || stack.members[0] === i);
    badge.hidden = !isCounted && !rows.isClip(i);
    if (badge.hidden) return;
    badge.replaceChildren(icon(isCounted ? "stack" : "play"), isCounted ? String(stack.members.length) : "");
    badge.dataset.kind = isCounted ? "stack" : "clip";
  }

  function showSigns({ signs }, i, mark) {
    const found = [];
    if (marks.disagree(i)) found.push(el("span", { class: "disputed", title: "Reviewers disagree" }, icon("compare")));
    if (mark.comment) found.push(icon("comment"));
    if (marks.changed.has(i)) found.push(el("span", { class: "changed" }, icon("changed"), "changed"));
    signs.replaceChildren(...found);
  }

  // Initials of the others, with what they said: a tick, a cross, or stars.
  function showOthers({ others }, i) {
    const theirs = marks.ofOthers(i);
    if (!theirs.length && !others.firstChild) return;
    others.replaceChildren(
      ...theirs.slice(0, 4).map(({ reviewer, mark }) =>
        el("span", {
          class: "other",
          data: { flag: NP.FLAGS[mark.flag] },
          text: reviewer.slice(0, 2).toUpperCase() + (mark.stars && !mark.flag ? mark.stars : ""),
        }),
      ),
    );
  }

  NP.tile.showMarks = (cell, i) => {
    const mark = marks.of(i);
    const { dataset, parts } = cell;
    dataset.flag = NP.FLAGS[mark.flag];
    dataset.colour = NP.COLOURS[mark.colour];
    const stars = STAR.repeat(mark.stars);
    if (parts.stars.textContent !== stars) parts.stars.textContent = stars;
    if (mark.comment || marks.changed.has(i) || marks.disagree(i) || parts.signs.firstChild) showSigns(parts, i, mark);
    if (marks.others.size) showOthers(parts, i);
    else if (parts.others.firstChild) parts.others.replaceChildren();
    cell.setAttribute("aria-label", name(i));
  };

  NP.tile.showFocus = (cell, i) => {
    const isSelected = view.selected.size ? view.selected.has(i) : i === view.current;
    cell.setAttribute("aria-selected", isSelected);
    cell.classList.toggle("selected", isSelected);
    cell.classList.toggle("current", i === view.current);
  };

  // Binds a tile to an image. `measure`: {boxWidth, boxHeight} of pictures, in CSS pixels.
  NP.tile.show = (cell, i, measure) => {
    const { parts } = cell;
    const isOther = cell.image !== i || cell.measure !== measure;
    cell.image = i;
    cell.measure = measure;
    if (isOther) {
      if (thumbs.playingNode() === parts.pic) thumbs.stop();
      parts.pic.replaceChildren();
      const [width, height] = thumbs.fitted(i, measure.boxWidth, measure.boxHeight);
      cell.picture = { width, height };
      thumbs.show(parts.pic, i, width, height);
      cell.id = `image-${i}`;
      if (view.captions) parts.caption.textContent = NP.shorten(NP.captionOf(i), 160);
    }
    const stack = view.stacks.get(i);
    const isOpen = Boolean(stack) && !stack.isClosed;
    cell.classList.toggle("stacked", isOpen);
    cell.classList.toggle("covers", Boolean(stack?.isClosed));
    cell.classList.toggle("first-of-stack", isOpen && stack.members[0] === i);
    cell.classList.toggle("last-of-stack", isOpen && stack.members.at(-1) === i);
    showBadge(parts, i);
    NP.tile.showMarks(cell, i);
    NP.tile.showFocus(cell, i);
  };

  NP.captionOf = (i) => {
    const { group } = NP.order;
    if (group && group !== "id" && group !== "prompt") return rows.text(rows.byName.get(group), i) || "–";
    return rows.prompt(i);
  };
}
