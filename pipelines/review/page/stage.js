"use strict";
// A picture that is zoomed and panned. Stages that share a `Zoom` move together.
{
  const { rows, thumbs, el } = NP;
  const LARGEST = 16; // times 100%

  // How far in (1 fits the stage) and which point of the picture, from 0 to 1, is in the middle.
  NP.Zoom = class {
    constructor() {
      this.stages = new Set();
      this.fit();
    }
    fit() {
      this.set(1, 0.5, 0.5);
    }
    set(scale, x, y) {
      Object.assign(this, { scale, x: NP.clamp(x, 0, 1), y: NP.clamp(y, 0, 1) });
      for (const stage of this.stages) stage.draw();
    }
    get isFitted() {
      return this.scale <= 1.001;
    }
  };

  NP.Stage = class {
    constructor(zoom, { onSwipe = null } = {}) {
      this.zoom = zoom;
      this.image = -1;
      this.under = el("div", { class: "under", "aria-hidden": "true" });
      this.picture = el("img", { class: "picture", alt: "", draggable: "false" });
      this.frame = el("div", { class: "frame" }, this.under, this.picture);
      this.node = el("div", { class: "stage" }, this.frame);
      this.scaleNode = el("output", { class: "scale", hidden: true });
      this.node.append(this.scaleNode);
      this.extra = []; // drawn along with the picture
      zoom.stages.add(this);
      NP.handlePointers(this, onSwipe);
      this.node.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
      this.observer = new ResizeObserver(() => this.draw());
      this.observer.observe(this.node);
    }

    close() {
      this.observer.disconnect();
      this.zoom.stages.delete(this);
      this.node.remove();
    }

    show(i) {
      if (this.image === i) return;
      this.image = i;
      const url = rows.url(i);
      this.node.classList.remove("missing", "loaded");
      const isVideo = rows.isVideo(i) && url;
      if (isVideo !== (this.picture.tagName === "VIDEO")) this.swap(isVideo);
      if (isVideo) this.playVideo(url);
      else this.loadPicture(i, url);
      this.draw();
    }

    swap(isVideo) {
      const fresh = isVideo
        ? el("video", { class: "picture", controls: true, loop: true, playsinline: true })
        : el("img", { class: "picture", alt: "", draggable: "false" });
      if (isVideo) fresh.muted = true;
      this.picture.replaceWith(fresh);
      this.picture = fresh;
    }

    playVideo(url) {
      this.picture.src = url;
      this.picture.setAttribute("aria-label", rows.prompt(this.image));
      this.picture.onloadeddata = () => this.node.classList.add("loaded");
      this.picture.onerror = () => this.node.classList.add("missing");
      if (!NP.stillMotion()) this.picture.play().catch(() => {});
    }

    loadPicture(i, url) {
      const { picture } = this;
      picture.alt = NP.shorten(rows.prompt(i), 300) || rows.imageId[i];
      picture.removeAttribute("src");
      if (!url) {
        this.node.classList.add("missing");
        this.node.dataset.word = "This image has no file of its own: its thumbnail is shown";
        return;
      }
      picture.onload = () => this.image === i && this.node.classList.add("loaded");
      picture.onerror = () => {
        if (this.image !== i) return;
        this.node.classList.add("missing");
        this.node.dataset.word = NP.isStatic
          ? "The original cannot be reached from this page: its thumbnail is shown"
          : "The picture cannot be loaded: it was removed or made again. Reload the page.";
      };
      picture.src = url;
    }

    // The size, in CSS pixels, at which the whole picture fits.
    fitted() {
      return thumbs.fitted(this.image, this.node.clientWidth, this.node.clientHeight);
    }

    // The scale at which one pixel of the picture is one of the screen.
    whole() {
      return rows.width[this.image] / devicePixelRatio / this.fitted()[0];
    }

    draw() {
      if (this.image < 0 || !this.node.clientWidth) return;
      const [fitWidth, fitHeight] = this.fitted();
      const { scale, x, y } = this.zoom;
      const [width, height] = [fitWidth * scale, fitHeight * scale];
      const left = offset(this.node.clientWidth, width, x);
      const top = offset(this.node.clientHeight, height, y);
      Object.assign(this.frame.style, {
        width: `${width}px`,
        height: `${height}px`,
        transform: `translate(${left}px, ${top}px)`,
      });
      thumbs.show(this.under, this.image, width, height);
      const share = scale / this.whole();
      this.frame.classList.toggle("pixels", share >= 2.5 && !this.zoom.isFitted);
      this.node.classList.toggle("zoomed", !this.zoom.isFitted);
      this.scaleNode.hidden = this.zoom.isFitted;
      this.scaleNode.textContent = `${Math.round(share * 100)}%`;
      for (const act of this.extra) act({ left, top, width, height });
    }

    // Zooms so that the point under the pointer stays where it is.
    zoomAt(scale, clientX, clientY) {
      const box = this.frame.getBoundingClientRect();
      const stage = this.node.getBoundingClientRect();
      const [px, py] = [(clientX - box.left) / box.width, (clientY - box.top) / box.height].map((p) =>
        NP.clamp(p, 0, 1),
      );
      const next = NP.clamp(scale, 1, Math.max(1, this.whole() * LARGEST));
      const [fitWidth, fitHeight] = this.fitted();
      const x = px - (clientX - stage.left - stage.width / 2) / (fitWidth * next);
      const y = py - (clientY - stage.top - stage.height / 2) / (fitHeight * next);
      this.setWithin(next, x, y);
    }

    // The middle never goes beyond the point at which the picture's edge is at the stage's.
    setWithin(scale, x, y) {
      const [fitWidth, fitHeight] = this.fitted();
      const halfX = this.node.clientWidth / (2 * fitWidth * scale);
      const halfY = this.node.clientHeight / (2 * fitHeight * scale);
      const within = (value, half) => (half >= 0.5 ? 0.5 : NP.clamp(value, half, 1 - half));
      this.zoom.set(scale, within(x, halfX), within(y, halfY));
    }

    // Between the whole picture and 100%, at a point of the screen or in the middle.
    toggle(clientX, clientY) {
      if (!this.zoom.isFitted) return this.zoom.fit();
      const box = this.node.getBoundingClientRect();
      const whole = this.whole();
      const scale = Math.abs(whole - 1) < 0.05 || whole < 1 ? Math.max(2, whole * 2) : whole;
      return this.zoomAt(scale, clientX ?? box.left + box.width / 2, clientY ?? box.top + box.height / 2);
    }

    pan(byX, byY) {
      const [fitWidth, fitHeight] = this.fitted();
      const { scale, x, y } = this.zoom;
      this.setWithin(scale, x - byX / (fitWidth * scale), y - byY / (fitHeight * scale));
    }

    onWheel(event) {
      event.preventDefault();
      const factor = Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002));
      this.zoomAt(this.zoom.scale * factor, event.clientX, event.clientY);
    }
  };

  // Where a picture of this length begins: centred while it fits, else never with empty space at its edge.
  function offset(stage, length, centre) {
    if (length <= stage) return (stage - length) / 2;
    return NP.clamp(stage / 2 - centre * length, stage - length, 0);
  }
}
