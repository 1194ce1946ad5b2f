"""The rows of a walk over a manifest: from each row's image to the next row's, or to one seed.

A row keeps its settings and carried columns. What it says about its start is what its job would
have made, so the first frame of its clip is bit for bit the job's own image.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.conditioning.passes import first_size, passes_from_text
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.errors import ManifestError, Problem, SpecError
from nightpress.pipelines.job.settings import PRIORITY
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import resolve_columns
from nightpress.pipelines.planning.images import first_image_of_each_row
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.planning.parts import images_table
from nightpress.pipelines.planning.planner import Planner
from nightpress.pipelines.planning.units import WorkUnit, read_batches
from nightpress.pipelines.records import PLAN_SCHEMA

MAX_ROWS = 100_000
"""Rows of the longest walk; they are held in memory."""


def walk_rows(spec: RunSpec, info: ModelInfo, layout: PlanLayout, to_seed: int | None) -> pa.Table:
    """The rows of a walk over the manifest of a job of still images, in its order.

    Args:
        spec: the job.
        info: its model, which makes still images.
        layout: the plan of the job, as `check` laid it out.
        to_seed: the seed that every clip ends at, with its own prompt; None to walk from each row
            to the next, which makes one clip less than there are rows.

    Returns:
        A manifest: settings under their own names, `to_prompt` and `to_seed`, carried columns.

    Raises:
        SpecError: there are too few rows, or too many.
        ManifestError: a row has pictures, or the manifest has changed since it was checked.
    """
    if layout.num_rows > MAX_ROWS:
        raise SpecError(f"walk: {layout.num_rows:,} rows; at most {MAX_ROWS:,} are walked over")
    if layout.num_rows < 2 and to_seed is None:
        raise SpecError(
            "walk: the manifest has one row, and there is no next one to walk to; --to-seed walks "
            "from its seed to another"
        )
    images = _first_images(spec, info, layout)
    rows = _settings(spec, info, images)
    if to_seed is not None:
        rows["to_seed"] = pa.array([to_seed] * len(images), pa.int64())
        return pa.table(rows)
    table = pa.table(rows)
    ends = table.slice(1)
    table = table.slice(0, len(table) - 1)
    table = table.append_column("to_prompt", ends.column("prompt"))
    return table.append_column("to_seed", ends.column("seed"))


def _first_images(spec: RunSpec, info: ModelInfo, layout: PlanLayout) -> pa.Table:
    """The first image of each row, as rows of a plan, in the order of the manifest."""
    columns = resolve_columns(spec, layout.files)
    planner = Planner(spec, info, columns)
    tables = []
    for first_row, ranges in layout.units:
        for batch in read_batches(WorkUnit(planner, first_row, ranges), columns):
            batch.problems.raise_if_any()
            if batch.rows.any_conditioned:
                row = batch.first_row + pc.index(batch.rows.conditioning.is_valid(), True).as_py()
                why = "walk: it has pictures, and only rows of text alone are walked over"
                raise ManifestError([Problem(batch.file, row, None, why)])
            images = first_image_of_each_row(planner, batch.rows, batch.carried)
            tables.append(images_table(images))
    return pa.concat_tables(tables)


def _settings(spec: RunSpec, info: ModelInfo, images: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The columns of a manifest that makes these images."""
    sizes = _first_sizes(images)
    rows: dict[str, pa.ChunkedArray] = {
        name: images.column(name) for name in ("id", "prompt", "seed")
    }
    rows |= sizes
    rows |= {name: images.column(name) for name in ("num_inference_steps", "scheduler")}
    if info.takes_negative_prompt:
        rows["negative_prompt"] = images.column("negative_prompt")
    if info.takes_guidance:
        rows["guidance_scale"] = images.column("guidance_scale")
    if spec.model.row_loras:
        rows |= {name: images.column(name) for name in ("lora", "lora_scale")}
    carried = [name for name in images.column_names if name not in PLAN_SCHEMA.names]
    if PRIORITY in carried:  # it is a setting as well
        carried.remove(PRIORITY)
        rows[PRIORITY] = images.column(PRIORITY)
    return rows | {name: images.column(name) for name in carried}


def _first_sizes(images: pa.Table) -> Mapping[str, pa.ChunkedArray]:
    """Width and height when each image is sampled for the first time, before its passes."""
    columns = (images.column(name).to_pylist() for name in ("passes", "width", "height"))
    sizes = [
        first_size(passes_from_text(passes), width, height)
        for passes, width, height in zip(*columns, strict=True)
    ]
    widths, heights = zip(*sizes, strict=True)
    return {
        name: pa.chunked_array([pa.array(values, pa.int64())])
        for name, values in (("width", widths), ("height", heights))
    }
