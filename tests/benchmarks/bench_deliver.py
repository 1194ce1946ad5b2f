"""How many copies a second `deliver` makes, and how much memory each chosen image takes.

::

    python tests/benchmarks/bench_deliver.py --images 20000 100000

A run in a folder has so many images, which are one small picture under many names. Each number of
images is delivered in a process of its own. The memory above that of the smallest delivery, for
each of its additional images, is what chosen images take; a million take a million times that.
"""

import argparse
import hashlib
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from PIL import Image  # noqa: E402
from support.scored_runs import Scored, begin, part  # noqa: E402

from nightpress import deliver, select  # noqa: E402
from nightpress.pipelines.run_directory.commit import commit_shard  # noqa: E402

KINDS = ("all", "by a selection", "by ids")


def main() -> None:
    """Deliver runs of several sizes, and print rates and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--shard-size", type=int, default=2_000)
    arguments = parser.parse_args()
    for kind in KINDS:
        first: tuple[int, float] | None = None
        for number in sorted(arguments.images):
            with tempfile.TemporaryDirectory() as folder:
                url = in_a_process(make, folder, number, arguments.shard_size)
                seconds, mb = in_a_process(delivered, url, f"{folder}/out", kind)
            line = f"{kind}: {number:,} images, {number / seconds:,.0f} images/s, at most {mb:,.0f}"
            if first is None:
                first = number, mb
                print(f"{line} MB", flush=True)
                continue
            each = (mb - first[1]) * 2**20 / (number - first[0])
            print(f"{line} MB, {each:,.0f} bytes for each image more", flush=True)


def in_a_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What the work returns in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(work, arguments)


def make(folder: str, num_images: int, shard_size: int) -> str:
    """A finished run of one picture under many names, and a selection of all; returns its URL."""
    run = begin(f"{folder}/runs", num_images, shard_size)
    file = BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 40)).save(file, "PNG")
    images = Path(run.url) / "images"
    images.mkdir()
    picture = Path(folder) / "picture.png"
    template = part([Scored("a", scores={"clip": 0.5})])
    for shard, begins in enumerate(range(0, num_images, shard_size)):
        picture.unlink(missing_ok=True)
        picture.write_bytes(file.getvalue())  # a file has a limited number of links
        ids = [f"{each:08d}_00" for each in range(begins, min(begins + shard_size, num_images))]
        for image_id in ids:
            os.link(picture, images / f"{image_id}.png")
        commit_shard(run.store, shard, filled(template, ids, file.getvalue()))
    select(run.url, "all", by="clip")
    return run.url


def filled(template: pa.Table, ids: list[str], data: bytes) -> pa.Table:
    """The template's row for each id, with the picture's size and hash."""
    table = template.take(np.zeros(len(ids), np.int64))
    columns = {
        "image_id": ids,
        "id": [each[:-3] for each in ids],
        "file": [f"images/{each}.png" for each in ids],
        "sha256": [hashlib.sha256(data).hexdigest()] * len(ids),
        "num_bytes": [len(data)] * len(ids),
    }
    for name, column in columns.items():
        place, field = table.schema.get_field_index(name), table.schema.field(name)
        table = table.set_column(place, field, pa.array(column, field.type))
    return table


def delivered(url: str, to: str, kind: str) -> tuple[float, float]:
    """Seconds of a delivery, and the most memory of this process in MB."""
    chosen: dict[str, Any] = {}
    if kind == "by a selection":
        chosen["selection"] = "all"
    if kind == "by ids":
        chosen["ids"] = [each.stem for each in (Path(url) / "images").iterdir()]
    began = time.perf_counter()
    done = deliver(url, to, **chosen)
    assert done.is_complete, done
    took = time.perf_counter() - began
    return took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
