"""Time and memory that `verify` needs to find the images that no commit names.

    python tests/benchmarks/bench_verify.py --images 1000000

The commits are real; the images are empty files in a local folder, because only their names
matter here. Two in a thousand are orphans.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.made_runs import begin, failed

from nightpress.pipelines.run_directory.commit import commit_shard, metadata_part
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.verify import orphan_images

ORPHAN_EVERY = 500


def main() -> None:
    """Make the run, look for its orphans and print the time and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = begin(folder)
        images = Path(run.url, "images")
        row = metadata_part([failed(run, 0)], pa.table({"image_id": [""]}))
        (images / "0_00.png").unlink()
        for shard, start in enumerate(range(0, arguments.images, arguments.shard_size)):
            make_shard(run, row, shard, range(start, start + arguments.shard_size))
        before, clock = peak_bytes(), time.perf_counter()
        orphans = orphan_images(run)
        took_s, grown = time.perf_counter() - clock, peak_bytes() - before
        millions = arguments.images / 1e6
        print(f"{arguments.images:,} images, {len(orphans):,} of them orphans: {took_s:.1f} s")
        print(
            f"memory: {grown / 1e6:.0f} MB more, {grown / 1e6 / millions:.0f} MB per million images"
        )


def make_shard(run: Run, row: pa.Table, shard: int, numbers: range) -> None:
    """Commit a shard of copies of `row`; create its image files and some orphans."""
    images = Path(run.url, "images")
    part = pa.concat_tables([row] * len(numbers))
    files = [f"images/{number:08d}_00.png" for number in numbers]
    place = part.schema.get_field_index("file")
    commit_shard(run.store, shard, part.set_column(place, "file", pa.array(files)))
    for number in numbers:
        (images / f"{number:08d}_00.png").touch()
        if number % ORPHAN_EVERY == 0:
            (images / f"{number:08d}_01.png").touch()


def peak_bytes() -> int:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
