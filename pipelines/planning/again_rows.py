"""The rows of images that are made again: taken back from a run's own plan, checked and laid out.

They need no manifest. Each becomes a row as an edition has them, with its settings under names that
a job's `columns` cannot change, and with the image that it comes from as its `parent`.
"""

import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.diffusion_core.conditioning.passes import first_size, passes_from_text
from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.hashing import Hashes, derive_seeds, hash64
from nightpress.pipelines.image_files.portability import folded
from nightpress.pipelines.job.models_section import MODEL, MODEL_NAME
from nightpress.pipelines.job.settings import PRIORITY
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import (
    FIRST_VARIANT,
    OF_EDITIONS,
    PARENT,
    Columns,
    resolve_columns,
)
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.manifest.job_models import JobModel, ModelInfos, job_models
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.planning.added_rows import (
    CheckedRows,
    RowsFile,
    refuse_taken_names,
    rows_files,
    scanned_rows,
)
from nightpress.pipelines.planning.checking import check_files, cut_into_shards
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.planning.parents import Parents
from nightpress.pipelines.planning.parts import plan_part
from nightpress.pipelines.planning.shard_order import read_columns
from nightpress.pipelines.records import PLAN_SCHEMA
from nightpress.pipelines.storage import Store

AGAIN_SETTINGS = (
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "strength",
    "lora",
    "lora_scale",
    "control_scale",
    "reference_scale",
)
"""The settings that may differ from those of the image that another one comes from."""

OWN_COLUMNS = frozenset({"image_id", "variant", "shard", "file", "seed", PARENT})
"""Columns of the plan in which an image always differs from the one that it comes from."""


def check_rows_again(
    spec: RunSpec,
    info: ModelInfos,
    layout: PlanLayout,
    store: Store,
    parents: Sequence[Parents],
    num_images: int,
    settings: Mapping[str, Any],
) -> CheckedRows:
    """Check images that are to be made again, and lay out their plan; nothing is written.

    Args:
        spec: the run's job.
        info: its model, or each of several.
        layout: its plan, that of all editions.
        store: the run directory.
        parents: the images that the new ones come from; at least one.
        num_images: how many come from each.
        settings: those that are to differ, of AGAIN_SETTINGS.

    Raises:
        ManifestError: a row cannot have these settings, or would get the name of another image.
        StoreError: the plan cannot be read.
    """
    files = tuple(rows_files(_tables(spec, info, parents, num_images, settings)))
    with tempfile.TemporaryDirectory(prefix="nightpress-") as folder:
        scanned = [
            scanned_rows(file, Path(folder, f"rows-{n}.parquet")) for n, file in enumerate(files)
        ]
        try:
            checked = check_files(spec, info, scanned, layout.batch_size)
        except ManifestError as error:
            raise _told(error, scanned, files) from error
        _require_alike(spec, info, checked, parents, settings)
        taken = _taken_names(spec, info, layout, store)
        refuse_taken_names(spec, info, layout, taken, f"{store.url}/run.json", checked)
    return CheckedRows(files, cut_into_shards(spec, checked, layout.batch_size, layout.batch_sizes))


def _told(
    error: ManifestError, scanned: Sequence[ManifestFile], files: Sequence[RowsFile]
) -> ManifestError:
    """Problems of the rows files, told as those of the images that the rows come from."""
    parents = {
        file.url: pq.read_table(io.BytesIO(rows.data), columns=[f"{OF_EDITIONS}{PARENT}"])
        for file, rows in zip(scanned, files, strict=True)
    }
    problems = []
    for each in error.problems:
        column = each.column.removeprefix(OF_EDITIONS) if each.column else None
        where = each.file
        if each.file in parents:
            where = "the chosen images"
            if each.row is not None:
                where = f"image {parents[each.file].column(0)[each.row].as_py()}"
        problems.append(replace(each, file=where, row=None, column=column))
    return ManifestError(problems, error.total)


def _tables(
    spec: RunSpec,
    info: ModelInfos,
    parents: Sequence[Parents],
    num_images: int,
    settings: Mapping[str, Any],
) -> Iterator[pa.Table]:
    for some in parents:
        for model, own in _by_model(spec, info, some):
            yield from _rows_of(spec, model, own, num_images, settings)


def _by_model(
    spec: RunSpec, info: ModelInfos, parents: Parents
) -> Iterator[tuple[JobModel, Parents]]:
    """The images of each model."""
    for model in job_models(spec, info):
        if model.name is None:
            yield model, parents
            continue
        own = np.flatnonzero(np.array(pc.equal(parents.images.column(MODEL_NAME), model.name)))
        if len(own):
            yield model, _some(parents, own)


def _some(parents: Parents, indices: Ints) -> Parents:
    return replace(
        parents,
        images=parents.images.take(pa.array(indices)),
        first_variants=parents.first_variants[indices],
    )


def _rows_of(
    spec: RunSpec,
    model: JobModel,
    parents: Parents,
    num_images: int,
    settings: Mapping[str, Any],
) -> Iterator[pa.Table]:
    """The new rows of one section and model; those with pictures in the same columns together."""
    columns = resolve_columns(spec, parents.section.files)
    pictures = [condition_values(row, model.info) for row in _conditions(parents.images)]
    kinds = [_kind(values) for values in pictures]
    for kind in dict.fromkeys(kinds):
        indices = np.array([n for n, each in enumerate(kinds) if each == kind])
        some = _some(parents, indices)
        rows = _plain_settings(model, columns, some, num_images)
        for name in dict.fromkeys(name for n in indices for name in pictures[n]):
            rows[name] = pa.array([pictures[n].get(name) for n in indices])
        if {"control_scale", "reference_scale"} & settings.keys():
            rows = {name: values for name, values in rows.items() if not _is_scale(name, settings)}
        if "lora" in settings:  # another LoRA has its own scale
            rows.pop("lora_scale", None)
        rows |= {name: pa.array([value] * len(indices)) for name, value in settings.items()}
        named = {f"{OF_EDITIONS}{name}": values for name, values in rows.items()}
        for setting, column in spec.columns.items():
            if column is not None:  # the job's column for it is not there
                named.setdefault(f"{OF_EDITIONS}{setting}", pa.nulls(len(indices)))
        yield pa.table(named | _carried(columns, some.images))


def _is_scale(name: str, settings: Mapping[str, Any]) -> bool:
    return any(name.startswith(f"{setting}.") for setting in settings)


def _plain_settings(
    model: JobModel, columns: Columns, parents: Parents, num_images: int
) -> dict[str, pa.Array]:
    """The settings that each row of the plan has as values."""
    spec, info = model.spec, model.info
    images, number = parents.images, len(parents.images)
    sizes = [
        first_size(passes_from_text(passes), width, height)
        for passes, width, height in zip(
            *(images.column(name).to_pylist() for name in ("passes", "width", "height")),
            strict=True,
        )
    ]
    rows = {
        "id": images.column("id"),
        "prompt": images.column("prompt"),
        "seed": _seeds(images, spec.seed),
        "num_images": pa.array([num_images] * number),
        FIRST_VARIANT: pa.array(parents.first_variants),
        PARENT: images.column("image_id"),
        "width": pa.array([width for width, _ in sizes]),
        "height": pa.array([height for _, height in sizes]),
        "num_inference_steps": images.column("num_inference_steps"),
        "scheduler": images.column("scheduler"),
    }
    if info.takes_negative_prompt:
        rows["negative_prompt"] = images.column("negative_prompt")
    if info.takes_guidance:
        rows["guidance_scale"] = images.column("guidance_scale")
    if spec.model.row_loras:
        rows |= {name: images.column(name) for name in ("lora", "lora_scale")}
    if PRIORITY in columns.settings:
        rows[PRIORITY] = images.column(PRIORITY)
    if columns.names_models:
        rows[MODEL] = images.column(MODEL_NAME)
    return rows


def _seeds(images: pa.Table, run_seed: int) -> pa.Array:
    """The seed of each row, which its variants count up from; null if theirs are derived."""
    ids = images.column("id").combine_chunks()
    variants = np.array(images.column("variant")).astype(np.int64)
    seeds = np.array(images.column("seed")).astype(np.int64)
    derived = derive_seeds(hash64(ids, run_seed), variants) == seeds
    return pa.array(seeds - variants, mask=derived)


def _carried(columns: Columns, images: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The carried columns under their names in the manifest, without those of a setting."""
    return {
        each.source: images.column(each.name)
        for each in columns.carried
        if each.name not in columns.read_and_carried
    }


def _conditions(images: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = images.select(["conditioning", "inputs"]).to_pylist()
    return rows


def condition_values(row: Mapping[str, Any], info: ModelInfo) -> dict[str, Any]:
    """The settings of a row that condition its image: pictures, scales, strength and canvas."""
    condition = Conditioning.from_text(row["conditioning"])
    values: dict[str, Any] = {}
    if condition.strength is not None:
        values["strength"] = condition.strength
    if condition.canvas is not None:
        values["canvas"] = list(condition.canvas)
    pairs = zip(condition.controls, condition.control_scales, strict=True)
    values |= {f"control_scale.{name}": scale for name, scale in pairs}
    pairs = zip(condition.adapters, condition.reference_scales, strict=True)
    values |= {f"reference_scale.{name}": scale for name, scale in pairs}
    return values | _pictures(row["inputs"] or (), condition.controls, info)


def _pictures(
    inputs: Iterable[Mapping[str, Any]], controls: Sequence[str], info: ModelInfo
) -> dict[str, Any]:
    """The pictures of a row by the setting that gives them: one, or a list.

    Args:
        inputs: as the plan has them.
        controls: the ControlNets of those of them that are control images, in the same order.
        info: the model.
    """
    pictures: dict[str, list[str | bytes]] = {}
    nets = iter(controls)
    by_net: dict[str, str | bytes] = {}
    for each in inputs:
        role, picture = each["role"], each["url"] if each["data"] is None else each["data"]
        net = next(nets) if role.partition(".")[0] == "control_image" else None
        if net is not None and role == "control_image" and len(info.controlnets) > 1:
            by_net[net] = picture
        else:
            pictures.setdefault(role, []).append(picture)
    values = {role: some[0] if len(some) == 1 else some for role, some in pictures.items()}
    # Without a name, a list has a picture for each ControlNet of the job, null for none.
    every = {"control_image": [by_net.get(each.name) for each in info.controlnets]}
    return values | (every if by_net else {})


def _kind(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What tells apart rows that cannot be in one table: the columns' types."""
    return tuple(
        (name, f"{type(value).__name__} {_element(value)}")
        for name, value in sorted(values.items())
        if isinstance(value, str | bytes | list)
    )


def _element(value: str | bytes | Sequence[Any]) -> str:
    """The type of the first element that is not null."""
    return next((type(each).__name__ for each in value if each is not None), "")


def _require_alike(
    spec: RunSpec,
    info: ModelInfos,
    checked: PlanLayout,
    parents: Sequence[Parents],
    settings: Mapping[str, Any],
) -> None:
    """Make sure that the new images differ from those they come from only as they are meant to."""
    free = OWN_COLUMNS | settings.keys()
    if settings.keys() - set(PLAN_SCHEMA.names):  # the settings of pictures are one text
        free |= {"conditioning"}
    known = {
        row["image_id"]: _compared(row, free) for some in parents for row in some.images.to_pylist()
    }
    for number in range(len(checked.parts)):
        for row in plan_part(spec, info, checked, number).to_pylist():
            before, now = known[row[PARENT]], _compared(row, free)
            for name in before:
                if before[name] != now.get(name):
                    message = f"it would be {now.get(name)!r}, but {before[name]!r} is planned"
                    raise ManifestError([Problem(f"image {row[PARENT]}", None, name, message)])


def _compared(row: Mapping[str, Any], free: frozenset[str]) -> dict[str, Any]:
    pictures = [{k: v for k, v in one.items() if k != "sha256"} for one in row["inputs"] or ()]
    return {k: v for k, v in row.items() if k not in free and v is not None} | {"inputs": pictures}


def _taken_names(spec: RunSpec, info: ModelInfos, layout: PlanLayout, store: Store) -> Hashes:
    """Hashes of the names of the run's images, if those of others could be equal."""
    files = [
        read_columns(store, part, ["file"]).column("file").combine_chunks() for part in layout.parts
    ]
    return np.concatenate([hash64(folded(each), 0) for each in files])
