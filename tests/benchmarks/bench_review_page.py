"""How the review page does with many images: bytes, time to ready, filters, scrolling, memory.

::

    python tests/benchmarks/bench_review_page.py
    python tests/benchmarks/bench_review_page.py --images 6000 --images 100000 --theme light

A server on loopback serves made-up rows, and Chromium (Debian's, or the one that `CHROMIUM` names)
shows them without a window and without a GPU, so frames take longer here than on a desk. Bytes to
the first paint are the page, its styles and its scripts as they are sent, uncompressed; rows and
thumbnails come after it. Times of filters are from the choice to the next painted frame. Scrolling
moves the grid by so many pixels in each frame, first slowly, as one reads, then a screen in every
two frames; a frame is late when more than 17.2 ms have passed since the one before.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from support.browsers import chromium  # noqa: E402
from support.review_page import ReviewPage  # noqa: E402
from support.review_server import ReviewServer, review_server  # noqa: E402

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"

NEXT_FRAME = """
const painted = () => new Promise((done) =>
  requestAnimationFrame(() => setTimeout(() => done(performance.now()), 0)));
"""

ACTS = {
    "one value of a column": "NP.filters.toggleValue('product', 0)",
    "a second column": "NP.filters.toggleValue('scene', 1)",
    "a range": "NP.filters.setRange('score.sharpness', 40, 60)",
    "words in prompts": "(NP.filters.text = 'studio -backlit', NP.emit('filters'))",
    "all filters off": "NP.filters.clear()",
    "sorted by a score": "(NP.order.by = 'score.sharpness', NP.emit('order'))",
    "grouped by row": "(NP.order.by = '', NP.order.group = 'id', NP.emit('order'))",
    "all stacks closed": "NP.order.toggleAll()",
}

SCROLL = """async ({step, frames}) => {
  const scroller = document.getElementById('scroller');
  scroller.scrollTop = 0;
  const times = [];
  await new Promise((done) => {
    let last = performance.now();
    const next = (now) => {
      times.push(now - last);
      last = now;
      scroller.scrollTop += step;
      if (times.length < frames) requestAnimationFrame(next);
      else done();
    };
    requestAnimationFrame(next);
  });
  times.splice(0, 5);
  times.sort((a, b) => a - b);
  const late = times.filter((t) => t > 17.2).length;
  return {late: late / times.length, median: times[times.length >> 1], worst: times.at(-1)};
}"""


def main() -> None:
    """Measure each size of run and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, action="append", help="sizes of run to measure")
    parser.add_argument("--frames", type=int, default=300, help="frames of each scrolling")
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    options = parser.parse_args()
    with chromium() as browser:
        for num_images in options.images or [6_000, 100_000]:
            with review_server(num_images) as server:
                print(f"\n{num_images:,} images")
                measure(browser, server, options)


def measure(browser: Any, server: ReviewServer, options: argparse.Namespace) -> None:
    """Load the page once to warm the server up, then measure a second load."""
    for is_measured in (False, True):
        context = browser.new_context(
            viewport={"width": 1440, "height": 900}, color_scheme=options.theme
        )
        page = ReviewPage(context.new_page())
        page.open(server.url)
        if is_measured:
            report(page, options.frames)
        context.close()


def report(page: ReviewPage, frames: int) -> None:
    """Print what one loaded page does."""
    sizes = page.value(
        "performance.getEntriesByType('resource').map((r) => [r.name, r.transferSize])"
    )
    before = page.value("performance.getEntriesByType('navigation')[0].transferSize")
    before += sum(size for name, size in sizes if "/assets/" in name)
    rows = sum(size for name, size in sizes if name.endswith("/api/rows"))
    line("bytes to first paint", f"{before:,}")
    line("bytes of rows", f"{rows:,}")
    line("first paint", f"{page.value(PAINT):,.0f} ms")
    line("ready", f"{page.value('NP.readyAt'):,.0f} ms")
    line("nodes of the grid", page.value("NP.grid.nodeCount()"))
    for name, step in (("slowly", 24), ("fast", 450)):
        found = page.value_of(SCROLL, {"step": step, "frames": frames})
        words = f"{found['late']:.1%} of frames late, median {found['median']:.1f} ms"
        line(f"scrolling {name}", f"{words}, worst {found['worst']:.0f} ms")
    for name, act in ACTS.items():
        script = f"async () => {{ {NEXT_FRAME} await painted(); const start = performance.now();"
        took = page.value_of(f"{script} {act}; return (await painted()) - start; }}", None)
        line(name, f"{took:,.0f} ms")
    line("JavaScript heap", f"{heap_bytes(page) / 1e6:,.1f} MB")


def heap_bytes(page: ReviewPage) -> float:
    """Bytes that JavaScript objects take after a garbage collection."""
    session = page.page.context.new_cdp_session(page.page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "JSHeapUsedSize"))


def line(name: str, value: object) -> None:
    """Print one figure."""
    print(f"  {name:24} {value}")


if __name__ == "__main__":
    main()
