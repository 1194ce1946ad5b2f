"use strict";
// The facts and jobs of all images in a page without a server: packed, and unpacked when one is asked for.
{
  const sheets = {};
  NP.sheets = sheets;
  let chunks = [];
  const unpacked = new Map(); // chunk -> promise of its list

  sheets.fill = (found) => {
    chunks = found ?? [];
  };
  sheets.has = () => chunks.length > 0;

  async function unpack({ data }) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  // {facts, job} of an image; null where the page has none of it.
  sheets.of = async (i) => {
    const chunk = chunks.findLast((each) => each.first <= i);
    if (!chunk) return null;
    if (!unpacked.has(chunk)) unpacked.set(chunk, unpack(chunk));
    const found = (await unpacked.get(chunk))[i - chunk.first];
    return found ? { facts: found[0], job: found[1] } : null;
  };
}
