"""Compare what metadata rows say about adapters and pictures with what the plan asks for."""

from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.conditioning.passes import passes_from_text
from nightpress.diffusion_core.conditioning.spec import TEXT, Conditioning
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.inputs.preparing import input_info
from nightpress.pipelines.records import CLIP_TYPE, PlannedInput
from nightpress.pipelines.run_directory.commit import metadata_columns

PLANNED_CLIP = tuple(name for name in CLIP_TYPE.names if name != "model_fps")

CONDITION_COLUMNS = (
    "mode",
    "strength",
    "canvas",
    "controlnets",
    "references",
    "inputs",
    "passes",
    *PLANNED_CLIP,
)
"""Metadata columns that follow from the plan's `conditioning`, `inputs`, `passes` and `clip`."""


def wrong_loras(part: pa.Table, planned: pa.Table, model: ModelInfo) -> str | None:
    """The first row whose LoRAs are not the planned ones, if any."""
    if not model.row_loras:
        return None
    columns = (planned.column("lora"), planned.column("lora_scale"), part.column("loras"))
    known = {None, *(each.name for each in model.row_loras)}
    for row, (lora, scale, used) in enumerate(zip(*(c.to_pylist() for c in columns), strict=True)):
        if lora not in known:
            return f"row {row}, column lora of the plan: the run has no LoRA {lora!r}"
        if used != [asdict(each) for each in model.loras_of(lora, scale)]:
            return f"row {row}, column loras: {used!r}, but the plan has {lora!r} at {scale!r}"
    return None


def wrong_conditioning(part: pa.Table, planned: pa.Table, model: ModelInfo, fit: str) -> str | None:
    """The first row that was conditioned by other pictures or settings than planned, if any.

    The hashes of pictures are known only from the metadata, so they are not compared.

    Args:
        part: a commit of any version, with as many rows as `planned`.
        fit: how the job fits pictures.
    """
    metadata = metadata_columns(part, CONDITION_COLUMNS)
    plans = planned.select(["conditioning", "inputs", "passes", "clip"])
    if _all_of_text(metadata) and all(map(_is_empty, plans.columns)):
        return None
    pairs = zip(metadata.to_pylist(), plans.to_pylist(), strict=True)
    for row, (values, plan) in enumerate(pairs):
        try:
            expected = _expected(plan, model, fit)
        except LookupError as error:
            return f"row {row}, column conditioning of the plan: {error.args[0]}"
        inputs = [_without_hash(each) for each in values["inputs"] or ()]
        found = values | {"mode": values["mode"] or TEXT, "inputs": inputs}
        for name in CONDITION_COLUMNS:
            if (found[name] or None) != (expected[name] or None):
                what = f"{found[name]!r}, but the plan has {expected[name]!r}"
                return f"row {row}, column {name}: {what}"
    return None


def _all_of_text(metadata: pa.Table) -> bool:
    """Whether nothing but text made any of the images, found without a loop over them."""
    modes = pc.fill_null(metadata.column("mode"), TEXT)
    others = (metadata.column(name) for name in CONDITION_COLUMNS if name != "mode")
    return pc.all(pc.equal(modes, TEXT), min_count=0).as_py() and all(map(_is_empty, others))


def _is_empty(column: pa.ChunkedArray) -> bool:
    """Whether all values are null or empty lists."""
    if not pa.types.is_list(column.type):
        return bool(column.null_count == len(column))
    return not pc.sum(pc.list_value_length(column)).as_py()


def _without_hash(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "sha256"}


def _expected(plan: dict[str, Any], model: ModelInfo, fit: str) -> dict[str, Any]:
    """`CONDITION_COLUMNS` of a row of the plan.

    Raises:
        LookupError: the run has no adapter of a name.
    """
    conditioning = Conditioning.from_text(plan["conditioning"])
    controls = model.controlnets_of(conditioning.controls, conditioning.control_scales)
    references = model.references_of(conditioning.adapters, conditioning.reference_scales)
    return {
        "mode": conditioning.mode,
        "strength": conditioning.strength,
        "canvas": None if conditioning.canvas is None else list(conditioning.canvas),
        "controlnets": [asdict(each) for each in controls],
        "references": [asdict(each) for each in references],
        "inputs": [
            _without_hash(asdict(input_info(PlannedInput(**each), fit)))
            for each in plan["inputs"] or ()
        ],
        "passes": [asdict(each) for each in passes_from_text(plan["passes"])],
        **(plan["clip"] or dict.fromkeys(PLANNED_CLIP)),
    }
