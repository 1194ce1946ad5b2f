"""Small runs to export, and exports written in this process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support import made_runs

from nightpress.pipelines import Run, open_run
from nightpress.pipelines.export.events import Event
from nightpress.pipelines.export.plan import plan_of
from nightpress.pipelines.export.record import create_export, record_for
from nightpress.pipelines.export.sources import open_sources
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.export.summary import ExportSummary
from nightpress.pipelines.export.writing import ExportWriter
from nightpress.pipelines.storage import Store

SPLIT = {"by": "id", "validation": "20%", "test": "20%"}
"""Of the ten images of `made_runs.finish`, one failed, six are in train and one is in test."""


def finished_run(output: Path | str, name: str = "run", **job: Any) -> Run:
    """The run of `made_runs.finish` in a folder."""
    run = made_runs.begin(str(output), name=name, **job)
    made_runs.finish(run)
    return open_run(run.url)


def spec_of(folder: Path | str, runs: str | Sequence[str], **keys: Any) -> ExportSpec:
    """An export named `set` of some runs."""
    sources = runs if isinstance(runs, str) else list(runs)
    return ExportSpec.from_dict(
        {"name": "set", "from": sources, "output": f"{folder}/sets", **keys}
    )


def written(spec: ExportSpec) -> ExportSummary:
    """Write an export in this process; returns what it holds."""
    return written_with_events(spec)[0]


def written_with_events(spec: ExportSpec) -> tuple[ExportSummary, list[Event], int]:
    """Write an export in this process: what it holds, the events, and how many shards it wrote."""
    sources, store = open_sources(spec), Store(spec.url, spec.storage)
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
