"""How long it takes to find one image of a large run, to read its progress, and to look it over.

::

    python tests/benchmarks/bench_lookup.py
    python tests/benchmarks/bench_lookup.py --store seaweed
    python tests/benchmarks/bench_lookup.py --shards 2000 --shard-size 500
    python tests/benchmarks/bench_lookup.py --shard-size 1000 --sample 0.00001

The plan is written from a manifest with ids in random order. The commits are real metadata parts,
made from the plan, with hashes and measurements drawn at random: they take as many bytes as those
of real images. Only the images that are looked up are stored. Requests are counted where they leave
the process: as S3 operations, or as read calls on local files. A run without an index is one that
was killed before its first update; its totals come from the footer of each commit. With `--sample`
the run is verified too, and the few images that are read are found missing.
"""

import argparse
import hashlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from operator import methodcaller
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from aiobotocore.client import AioBaseClient  # noqa: E402
from PIL import Image  # noqa: E402
from support import servers  # noqa: E402
from support.made_runs import FACTS  # noqa: E402
from support.plans import MODEL  # noqa: E402

import nightpress  # noqa: E402
from nightpress.jobs.runs.retry import failed_amendments  # noqa: E402
from nightpress.pipelines import Run, RunSpec, open_run  # noqa: E402
from nightpress.pipelines.planning import PlanLayout, check, write_plan  # noqa: E402
from nightpress.pipelines.records import METADATA_SCHEMA, PLAN_SCHEMA, SCORES_TYPE  # noqa: E402
from nightpress.pipelines.reporting.report import write_report  # noqa: E402
from nightpress.pipelines.run_directory.commit import commit_shard  # noqa: E402
from nightpress.pipelines.run_directory.record import RUN_FILE, new_record  # noqa: E402
from nightpress.pipelines.run_directory.summary_index import (  # noqa: E402
    read_totals,
    write_summary_index,
)
from nightpress.pipelines.scoring.measurements import MEASUREMENTS  # noqa: E402
from nightpress.pipelines.scoring.perceptual_hash import HASH_DIGITS  # noqa: E402
from nightpress.pipelines.storage import Store, is_local  # noqa: E402

THREADS = 32
BATCH_SIZE = 4
FAILED_EVERY = 5_000
SHA256_DIGITS = 64


def main() -> None:
    """Time the lookups and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--shard-size", type=int, default=100)
    parser.add_argument("--store", choices=("folder", "seaweed"), default="folder")
    parser.add_argument("--lookups", type=int, default=3, help="images to find")
    parser.add_argument("--report", action="store_true", help="time the report as well")
    parser.add_argument("--sample", type=float, help="verify the run, with this share of images")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        output(arguments.store, Path(folder)) as place,
    ):
        num_images = arguments.shards * arguments.shard_size
        spec = plan(Path(folder), place, num_images, arguments.shard_size)
        ids = commit_all(spec, arguments.lookups)
        print(f"{num_images:,} images in {arguments.shards:,} shards on {arguments.store}")
        print(f"{'':24}{'seconds':>10}{'requests':>10}")
        for image_id in ids:
            show("image(id)", spec, methodcaller("image", image_id))
        show("status, no index", spec, Run.progress)
        if arguments.report:
            show("report", spec, lambda run: write_report(run, run.store))
        else:
            store = Store(spec.url, spec.storage)
            write_summary_index(store, read_totals(store))
        show("status", spec, Run.progress)
        show("retry, failed rows", spec, failed_amendments)
        if arguments.sample is not None:
            show(f"verify --sample {arguments.sample:g}", spec, partial(verify, arguments.sample))
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB at most")


def verify(share: float, run: Run) -> None:
    """Check every commit against the plan, and a share of the images."""
    result = nightpress.verify(run, sample=share)
    if result.num_uncommitted:
        raise SystemExit(f"{result.num_uncommitted} shards were not checked")


@contextmanager
def output(store: str, folder: Path) -> Iterator[servers.Folder]:
    """A folder to write to, on the chosen store."""
    if store == "folder":
        yield servers.Folder(str(folder / "runs"), {})
        return
    with servers.environment(), servers.seaweed(folder / "seaweed") as server:
        yield server.folder()


def plan(folder: Path, place: servers.Folder, num_images: int, shard_size: int) -> RunSpec:
    """Write run.json and the plan of a manifest with one image a row."""
    manifest = folder / "prompts.parquet"
    numbers = np.random.default_rng(0).permutation(num_images)
    ids = [hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest() for number in numbers]
    prompts = [f"picture number {number} of a run" for number in numbers]
    pq.write_table(pa.table({"id": ids, "prompt": prompts}), manifest)
    spec = RunSpec.from_dict(
        {
            "name": "run",
            "manifest": str(manifest),
            "output": place.url,
            "storage": place.options,
            "batch": {"size": BATCH_SIZE, "shard_size": shard_size},
        }
    )
    store, layout = Store(spec.url, spec.storage), check(spec, MODEL, BATCH_SIZE)
    began = time.perf_counter()
    for _ in write_plan(spec, MODEL, layout, store):
        pass
    print(f"plan written in {time.perf_counter() - began:.1f} s")
    store.create(RUN_FILE, new_record(spec, MODEL, "cpu", BATCH_SIZE, layout).to_json())
    return spec


def commit_all(spec: RunSpec, lookups: int) -> list[str]:
    """Commit every shard and store a few images; returns their ids."""
    store = Store(spec.url, spec.storage)
    record = open_run(spec.url, spec.storage).record
    ids: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for shards in metadata_parts(record.layout, store):
            list(pool.map(lambda each: commit_shard(store, *each), shards.items()))
            ids += [part.column("image_id")[1].as_py() for part in shards.values()]
    chosen = [ids[place * len(ids) // lookups] for place in range(lookups)]
    for image_id in chosen:
        store.put(f"images/{image_id}.png", image_bytes())
    return chosen


def metadata_parts(layout: PlanLayout, store: Store) -> Iterator[dict[int, pa.Table]]:
    """For each part of the plan: shard number -> metadata."""
    for part in layout.parts:
        planned = pq.read_table(pa.BufferReader(store.read(part.path)))
        metadata = metadata_of(planned)
        yield {
            part.first_shard + number: metadata.slice(number * layout.shard_size, layout.shard_size)
            for number in range(part.num_shards)
        }


def metadata_of(planned: pa.Table) -> pa.Table:
    """Metadata for rows of the plan; one image in `FAILED_EVERY` has failed."""
    numbers = np.arange(len(planned))
    failed = numbers % FAILED_EVERY == 0
    num_bytes = len(image_bytes())
    random = np.random.default_rng(planned.column("seed")[0].as_py())
    constants = FACTS.as_row() | {
        "attempts": 1,
        "worker": "node-1",
    }
    varying = {
        "status": np.where(failed, "failed", "ok"),
        "error_type": pa.array(np.where(failed, "NonFinite", ""), mask=~failed),
        "error": pa.array(np.where(failed, "not finite", ""), mask=~failed),
        "file": pa.array(planned.column("file").to_pylist(), mask=failed),
        "sha256": pa.array(digits(random, len(planned), SHA256_DIGITS), mask=failed),
        "num_bytes": pa.array(np.full(len(planned), num_bytes), mask=failed),
        "started_at": 1_800_000_000_000_000 + numbers // BATCH_SIZE * 4_000_000,
        "sampling_s": pa.array(np.full(len(planned), 1.0), mask=failed),
        "scores": measurements(random, failed),
        "perceptual_hash": pa.array(digits(random, len(planned), HASH_DIGITS), mask=failed),
    }
    columns = []
    for field in METADATA_SCHEMA:
        if field.name in varying:
            column = pa.array(varying[field.name])
        elif field.name in PLAN_SCHEMA.names and not pa.types.is_nested(field.type):
            column = planned.column(field.name)
        else:  # what a plain image has no value for is null
            column = pa.array([constants.get(field.name)] * len(planned), field.type)
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=METADATA_SCHEMA)


def digits(random: np.random.Generator, number: int, length: int) -> list[str]:
    """So many texts of so many hexadecimal digits."""
    drawn = random.bytes(number * length // 2).hex()
    return [drawn[start : start + length] for start in range(0, len(drawn), length)]


def measurements(random: np.random.Generator, failed: npt.NDArray[np.bool_]) -> pa.Array:
    """What is measured in every image without a scorer; null where it failed."""
    drawn = random.random((len(failed), len(MEASUREMENTS))).tolist()
    rows = [
        None if is_failed else list(zip(MEASUREMENTS, values, strict=True))
        for is_failed, values in zip(failed, drawn, strict=True)
    ]
    return pa.array(rows, SCORES_TYPE)


def image_bytes() -> bytes:
    """A small image file."""
    file = BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    return file.getvalue()


def show(name: str, spec: RunSpec, action: Callable[[Run], object]) -> None:
    """Open the run, do something with it, and print the time and the requests."""
    with counted(spec.url) as requests:
        began = time.perf_counter()
        action(open_run(spec.url, spec.storage))
        took_s = time.perf_counter() - began
    print(f"{name:24}{took_s:>10.2f}{requests[0]:>10,}", flush=True)


@contextmanager
def counted(url: str) -> Iterator[list[int]]:
    """Count the requests of this process; for a local folder, its read calls."""
    count = [0]
    if is_local(url):
        before = local_reads()
        yield count
        count[0] = local_reads() - before
        return
    call = AioBaseClient._make_api_call

    async def counting(client: AioBaseClient, operation: str, parameters: Any) -> Any:
        count[0] += 1
        return await call(client, operation, parameters)

    AioBaseClient._make_api_call = counting
    try:
        yield count
    finally:
        AioBaseClient._make_api_call = call


def local_reads() -> int:
    """The read calls of this process so far."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["syscr"])


if __name__ == "__main__":
    main()
