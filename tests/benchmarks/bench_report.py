"""How long the report takes, and how large it is, with thumbnails of images or out of atlases.

::

    python tests/benchmarks/bench_report.py --side 1024

A run in a folder has 240 square images of noise and gradients. Its report, which shows 200 of them,
is written before and after its thumbnails are made, then once more with marks on half of them.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
from support import made_runs  # noqa: E402
from support.marked_runs import say  # noqa: E402

from nightpress.pipelines.image_files.encoding import encode  # noqa: E402
from nightpress.pipelines.job.images_section import ImagesSpec  # noqa: E402
from nightpress.pipelines.reporting.report import REPORT_FILE, write_report  # noqa: E402
from nightpress.pipelines.review.thumbnails import make_missing  # noqa: E402
from nightpress.pipelines.run_directory.reader import Run  # noqa: E402
from nightpress.pipelines.run_directory.thumbs import read_thumbs  # noqa: E402

NUM_IMAGES, SHARD_SIZE = 240, 40


def main() -> None:
    """Write the report in three states of a run, and print its time and size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=1024, help="Pixels of a side of an image.")
    side: int = parser.parse_args().side
    with tempfile.TemporaryDirectory() as folder:
        run = made_run(folder, side)
        measure(run, "thumbnails of images")
        for _ in make_missing(run, read_thumbs(run.store)):
            pass
        measure(run, "thumbnails out of atlases")
        say(run, "anna", *((n, "flag", "pick") for n in range(0, NUM_IMAGES, 2)))
        measure(run, "and with marks")


def measure(run: Run, what: str) -> None:
    """Write the report, and print how long it took."""
    began = time.perf_counter()
    write_report(run, run.store)
    seconds, num_bytes = time.perf_counter() - began, run.store.size(REPORT_FILE) or 0
    print(f"{what}: {seconds:.2f} s, {num_bytes:,} bytes", flush=True)


def made_run(folder: str, side: int) -> Run:
    """A finished run of so large images."""
    made_runs.NUM_IMAGES, made_runs.SHARD_SIZE = NUM_IMAGES, SHARD_SIZE
    run = made_runs.begin(folder)
    y, x = np.mgrid[0:side, 0:side] * 255 // side
    noise = np.random.default_rng(0).integers(0, 24, (side, side, 3), np.uint8)
    for shard in range(NUM_IMAGES // SHARD_SIZE):
        records = []
        for n in range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE):
            facts = replace(made_runs.FACTS, image_id=f"{n}_00", id=str(n), width=side, height=side)
            pixels = np.stack([x, y, (x + n) % 231], -1).astype(np.uint8) // 2 + noise
            data = encode(pixels, facts, ImagesSpec())
            run.store.put(f"images/{n}_00.png", data)
            record = made_runs.made(run, n)
            digest = hashlib.sha256(data).hexdigest()
            records.append(replace(record, facts=facts, sha256=digest, num_bytes=len(data)))
        made_runs.commit(run, shard, records)
    return run


if __name__ == "__main__":
    main()
