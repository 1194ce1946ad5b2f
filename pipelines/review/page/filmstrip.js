"use strict";
// The strip of neighbours below a single image; only those in sight are in the page.
{
  const { view, thumbs, marks, el, icon } = NP;
  const SIDE = 64;
  const STEP = SIDE + 6;
  const BEYOND = 3;

  NP.filmstrip = (choose) => {
    const track = el("div", { class: "track" });
    const node = el("div", { class: "filmstrip", "aria-hidden": "true" }, track);
    const shown = new Map(); // place -> element

    function make() {
      const pic = el("div", { class: "pic" });
      const cell = el(
        "div",
        { class: "film" },
        pic,
        el("span", { class: "flag" }, icon("pick"), icon("reject")),
      );
      cell.pic = pic;
      track.append(cell);
      return cell;
    }

    function fill(cell, place) {
      const i = view.list[place];
      cell.image = i;
      cell.style.transform = `translateX(${place * STEP}px)`;
      const [width, height] = thumbs.fitted(i, SIDE, SIDE);
      thumbs.show(cell.pic, i, width, height);
      const mark = marks.of(i);
      cell.dataset.flag = NP.FLAGS[mark.flag];
      cell.dataset.colour = NP.COLOURS[mark.colour];
      cell.classList.toggle("current", i === view.current);
    }

    const draw = () => {
      if (!node.clientWidth) return;
      const first = Math.max(0, Math.floor(node.scrollLeft / STEP) - BEYOND);
      const last = Math.min(
        view.list.length,
        Math.ceil((node.scrollLeft + node.clientWidth) / STEP) + BEYOND,
      );
      const free = [];
      for (const [place, cell] of shown) {
        if (place >= first && place < last) continue;
        shown.delete(place);
        free.push(cell);
      }
      for (let place = first; place < last; place++) {
        const cell = shown.get(place) ?? free.pop() ?? make();
        shown.set(place, cell);
        fill(cell, place);
      }
      for (const cell of free) cell.remove();
    };

    const centre = () => {
      track.style.width = `${view.list.length * STEP}px`;
      const left = view.place(view.current) * STEP + STEP / 2 - node.clientWidth / 2;
      if (Math.abs(node.scrollLeft - left) > 2) node.scrollLeft = left;
      draw();
    };

    node.addEventListener("scroll", NP.inFrame(draw), { passive: true });
    node.addEventListener("click", (event) => {
      const cell = event.target.closest(".film");
      if (cell) choose(cell.image);
    });
    return { node, draw, centre };
  };
}
