"use strict";
// Thumbnails that the server makes while the page is open: asked for, put in their places, and counted.
{
  const { rows, thumbs, el } = NP;
  const ASK_MS = 1000;
  const late = { num_made: 0, num_missing: 0, is_done: true, problem: "" };
  NP.lateThumbs = late;
  let after = 0; // atlases that were received

  // Puts the strips of an atlas in their places.
  function placeStrips({ url, strips = [] }) {
    const { atlases, atlas, first_cell, num } = rows.strips ?? {};
    const found = strips
      .map(([first, length, id, sha]) => [first, length, rows.byId.get(id), sha])
      .filter(([, , i, sha]) => atlas && i !== undefined && rows.sha[i] === sha && atlas[i] < 0);
    if (!found.length) return;
    const at = atlases.push(url) - 1;
    for (const [first, length, i] of found) {
      atlas[i] = at;
      first_cell[i] = first;
      num[i] = length;
    }
  }

  // Puts the cells of an atlas in their places; returns the images that got a thumbnail.
  function place({ url, cells }) {
    const { atlases, atlas, cell } = rows.thumbs;
    const found = cells
      .map(([number, id, sha]) => [number, rows.byId.get(id), sha])
      .filter(([, i, sha]) => i !== undefined && rows.sha[i] === sha && !thumbs.has(i));
    if (!found.length) return [];
    const at = atlases.push(url) - 1;
    for (const [number, i] of found) {
      atlas[i] = at;
      cell[i] = number;
    }
    return found.map(([, i]) => i);
  }

  async function ask() {
    const answer = await fetch(`api/thumbs?after=${after}`);
    if (!answer.ok) return false;
    const { atlases, ...progress } = await answer.json();
    after += atlases.length;
    Object.assign(late, progress);
    atlases.forEach(placeStrips);
    const came = new Set(atlases.flatMap(place));
    if (came.size) NP.emit("thumbs", came);
    return true;
  }

  // "Making thumbnails: 640 of 6,000", with a bar; nothing once all are there.
  function draw(node) {
    const { num_made, num_missing, num_unreadable, is_done, problem } = late;
    node.hidden = is_done && !problem && !num_unreadable;
    if (node.hidden) return;
    const [bar, words, close] = node.children;
    bar.hidden = is_done;
    close.hidden = !is_done;
    bar.max = num_missing || 1;
    bar.value = num_made;
    const made = `${NP.number(num_made)} of ${NP.plural(num_missing, "thumbnail")}`;
    words.textContent = is_done
      ? [
          num_unreadable ? `No thumbnail of ${NP.plural(num_unreadable, "image")}: nightpress says why.` : "",
          problem ? `No more thumbnails are made: ${problem}` : "",
        ].join(" ")
      : num_missing
        ? `Making thumbnails: ${made}. You can pick meanwhile.`
        : "Looking for missing thumbnails";
  }

  function build() {
    const close = el(
      "button",
      { type: "button", class: "plain", "aria-label": "Close", title: "Close", hidden: true },
      NP.icon("reject"),
    );
    const node = el(
      "div",
      { id: "late", hidden: true },
      el("progress", { "aria-label": "Thumbnails made" }),
      el("span", { class: "words" }),
      close,
    );
    close.addEventListener("click", () => node.remove());
    NP.byId("middle").before(node);
    return node;
  }

  late.start = async () => {
    if (NP.isStatic || !rows.run.thumbs_coming) return;
    late.is_done = false;
    const node = build();
    while (!late.is_done) {
      // A server that is away is asked again later; saving says that it is away.
      const isHere = await ask().catch(() => false);
      draw(node);
      if (!late.is_done) await new Promise((done) => setTimeout(done, isHere ? ASK_MS : 10 * ASK_MS));
    }
    if (late.num_made) NP.say(`${NP.plural(late.num_made, "thumbnail")} made`);
  };
}
