"use strict";
// Thumbnails: cells of atlases as backgrounds, strips of clips that play, and sharp pictures for large tiles.
{
  const { rows } = NP;
  const thumbs = {};
  NP.thumbs = thumbs;
  const FRAME_MS = 160;

  const whole = { columns: 8, rows: 8, cell_px: 192 };

  const cellSide = () => rows.thumbs?.cell_px ?? whole.cell_px;
  // The longer side of a thumbnail, in its own pixels: small images are not enlarged.
  const sideOfThumb = (i) => Math.min(cellSide(), Math.max(rows.width[i], rows.height[i]));

  // Where the thumbnail of image `i` lies in its cell, in whole pixels: [left, top, width, height].
  function placeInCell(i) {
    const share = sideOfThumb(i) / Math.max(rows.width[i], rows.height[i]);
    const [across, down] = [rows.width, rows.height].map((sides) =>
      Math.max(1, Math.round(sides[i] * share)),
    );
    return [(cellSide() - across) >> 1, (cellSide() - down) >> 1, across, down];
  }

  // The edge of a thumbnail is left out, since browsers mix it with what lies beside: half a pixel, and one more
  // where the neighbour is another picture, whose colours WebP lets run a pixel far.
  const withoutEdge = (pixels) => Math.max(1, pixels - (pixels === cellSide() ? 3 : 1));

  function showCell(node, i, sheet, atlas, cell, width, height) {
    const { columns, rows: lines } = { ...whole, ...sheet };
    const [left, top, across, down] = placeInCell(i);
    const scale = Math.max(width / withoutEdge(across), height / withoutEdge(down));
    const x = ((cell % columns) * cellSide() + left + across / 2) * scale - width / 2;
    const y = (Math.floor(cell / columns) * cellSide() + top + down / 2) * scale - height / 2;
    const side = cellSide() * scale;
    node.style.backgroundImage = `url("${sheet.atlases[atlas].replace(/["\\\n]/g, encodeURIComponent)}")`;
    node.style.backgroundSize = `${columns * side}px ${lines * side}px`;
    node.style.backgroundPosition = `${-x}px ${-y}px`;
  }

  // Atlases that could not be loaded: their images are shown whole instead.
  const probed = new Set();
  const loaded = new Set();
  const missing = new Set();
  function probe(atlas) {
    if (probed.has(atlas)) return;
    probed.add(atlas);
    const image = new Image();
    image.onerror = () => {
      if (!missing.size)
        NP.toast("Some thumbnails are missing: whole pictures are loaded in their place", { seconds: 6 });
      missing.add(atlas);
      NP.emit("atlas", null);
    };
    image.onload = () => loaded.add(atlas);
    image.src = rows.thumbs.atlases[atlas];
  }

  thumbs.has = (i) => Boolean(rows.thumbs) && rows.thumbs.atlas[i] >= 0 && !missing.has(rows.thumbs.atlas[i]);

  // Shows the thumbnail of image `i` in a node of this size, in CSS pixels. While the grid flies by, atlases that
  // are not there yet are not asked for: they would keep back those of the place where it comes to rest.
  thumbs.isFlying = false;
  thumbs.show = (node, i, width, height) => {
    node.style.width = `${width}px`;
    node.style.height = `${height}px`;
    if (thumbs.has(i) && thumbs.isFlying && !loaded.has(rows.thumbs.atlas[i])) {
      node.style.backgroundImage = "";
      node.classList.remove("bare");
    } else if (thumbs.has(i)) {
      probe(rows.thumbs.atlas[i]);
      showCell(node, i, rows.thumbs, rows.thumbs.atlas[i], rows.thumbs.cell[i], width, height);
      node.classList.remove("bare");
    } else {
      node.style.backgroundImage = "";
      node.classList.add("bare");
    }
  };

  // The size of an image fitted into a box.
  thumbs.fitted = (i, boxWidth, boxHeight) => {
    const scale = Math.min(boxWidth / rows.width[i], boxHeight / rows.height[i]);
    return [Math.max(1, Math.round(rows.width[i] * scale)), Math.max(1, Math.round(rows.height[i] * scale))];
  };

  thumbs.isClip = (i) => Boolean(rows.strips) && rows.strips.atlas[i] >= 0 && rows.strips.num[i] > 1;

  // Only one clip plays at a time; none where motion is not wanted.
  let playing = null;
  thumbs.play = (node, i, width, height) => {
    if (playing?.node === node && playing.i === i && playing.width === width) return;
    thumbs.stop();
    if (!thumbs.isClip(i) || NP.stillMotion()) return;
    const { strips } = rows;
    const started = { timer: 0, node, i, width, height };
    playing = started;
    let frame = 0;
    const next = () => {
      showCell(node, i, strips, strips.atlas[i], strips.first_cell[i] + frame, width, height);
      frame = (frame + 1) % strips.num[i];
    };
    // The thumbnail stays until the frames are there, and where they never come.
    const image = new Image();
    image.onload = () => {
      if (playing === started) started.timer = setInterval(next, FRAME_MS);
    };
    image.src = strips.atlases[strips.atlas[i]];
  };
  thumbs.stop = () => {
    if (!playing) return;
    clearInterval(playing.timer);
    thumbs.show(playing.node, playing.i, playing.width, playing.height);
    playing = null;
  };
  thumbs.playingNode = () => playing?.node ?? null;

  // Whole pictures over thumbnails that are shown larger than they are; a few at a time, once scrolling rests.
  const MOST_AT_ONCE = 4;
  let waiting = [];
  let loading = 0;

  // A page without a server may be where its images are not: after two that fail no more are asked for.
  const MOST_FAILURES = 2;
  let failures = 0;

  // The whole picture of an animated WebP moves all the time, and would hide the thumbnail and the strip.
  const movesByItself = (i) => rows.isClip(i) && (thumbs.has(i) || NP.stillMotion());

  thumbs.needsMore = (i, width) => {
    if (NP.isStatic && failures >= MOST_FAILURES) return false;
    if (rows.isVideo(i) || movesByItself(i) || !rows.url(i)) return false;
    const share = thumbs.has(i) ? sideOfThumb(i) / Math.max(rows.width[i], rows.height[i]) : 0;
    return Math.min(width * devicePixelRatio, rows.width[i]) > rows.width[i] * share * 1.5;
  };

  function loadNext() {
    while (loading < MOST_AT_ONCE && waiting.length) {
      const { node, i, isWanted } = waiting.shift();
      if (isWanted()) load(node, i, isWanted);
    }
  }

  function load(node, i, isWanted) {
    const image = new Image();
    image.alt = "";
    image.decoding = "async";
    image.draggable = false;
    loading += 1;
    const done = (came) => {
      loading -= 1;
      failures = came ? 0 : failures + 1;
      if (came && isWanted() && !movesByItself(i)) node.replaceChildren(image);
      loadNext();
    };
    image.src = rows.url(i);
    image.decode().then(
      () => done(true),
      () => done(false),
    );
  }

  thumbs.sharpen = (list) => {
    waiting = list;
    loadNext();
  };
}
