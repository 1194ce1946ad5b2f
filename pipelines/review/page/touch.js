"use strict";
// Fingers and the mouse on a stage: drag to pan, pinch to zoom, swipe to mark or to go on.
{
  const FAR = 56; // CSS pixels of a swipe
  const TAP = 8;

  const middle = (points) =>
    points.reduce((sum, p) => ({ x: sum.x + p.x / points.length, y: sum.y + p.y / points.length }), {
      x: 0,
      y: 0,
    });
  const spread = ([a, b]) => Math.hypot(a.x - b.x, a.y - b.y);

  // Which way a finger went: "left", "right", "up", "down", or "" for not far enough.
  NP.swipeOf = (dx, dy) => {
    if (Math.max(Math.abs(dx), Math.abs(dy)) < FAR) return "";
    if (Math.abs(dx) > Math.abs(dy)) return dx < 0 ? "left" : "right";
    return dy < 0 ? "up" : "down";
  };

  function showSwipe(stage, dx, dy) {
    const way = NP.swipeOf(dx, dy);
    stage.node.dataset.swipe = way === "up" ? "pick" : way === "down" ? "reject" : "";
    const isUpright = Math.abs(dy) > Math.abs(dx);
    stage.frame.style.translate = isUpright ? `0 ${dy * 0.6}px` : `${dx * 0.6}px 0`;
  }

  function endSwipe(stage) {
    stage.node.dataset.swipe = "";
    stage.frame.style.translate = "";
  }

  class Pointers {
    constructor(stage, onSwipe) {
      Object.assign(this, { stage, onSwipe, down: new Map(), start: null, moved: false, pinch: 0 });
    }

    begin(event) {
      if (event.button > 0 || event.target.closest("button, [role=slider], video")) return;
      this.stage.node.setPointerCapture(event.pointerId);
      this.down.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (this.down.size === 1) {
        this.start = { x: event.clientX, y: event.clientY };
        this.moved = false;
      } else {
        this.pinch = spread([...this.down.values()]);
        this.moved = true;
        endSwipe(this.stage);
      }
    }

    move(event) {
      const last = this.down.get(event.pointerId);
      if (!last) return;
      const before = middle([...this.down.values()]);
      this.down.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const points = [...this.down.values()];
      const now = middle(points);
      const { stage } = this;
      if (Math.hypot(now.x - this.start.x, now.y - this.start.y) > TAP) this.moved = true;
      if (points.length >= 2) {
        const wide = spread(points);
        stage.zoomAt(stage.zoom.scale * (wide / this.pinch), now.x, now.y);
        this.pinch = wide;
        stage.pan(now.x - before.x, now.y - before.y);
      } else if (!stage.zoom.isFitted) stage.pan(now.x - before.x, now.y - before.y);
      else if (this.onSwipe && event.pointerType !== "mouse" && this.moved) {
        showSwipe(stage, now.x - this.start.x, now.y - this.start.y);
      }
    }

    end(event) {
      if (!this.down.delete(event.pointerId) || this.down.size) return;
      const { stage } = this;
      const way = stage.zoom.isFitted
        ? NP.swipeOf(event.clientX - this.start.x, event.clientY - this.start.y)
        : "";
      const wasSwipe = this.onSwipe && event.pointerType !== "mouse" && this.pinch === 0 && way;
      this.pinch = 0;
      endSwipe(stage);
      if (event.type === "pointercancel") return;
      if (wasSwipe) this.onSwipe(way);
      else if (!this.moved) this.tap(event);
    }

    // A click zooms to that point, as in Lightroom; by a finger, the second of two taps does.
    tap(event) {
      const now = performance.now();
      const isSecond = now - (this.lastTap ?? -1e9) < 320;
      this.lastTap = now;
      this.stage.onTap?.();
      if (event.pointerType === "mouse" ? this.stage.zoomsOnClick !== false : isSecond) {
        this.stage.toggle(event.clientX, event.clientY);
      }
    }
  }

  NP.handlePointers = (stage, onSwipe) => {
    const pointers = new Pointers(stage, onSwipe);
    const { node } = stage;
    node.addEventListener("pointerdown", (event) => pointers.begin(event));
    node.addEventListener("pointermove", (event) => pointers.move(event));
    for (const name of ["pointerup", "pointercancel"])
      node.addEventListener(name, (event) => pointers.end(event));
  };

  // Two fingers on the grid make thumbnails larger and smaller.
  NP.pinchGrid = (scroller, onScale) => {
    let last = 0;
    const wide = (event) =>
      Math.hypot(
        event.touches[0].clientX - event.touches[1].clientX,
        event.touches[0].clientY - event.touches[1].clientY,
      );
    scroller.addEventListener(
      "touchstart",
      (event) => {
        if (event.touches.length === 2) last = wide(event);
      },
      { passive: true },
    );
    scroller.addEventListener(
      "touchmove",
      (event) => {
        if (event.touches.length !== 2 || !last) return;
        event.preventDefault();
        const now = wide(event);
        if (Math.abs(now / last - 1) < 0.12) return;
        onScale(now / last);
        last = now;
      },
      { passive: false },
    );
    scroller.addEventListener(
      "touchend",
      () => {
        last = 0;
      },
      { passive: true },
    );
  };
}
