"""Complete plans made in one process: a manifest is written, checked, planned and read back."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.errors import Change, ManifestError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import (
    PlanLayout,
    check,
    compare_manifest,
    read_shard,
    write_plan,
)
from nightpress.pipelines.storage import Store

MODEL = ModelInfo(
    source="builtin",
    fingerprint="f" * 64,
    pipeline="StableDiffusionPipeline",
    size_multiple=8,
    width=128,
    height=96,
    num_inference_steps=20,
    guidance_scale=4.5,
    samplers=("ddim", "euler", "dpmsolver++"),
    takes_negative_prompt=True,
    own_sampler="ddim",
)

SIZELESS = replace(MODEL, width=None, height=None)

Row = Mapping[str, Any]


def job(folder: Path, manifest: Path | Sequence[Path], **values: Any) -> RunSpec:
    """A job for these manifests whose output is in the same folder."""
    paths = [manifest] if isinstance(manifest, Path) else manifest
    return RunSpec.from_dict(
        {
            "name": "run",
            "manifest": [str(path) for path in paths],
            "output": str(folder / "out"),
        }
        | values
    )


def write(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as a manifest in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(path.suffix, rows))
    return path


def encoded(suffix: str, rows: Sequence[Row]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    match suffix:
        case ".parquet":
            sink = io.BytesIO()
            pq.write_table(pa.table({n: [row.get(n) for row in rows] for n in names}), sink)
            return sink.getvalue()
        case ".jsonl":
            return "".join(json.dumps(row) + "\n" for row in rows).encode()
        case ".txt":
            return "".join(f"{row['prompt']}\n" for row in rows).encode()
        case _:
            text = io.StringIO(newline="")
            separator = "\t" if suffix == ".tsv" else ","
            writer = csv.DictWriter(text, names, delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
            return text.getvalue().encode()


def planned(
    spec: RunSpec, info: ModelInfo = MODEL, batch_size: int = 1
) -> tuple[PlanLayout, pa.Table]:
    """Plan a job; returns the layout and every image of the plan, read shard by shard."""
    layout = check(spec, info, batch_size)
    store = Store(spec.url, spec.storage)
    list(write_plan(spec, info, layout, store))
    shards = [read_shard(store, layout, shard) for shard in range(layout.num_shards)]
    return layout, pa.concat_tables(shards)


def manifest_changes(layout: PlanLayout, spec: RunSpec) -> list[Change]:
    """How the manifest differs from the one that was planned; empty if it does not."""
    return list(compare_manifest(layout.files, spec).changes)


def images_by_id(table: pa.Table, *without: str) -> dict[str, dict[str, Any]]:
    """The rows by image_id, without some columns, such as those that depend on the plan's order."""
    rows = table.drop_columns([name for name in without if name in table.schema.names])
    return {row["image_id"]: row for row in rows.to_pylist()}


def problems_of(spec: RunSpec, info: ModelInfo = MODEL) -> list[str]:
    """The problems that `check` finds, as text without the folder."""
    with pytest.raises(ManifestError) as caught:
        check(spec, info)
    folder = str(Path(spec.output).parent) + "/"
    return [str(problem).replace(folder, "") for problem in caught.value.problems]


def problems_of_rows(tmp_path: Path, *rows: dict[str, Any], **values: Any) -> list[str]:
    """The problems that `check` finds in rows written as JSON Lines."""
    return problems_of(job(tmp_path, write(tmp_path / "m.jsonl", rows), **values))
