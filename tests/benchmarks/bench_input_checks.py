"""How many rows per second are planned when every row names a picture in an S3 bucket.

::

    python tests/benchmarks/bench_input_checks.py
    python tests/benchmarks/bench_input_checks.py --inputs 2000 --spread --check decode

Each row has an initial image of its own, on SeaweedFS on this machine: in one folder, or with
`--spread` each in a folder of its own among 20 other objects, so that listings do not pay.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from bench_planning import MODEL  # noqa: E402
from PIL import Image  # noqa: E402
from support import servers  # noqa: E402

from nightpress.pipelines.job.spec import RunSpec  # noqa: E402
from nightpress.pipelines.planning import check, check_inputs  # noqa: E402
from nightpress.pipelines.shards.run_images import EarlierRuns  # noqa: E402
from nightpress.pipelines.storage import Store  # noqa: E402

WRITE_THREADS = 16
OTHERS = 20
"""Objects beside a picture in a folder of its own."""


def picture() -> bytes:
    """A small PNG file."""
    sink = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(sink, "PNG")
    return sink.getvalue()


def objects(names: list[str], is_spread: bool) -> Iterator[tuple[str, bytes]]:
    """What is written: the pictures, and the objects beside them."""
    data = picture()
    for name in names:
        yield name, data
        if is_spread:
            folder = name.rpartition("/")[0]
            yield from ((f"{folder}/other-{number:02d}", b"") for number in range(OTHERS))


def measured(spec: RunSpec) -> float:
    """Seconds that planning takes."""
    began = time.perf_counter()
    check_inputs(spec, check(spec, MODEL, 8), EarlierRuns(spec.url, {}))
    return time.perf_counter() - began


def main() -> None:
    """Write the pictures and plan their manifest without and with a check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--check", choices=("exists", "decode"), default="exists")
    parser.add_argument("--spread", action="store_true", help="each picture in its own folder")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.environment(),
        servers.seaweed(Path(folder)) as server,
    ):
        place = server.folder()
        store = Store(place.url, place.options)
        between = "/" if options.spread else "-"
        names = [f"in/{number:06d}{between}a.png" for number in range(options.inputs)]
        with ThreadPoolExecutor(WRITE_THREADS) as pool:
            list(pool.map(lambda item: store.create(*item), objects(names, options.spread)))
        urls = [f"{place.url}/{name}" for name in names]
        manifest = Path(folder) / "manifest.parquet"
        pq.write_table(pa.table({"prompt": ["a cat"] * len(urls), "init_image": urls}), manifest)
        job = {"name": "bench", "manifest": str(manifest), "output": folder}
        for level in ("none", options.check):
            values = {**job, "storage": place.options, "inputs": {"check": level}}
            elapsed_s = measured(RunSpec.from_dict(values))
            rate = len(urls) / elapsed_s
            print(f"inputs.check {level:<7} {elapsed_s:6.2f} s, {rate:,.0f} rows/s")


if __name__ == "__main__":
    main()
