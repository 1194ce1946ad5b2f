"""How fast a large run is exported, in how much memory, what a changed shard costs, and which leaks
are found.

The images are small PNG files of noise in packs. For the large run a few shards are made and stored
again and again under other ids, so that making it takes less than exporting it. Leaks are looked
for in another run, of which no two images are alike but the planted ones.

    python tests/benchmarks/bench_export.py --images 1000000
    python tests/benchmarks/bench_export.py --images 0 --compared 20000 --planted 1000
"""

import argparse
import hashlib
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from support.exports import written_with_events  # noqa: E402
from support.made_runs import FACTS, record_of  # noqa: E402

from nightpress import ExportSpec, export, open_run  # noqa: E402
from nightpress.jobs.runs.export import ExportResult  # noqa: E402
from nightpress.pipelines import Run  # noqa: E402
from nightpress.pipelines.export.splits import SPLITS, TRAIN, splits_of  # noqa: E402
from nightpress.pipelines.image_files.encoding import encode  # noqa: E402
from nightpress.pipelines.image_files.packing import Member, Pack, pack, pack_path  # noqa: E402
from nightpress.pipelines.job.images_section import ImagesSpec  # noqa: E402
from nightpress.pipelines.planning import PlanPart  # noqa: E402
from nightpress.pipelines.records import ImageRecord  # noqa: E402
from nightpress.pipelines.run_directory.commit import (  # noqa: E402
    commit_shard,
    metadata_part,
    read_commit,
    recommit_shard,
)
from nightpress.pipelines.run_directory.record import RUN_FILE  # noqa: E402
from nightpress.pipelines.storage import Store  # noqa: E402

IMAGES = ImagesSpec()
SHARD = 1000
SIDE = 24


@dataclass(frozen=True)
class MadeShard:
    """A shard that is stored under many ids."""

    pack: Pack
    part: pa.Table


def main() -> None:
    """Make the runs and export them; print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000, help="of the large run")
    parser.add_argument("--distinct", type=int, default=2_000, help="of them that are made")
    parser.add_argument("--compared", type=int, default=20_000, help="images of the run with leaks")
    parser.add_argument("--planted", type=int, default=1_000, help="of them that look like others")
    parser.add_argument("--layout", default="hf-parquet")
    parser.add_argument("--metadata", default="minimal")
    parser.add_argument(
        "--in-process", action="store_true", help="in this process alone, without Ray"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.images:
            run = make_run(folder, arguments.images, min(arguments.distinct, arguments.images), 0)
            spec = spec_of(folder, run, "keep", arguments)
            for what in ("the whole run", "nothing new", "one changed shard"):
                if what == "one changed shard":
                    change(run, 0)
                told(what, spec, arguments.in_process)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.compared and arguments.planted:
            run = make_run(folder, arguments.compared, arguments.compared, arguments.planted)
            spec = spec_of(folder, run, "near", arguments)
            told("images that are compared", spec, arguments.in_process)
            tell_leaks(spec, arguments.compared, arguments.planted)


def spec_of(folder: str, run: Run, leaks: str, arguments: argparse.Namespace) -> ExportSpec:
    """An export of a run in three splits."""
    return ExportSpec.from_dict(
        {
            "name": "set",
            "from": run.url,
            "output": f"{folder}/sets",
            "layout": arguments.layout,
            "metadata": arguments.metadata,
            "split": {"by": "id", "validation": "5%", "test": "5%", "leaks": leaks},
        }
    )


def told(what: str, spec: ExportSpec, in_process: bool) -> None:
    """Export, and print the time and the memory."""
    began, cpu = time.perf_counter(), time.process_time()
    with most_memory() as most:
        counts, num_bytes, dropped, written = (here if in_process else on_ray)(spec)
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    total = sum(counts.values())
    print(
        f"{what}: {took_s:.1f} s, {total / took_s:,.0f} images/s, {cpu_s:.1f} s of this process's "
        f"CPU; {written} shards written; {total:,} images {counts}, {num_bytes / 1e9:.2f} GB, left "
        f"out {dropped}; memory: this process "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB at most, largest "
        f"worker {most[0] / 1e6:.0f} MB",
        flush=True,
    )


def tell_leaks(spec: ExportSpec, num_images: int, planted: int) -> None:
    """Print how many planted leaks were found, and what else left train."""
    ids = pa.table({"id": [f"{place:08d}" for place in range(num_images)]})
    in_train = splits_of(ids, spec.split, spec.seed) == SPLITS.index(TRAIN)
    first, copies = np.arange(planted), np.arange(planted) + num_images - planted
    across = in_train[first] != in_train[copies]
    leaks = np.where(in_train[first], first, copies)[across]
    dropped = pq.read_table(f"{spec.url}/dropped.parquet", columns=["image_id"])
    left = {int(image_id.partition("_")[0]) for image_id in dropped.column(0).to_pylist()}
    found = left & set(leaks.tolist())
    print(
        f"{planted:,} planted near-duplicates: {int(across.sum()):,} lie across train and another "
        f"split; {len(found):,} of these were found; {len(left - found):,} other images left train"
    )


Told = tuple[dict[str, int], int, dict[str, int], int]
"""Images by split, bytes, images left out by reason, shards written."""


def on_ray(spec: ExportSpec) -> Told:
    """Export in Ray tasks."""
    result: ExportResult = export(spec)
    return result.num_images, result.num_bytes, result.num_dropped, result.num_written


def here(spec: ExportSpec) -> Told:
    """Export in this process, as each task does."""
    summary, _, num_written = written_with_events(spec)
    counts = dict(summary.num_images), summary.num_bytes, dict(summary.num_dropped)
    return (*counts, num_written)


@contextmanager
def most_memory() -> Iterator[list[int]]:
    """The largest resident memory of any child process, looked at twice a second."""
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            for child in psutil.Process().children(recursive=True):
                try:
                    if "ray::" in " ".join(child.cmdline()):
                        most[0] = max(most[0], child.memory_info().rss)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def make_run(folder: str, num_images: int, distinct: int, planted: int) -> Run:
    """A finished run of packed images; `planted` of them look like earlier ones."""
    began = time.perf_counter()
    num_shards = num_images // SHARD
    record = record_of(f"{folder}/press", images={"packing": "webdataset"})
    part = PlanPart("plan/part-00000.parquet", 0, 0, num_images, num_images, 0, num_shards)
    layout = replace(record.layout, parts=(part,), shard_size=SHARD)
    store = Store(record.spec.url)
    store.create(RUN_FILE, replace(record, layout=layout).to_json())
    made = [make_shard(n, distinct, planted) for n in range(max(1, distinct // SHARD))]
    for shard in range(num_shards):
        store_shard(store, made[shard % len(made)], shard)
    print(f"a run of {num_images:,} images made in {time.perf_counter() - began:.0f} s", flush=True)
    return open_run(store.url)


def make_shard(number: int, distinct: int, planted: int) -> MadeShard:
    """A shard of noise; its last images may be noisy copies of those of the first shards."""
    first = number * SHARD
    members, records = list[Member](), list[ImageRecord]()
    for place in range(first, first + SHARD):
        copied = place - (distinct - planted)
        pixels = picture(place if copied < 0 else copied)
        if copied >= 0:
            pixels = np.clip(pixels.astype(np.int16) + 2, 0, 255).astype(np.uint8)
        facts = replace(FACTS, image_id=f"{place:08d}_00", id=f"{place:08d}", width=SIDE)
        facts = replace(facts, height=SIDE, prompt=f"a picture of the number {place}")
        data = encode(pixels, facts, IMAGES)
        members.append(Member(f"{facts.image_id}.png", data, facts))
        records.append(
            ImageRecord(
                facts=facts,
                status="ok",
                attempts=1,
                worker="node-1",
                started_at=1_800_000_000.0 + place,
                sha256=hashlib.sha256(data).hexdigest(),
                num_bytes=len(data),
                sampling_s=1.0,
            )
        )
    packed = pack("webdataset", members, pa.table({"topic": ["t"] * SHARD}))
    located = [
        replace(record, file="", member=at.member, member_offset=at.offset)
        for record, at in zip(records, packed.locations, strict=True)
    ]
    topics = pa.array([f"topic {place % 7}" for place in range(SHARD)])
    ids = [record.facts.image_id for record in records]
    return MadeShard(packed, metadata_part(located, pa.table({"image_id": ids, "topic": topics})))


def picture(number: int) -> np.ndarray:
    """Coarse noise, (24, 24, 3): pictures of different numbers do not look alike."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    return np.kron(coarse, np.ones((4, 4, 1), np.uint8))


def store_shard(store: Store, made: MadeShard, shard: int) -> None:
    """Store a made shard as another, whose images have other ids."""
    path = pack_path("webdataset", shard, made.pack.data)
    store.create(path, made.pack.data)
    ids = [f"{shard * SHARD + place:08d}" for place in range(SHARD)]
    part = made.part
    for name, values in (
        ("id", ids),
        ("image_id", [f"{each}_00" for each in ids]),
        ("file", [path] * SHARD),
    ):
        place = part.schema.get_field_index(name)
        part = part.set_column(place, part.schema.field(place), pa.array(values, pa.string()))
    commit_shard(store, shard, part)


def change(run: Run, shard: int) -> None:
    """Commit a shard again, as a retry does."""
    part = read_commit(run.store, shard)
    place = part.schema.get_field_index("worker")
    workers = pa.array(["node-2"] * len(part), pa.string())
    recommit_shard(run.store, shard, part.set_column(place, part.schema.field(place), workers))


if __name__ == "__main__":
    main()
