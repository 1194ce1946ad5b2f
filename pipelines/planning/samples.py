"""A few of a job's file names, to look at before the images are made."""

from itertools import accumulate

import numpy as np

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import resolve_columns
from nightpress.pipelines.planning.images import Planner, expand_rows
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.planning.units import WorkUnit, read_batches


def sample_file_names(
    spec: RunSpec, info: ModelInfo, layout: PlanLayout, count: int = 3
) -> list[str]:
    """File names of a few images, from the beginnings of evenly spaced blocks of the manifest.

    Args:
        layout: the plan, as `check` laid it out.
        count: how many names; all of them if the job has fewer images.

    Raises:
        ManifestError: the manifest has changed since it was checked.
        StoreError: the manifest cannot be read.
    """
    planner = Planner(spec, info, resolve_columns(spec, layout.files))
    starts = evenly_spaced(_block_starts(layout), count, endpoint=False)
    names: list[str] = []
    for left, start in zip(range(len(starts), 0, -1), starts, strict=True):
        names += _names_at(planner, layout, start, -(-(count - len(names)) // left))
    return names


def _block_starts(layout: PlanLayout) -> list[int]:
    """The first row of each block, counted over the whole manifest."""
    sizes = [block.num_rows for file in layout.files for block in file.blocks if block.num_rows]
    return list(accumulate(sizes, initial=0))[:-1]


def _names_at(planner: Planner, layout: PlanLayout, first_row: int, count: int) -> list[str]:
    """Names of images of the first rows that are read from there."""
    ranges = layout.row_locator.row_ranges(first_row, layout.num_rows - first_row)[:1]
    batch = next(iter(read_batches(WorkUnit(planner, first_row, ranges), planner.named_columns)))
    rows = np.array(evenly_spaced(range(len(batch.rows)), count))
    images = expand_rows(planner, batch.rows, batch.carried, rows)
    chosen = evenly_spaced(range(len(images)), count)
    return [images.files[index].as_py() for index in chosen]
