"""Small runs to export, and exports written in this process."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from support import made_runs

from nightpress.pipelines import Run, open_run
from nightpress.pipelines.export.events import Event
from nightpress.pipelines.export.plan import plan_of
from nightpress.pipelines.export.record import create_export, record_for
from nightpress.pipelines.export.sources import open_sources
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.export.summary import ExportSummary
from nightpress.pipelines.export.writing import ExportWriter
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.planning import PlanPart
from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.scoring.perceptual_hash import perceptual_hash
from nightpress.pipelines.storage import Store

Pixels = NDArray[np.uint8]

SPLIT = {"by": "id", "validation": "20%", "test": "20%"}
"""`made_runs.finish` makes ten images: one failed, six are in train and one is in test."""


def finished_run(output: Path | str, name: str = "run", **job: Any) -> Run:
    """The run of `made_runs.finish` in a folder."""
    run = made_runs.begin(str(output), name=name, **job)
    made_runs.finish(run)
    return open_run(run.url)


def pictured_run(
    output: Path | str, pictures: Mapping[str, Pixels], name: str = "run", hashed: bool = False
) -> Run:
    """A run with these pictures, one for each id, in shards of four.

    Args:
        hashed: whether its metadata has their perceptual hashes.
    """
    items = list(pictures.items())
    run = begin_with(output, name, len(items))
    for shard, start in enumerate(range(0, len(items), made_runs.SHARD_SIZE)):
        some = items[start : start + made_runs.SHARD_SIZE]
        records = [stored(run, id_, pixels, hashed) for id_, pixels in some]
        made_runs.commit(run, shard, records)
    return open_run(run.url)


def begin_with(output: Path | str, name: str, num_images: int, **job: Any) -> Run:
    """A run that will have so many images, in shards of four."""
    record = made_runs.record_of(str(output), name=name, **job)
    num_shards = -(-num_images // made_runs.SHARD_SIZE)
    part = PlanPart("plan/part-00000.parquet", 0, 0, num_images, num_images, 0, num_shards)
    record = replace(record, layout=replace(record.layout, parts=(part,)))
    store = Store(record.spec.url)
    store.create(RUN_FILE, record.to_json())
    return open_run(store.url)


def stored(run: Run, id_: str, pixels: Pixels, hashed: bool = False) -> ImageRecord:
    """Store a picture; returns its record."""
    height, width = pixels.shape[:2]
    facts = replace(made_runs.FACTS, image_id=f"{id_}_00", id=id_, width=width, height=height)
    data = encode(pixels, facts, run.spec.images)
    file = f"images/{facts.image_id}.{run.spec.images.suffix}"
    run.store.create(file, data)
    return ImageRecord(
        facts=facts,
        status="ok",
        attempts=1,
        worker="node-1",
        started_at=made_runs.BEGIN,
        file=file,
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        sampling_s=1.0,
        perceptual_hash=perceptual_hash(pixels) if hashed else None,
    )


def spec_of(folder: Path | str, runs: str | Sequence[str], **keys: Any) -> ExportSpec:
    """An export named `set` of some runs."""
    sources = runs if isinstance(runs, str) else list(runs)
    return ExportSpec.from_dict(
        {"name": "set", "from": sources, "output": f"{folder}/sets", **keys}
    )


def written(spec: ExportSpec, store: Store | None = None) -> ExportSummary:
    """Write an export in this process; returns what it holds."""
    return written_with_events(spec, store)[0]


def written_with_events(
    spec: ExportSpec, store: Store | None = None
) -> tuple[ExportSummary, list[Event], int]:
    """Write an export in this process: what it holds, the events, and how many shards it wrote."""
    sources, store = open_sources(spec), store or Store(spec.url, spec.storage)
    record = create_export(store, record_for(store, spec, sources), sources)
    writer = ExportWriter(plan_of(spec, store, sources, record.columns), sources)
    events = list(writer.events())
    return writer.summary, events, writer.num_written


def files_of(url: str) -> dict[str, bytes]:
    """Path -> bytes of every file of a local export."""
    root = Path(url)
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def parts_of(url: str) -> dict[str, bytes]:
    """Path -> bytes of every file with images or their columns."""
    return {path: data for path, data in files_of(url).items() if path.startswith("data/")}


def rows_of(url: str, split: str = "*") -> list[Mapping[str, Any]]:
    """The rows of an export in Parquet, in the order of its files."""
    paths = sorted(Path(url).glob(f"data/{split}-*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in paths]).to_pylist() if paths else []


def ids_of(url: str, split: str = "*") -> set[str]:
    """The ids of the images in a split."""
    return {row["image_id"] for row in rows_of(url, split)}


AWKWARD_IDS = (
    *("a b c", "ünï-ço✓", "A.b", ".hidden", "__dunder", "L" * 230, "x.y.z", "CON"),
    *("100%", "q%2Fq", "tab#?&", "Same", "same", "sub/folder", "last", "漢" * 60),
)
AWKWARD_CAPTIONS = (
    *("line 1\nline 2\r\nline 3", "", "x" * 4000, "tab\there", "a\u2028b", "c\u0085d"),
    *("quote \"'|`<b>", "{x} %s", "漢字", "back\\slash", "  spaces  ", "\U0001f600", "e\u0301"),
    *("null: ~", "---\nname: x\n---", "-"),
)
"""The caption of each of the awkward ids; no two are the same."""


def awkward_columns(num_rows: int, only: bool) -> dict[str, pa.Array]:
    """Carried columns whose names or values some reader takes for something else.

    Args:
        only: whether `late` has values, which the first samples of a set should lack.
    """
    texts = (
        *("image", "file_name", "own_file_name", "split", "key", "url", "text", "path"),
        *("chosen", "rejected_seed", "scores.clip", "style", "Style", "a/b.c d", "ünï", "{br}"),
        *("q\"uo'te", "new\nline", "new line", "train", "__key__", "label"),
    )
    columns = {name: pa.array([f"of {name}"] * num_rows) for name in texts}
    return columns | {
        "late": pa.array([1.5 if only else None] * num_rows, pa.float64()),
        "list": pa.array([[1, 2]] * num_rows, pa.list_(pa.int64())),
        "struct": pa.array([{"a": [{"b": 1}]}] * num_rows),
        "bytes": pa.array([b"\x00\xff"] * num_rows),
        "fraction": pa.array([float("nan")] * num_rows),
        "dictionary": pa.array(["d"] * num_rows).dictionary_encode(),
    }


def awkward_run(output: Path | str, name: str, **images: Any) -> Run:
    """A finished run with awkward ids, columns and captions; image n has `made_runs.colour(n / 2)`.

    Args:
        images: the section of its job.
    """
    number = len(AWKWARD_IDS)
    run = begin_with(output, name, number, images=images)
    for shard, start in enumerate(range(0, number, made_runs.SHARD_SIZE)):
        places = range(start, start + made_runs.SHARD_SIZE)
        pictures = [np.full((16, 16, 3), made_runs.colour(n / 2), np.uint8) for n in places]
        records = [
            replace(stored(run, f"{n:02d}", pixels), scores={"clip": float(n)})
            for n, pixels in zip(places, pictures, strict=True)
        ]
        records = [
            replace(
                each, facts=replace(each.facts, id=AWKWARD_IDS[n], image_id=f"{AWKWARD_IDS[n]}_00")
            )
            for n, each in zip(places, records, strict=True)
        ]
        columns = awkward_columns(len(places), only=shard == number // made_runs.SHARD_SIZE - 1)
        captions = pa.array(AWKWARD_CAPTIONS[start : start + len(places)])
        made_runs.commit(run, shard, records, words=captions, **columns)
    return open_run(run.url)
