"""Choose images that compare the models of a job: the same prompts with each of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.pipelines.hashing import hash64, mix64
from nightpress.pipelines.job.models_section import MODEL_NAME
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import resolve_columns
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.planning.planner import Planner
from nightpress.pipelines.planning.selection import images_of_rows, row_batches
from nightpress.pipelines.planning.units import RowBatch

CANDIDATES = 4_096
"""Prompts among which to choose; drawn by their hashes, so each is there with all of its models."""


@dataclass(frozen=True)
class ComparedPrompts:
    """The images of some prompts, each with the models that the manifest has it for."""

    images: pa.Table
    """Rows of a plan with the carried columns: the first image of each prompt and model."""
    models: tuple[str, ...]
    prompts: tuple[str, ...]
    """In the order of the manifest."""

    def cells(self) -> Iterator[tuple[str, str, str | None]]:
        """Prompt, model and image id of each cell, prompt by prompt; None for no image."""
        columns = (self.images.column(name).to_pylist() for name in ("prompt", MODEL_NAME))
        ids = self.images.column("image_id").to_pylist()
        known = dict(zip(zip(*columns, strict=True), ids, strict=True))
        for prompt in self.prompts:
            for model in self.models:
                yield prompt, model, known.get((prompt, model))


def compared_prompts(
    spec: RunSpec, infos: ModelInfos, layout: PlanLayout, num_images: int
) -> ComparedPrompts:
    """Choose prompts that as many models as possible have, and their first image of each model.

    The same job always gives the same images.

    Args:
        spec: a job with several models.
        infos: of its models.
        layout: the plan, as `check` laid it out.
        num_images: how many images at most, but at least one prompt.

    Raises:
        ManifestError: the manifest has changed since it was checked.
        StoreError: the manifest cannot be read.
    """
    planner = Planner(spec, infos, resolve_columns(spec, layout.files))
    found = _Prompts(len(spec.models))
    for batch in row_batches(planner, layout):
        found.add(batch)
    rows = found.choose(max(1, num_images // len(spec.models)))
    images = images_of_rows(planner, layout, dict.fromkeys(rows, 1))
    prompts = tuple(dict.fromkeys(images.column("prompt").to_pylist()))
    return ComparedPrompts(images, tuple(model.name for model in spec.models), prompts)


@dataclass
class _Prompts:
    """The first row of each prompt and model, for as many prompts as are kept."""

    num_models: int
    _rows: dict[int, dict[int, int]] = field(default_factory=dict)
    """Hash of a prompt -> model -> number of the row."""
    _largest: int = 1 << 64
    """Prompts with larger hashes are not kept."""

    def add(self, batch: RowBatch) -> None:
        """Look at more rows."""
        hashes = mix64(hash64(batch.rows.prompts, 0)).tolist()
        models, numbers = batch.rows.model.tolist(), batch.rows.numbers.tolist()
        for key, model, number in zip(hashes, models, numbers, strict=True):
            if key <= self._largest:
                self._rows.setdefault(key, {}).setdefault(model, number)
        if len(self._rows) > 2 * CANDIDATES:
            kept = sorted(self._rows)[:CANDIDATES]
            self._rows, self._largest = {key: self._rows[key] for key in kept}, kept[-1]

    def choose(self, num_prompts: int) -> Sequence[int]:
        """The numbers of the rows of some prompts: those that most models have, evenly spaced."""
        groups = sorted(self._rows.values(), key=lambda rows: min(rows.values()))
        most = max(map(len, groups))
        full = [rows for rows in groups if len(rows) == most]
        chosen = evenly_spaced(full, num_prompts)
        others = [rows for rows in groups if len(rows) < most]
        others.sort(key=len, reverse=True)
        chosen = [*chosen, *others[: num_prompts - len(chosen)]]
        return sorted(number for rows in chosen for number in rows.values())
