"""Everything that a run knows of one image, and a job that makes it again."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow.compute as pc
import yaml

from nightpress.diffusion_core.conditioning.passes import first_size, passes_from_text
from nightpress.pipelines.errors import Damaged, ImageNotFound, StoreMissing
from nightpress.pipelines.job.models_section import MODEL_NAME
from nightpress.pipelines.job.settings import PRIORITY, is_setting
from nightpress.pipelines.planning import candidate_shards, read_shard
from nightpress.pipelines.planning.again_rows import condition_values
from nightpress.pipelines.records import PLAN_SCHEMA, RESERVED_COLUMNS, PlannedInput
from nightpress.pipelines.run_directory.committed_parts import committed_parts
from nightpress.pipelines.run_directory.metadata_rows import metadata_rows
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord

FIRST = ("image_id", "prompt", "negative_prompt", "seed", "width", "height", "status")
"""Facts in the order in which people look for them; the others follow in that of the metadata."""

NOT_PLANNED = "it is not in the plan."

SECTIONS = ("model", "sampling", "passes", "storage")
"""Sections of the run's job that decide what an image is, as far as its row does not."""


@dataclass(frozen=True)
class ImageFactSheet:
    """The facts of one image."""

    facts: tuple[tuple[str, str], ...]
    """Name and value as text."""
    job: str
    """A job and the one row of its manifest, as text for people; why there is none otherwise."""


def fact_sheet(run: Run, image_id: str) -> ImageFactSheet:
    """The facts of an image, read from its commit and the plan.

    Raises:
        ImageNotFound: no such image is committed.
        StoreError: the run cannot be read.
    """
    with run.reading():
        row = run.row(image_id)
    if row is None:
        raise ImageNotFound(f"{run.url}: no image {image_id!r} is committed")
    try:
        return _sheet(run, row, _planned(run, image_id))
    except (Damaged, StoreMissing) as error:
        return _sheet(run, row, None, str(error))


def fact_sheets(run: Run) -> Iterator[tuple[str, ImageFactSheet]]:
    """The id and the facts of each image that is ok, shard by shard.

    Raises:
        Damaged: a commit is not what was written.
        StoreError: the run cannot be read.
    """
    for part in committed_parts(run, run.metadata.schema):
        planned, why = dict[str, dict[str, Any]](), NOT_PLANNED
        try:
            plan = read_shard(run.store, run.record.layout, part.shard)
            planned = {row["image_id"]: row for row in plan.to_pylist()}
        except (Damaged, StoreMissing) as error:
            why = str(error)
        for row in metadata_rows(part.rows.filter(pc.field("status") == "ok")):
            yield row["image_id"], _sheet(run, row, planned.get(row["image_id"]), why)


def _sheet(
    run: Run, row: Mapping[str, Any], planned: Mapping[str, Any] | None, why: str = NOT_PLANNED
) -> ImageFactSheet:
    """The facts of a metadata row, with the job of its row in the plan or why there is none."""
    if planned is None:
        return ImageFactSheet(tuple(_facts(row)), f"# There is no job: {why}\n")
    carried = {name: value for name, value in planned.items() if name not in PLAN_SCHEMA.names}
    return ImageFactSheet(tuple(_facts({**carried, **row})), job_text(run, row, planned))


def planned_inputs(run: Run, image_id: str) -> tuple[PlannedInput, ...]:
    """The pictures that an image was planned to be made from; none if it is not in the plan.

    Raises:
        StoreError: the plan cannot be read.
    """
    planned = _planned(run, image_id) or {}
    return tuple(PlannedInput(**each) for each in planned.get("inputs") or ())


def _facts(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = [*FIRST, *(name for name in row if name not in FIRST)]
    for name in names:
        value = row[name]
        if name == "scores":
            yield from ((f"score {each}", _text(number)) for each, number in (value or {}).items())
        elif value is not None and value != [] and value != "":
            yield name, _text(value)


def _text(value: Any) -> str:
    match value:
        case None:
            return "none"
        case list() | dict():
            return json.dumps(value, ensure_ascii=False, default=str)
        case bytes():
            return f"{len(value):,} bytes"
        case _:
            return str(value)


def job_text(run: Run, row: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """A job that makes an image again, with the row of its manifest; both as text for people.

    The batch size and the threads of a CPU are those of the run, since they decide the last bits.

    Args:
        run: the run of the image.
        row: its metadata row.
        planned: its row in the plan, with the carried columns.
    """
    name = "again-" + re.sub(r"[^A-Za-z0-9._-]", "-", row["image_id"])[:100]
    record = _record_of(run, planned.get(MODEL_NAME))
    values, left_out = _manifest_row(record, planned, row)
    # In ASCII: YAML takes some other characters for line breaks, which would end the comment.
    manifest = json.dumps(values, default=str)
    model = planned.get(MODEL_NAME)
    text = _job_yaml(run, model, row["dtype"], row["batch_size"]).replace(PLACE_OF_NAME, name)
    return (
        f"# Save this as {name}.yaml, and the line at the end as {name}.jsonl beside it, without\n"
        f"# the hash sign; then: nightpress run {name}.yaml\n"
        + "".join(f"# Not in it: {each}\n" for each in left_out)
        + text
        + f"# {manifest}\n"
    )


PLACE_OF_NAME = "again-8d1f0c7e5b3a4962"
"""Stands for the name of a job in a text that is kept; as YAML it is written as names are."""


@lru_cache(maxsize=8)
def _job_yaml(run: Run, model: str | None, dtype: str, batch_size: int) -> str:
    job = _job(_record_of(run, model), dtype, batch_size, PLACE_OF_NAME)
    text: str = yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _record_of(run: Run, model: str | None) -> RunRecord:
    """The record of a run as if it had the model of an image alone."""
    return run.record.of_model(model) if run.record.models and model else run.record


def _job(record: RunRecord, dtype: str, batch_size: int, name: str) -> dict[str, Any]:
    spec = record.spec
    chosen = spec.model_dump(mode="json", exclude_defaults=True)
    model = {"source": record.model.source, **chosen.get("model", {}), "dtype": dtype}
    images = {k: v for k, v in chosen.get("images", {}).items() if k in ("format", "quality")}
    inputs = {k: v for k, v in chosen.get("inputs", {}).items() if k in ("root", "fit")}
    job = {
        "name": name,
        "manifest": f"{name}.jsonl",
        "output": "again",
        **{key: chosen[key] for key in SECTIONS if key in chosen},
        "model": model,
        "images": images,
        "inputs": inputs,
        "batch": {"size": batch_size},
        "cluster": {"cpus_per_actor": record.threads} if record.threads else {},
    }
    return {key: value for key, value in job.items() if value != {}}


def _planned(run: Run, image_id: str) -> dict[str, Any] | None:
    """The row of an image in the plan; None if it is in none of its shards."""
    store, layout = run.store, run.record.layout
    for shard in candidate_shards(store, layout, run.spec.seed, image_id):
        rows = read_shard(store, layout, shard)
        found = rows.filter(pc.equal(rows.column("image_id"), image_id))
        if len(found):
            planned: dict[str, Any] = found.to_pylist()[0]
            return planned
    return None


def _manifest_row(
    record: RunRecord, planned: Mapping[str, Any], row: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The row of a manifest that plans the image, and what such a text cannot hold."""
    info = record.model
    width, height = first_size(
        passes_from_text(planned["passes"]), planned["width"], planned["height"]
    )
    values: dict[str, Any] = {
        "id": planned["id"],
        "prompt": planned["prompt"],
        "seed": row["seed"],  # that of the draw that was taken, which no variant changes
        "width": width,
        "height": height,
        "num_inference_steps": planned["num_inference_steps"],
        "scheduler": planned["scheduler"],
    }
    if info.takes_negative_prompt and planned["negative_prompt"]:
        values["negative_prompt"] = planned["negative_prompt"]
    if info.takes_guidance:
        values["guidance_scale"] = planned["guidance_scale"]
    values |= {key: planned[key] for key in ("lora", "lora_scale") if planned[key] is not None}
    values |= condition_values(planned, info)
    values |= {
        name: value
        for name, value in planned.items()
        if not (name in RESERVED_COLUMNS or name in values or value is None)
        and (name == PRIORITY or not is_setting(name))
    }
    left_out = [
        f"the picture {name!a}, whose bytes the manifest held"
        for name in values
        if _has_bytes(values[name])
    ]
    kept = {name: value for name, value in values.items() if not _has_bytes(value)}
    return kept, left_out


def _has_bytes(value: Any) -> bool:
    if isinstance(value, list):
        return any(_has_bytes(each) for each in value)
    return isinstance(value, bytes)
