"""The passes of a job's images: their sizes, and what rows cannot have them.

Everything runs on numpy and Arrow columns; distinct sizes and settings are few.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.conditioning.passes import (
    MODE,
    Pass,
    PassSpec,
    passes_as_text,
    passes_of,
)
from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES, solver_and_suffix
from nightpress.diffusion_core.sampling.schedulers import is_uneven, max_steps
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.sections import MAX_PIXELS
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.conditions_sampling import wrong_sampler
from nightpress.pipelines.manifest.job_models import JobModel
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.row_problems import RowProblems
from nightpress.pipelines.manifest.rows import Rows

KEEPING_MODES = {"inpaint": "mask_image", "outpaint": "canvas"}
"""Modes that keep a part of a picture, which a pass would sample again, and their columns."""


@dataclass(frozen=True)
class PassPlanner:
    """How a job samples images again; picklable."""

    specs: tuple[PassSpec, ...]
    multiples: tuple[int, ...]
    """What widths and heights must be multiples of, for each model of the job."""

    def passes(self, width: int, height: int, model: int = 0) -> tuple[Pass, ...]:
        """The passes of an image that is first sampled at a size."""
        return passes_of(self.specs, width, height, self.multiples[model])

    def final_sizes(self, rows: Rows) -> tuple[Ints, Ints]:
        """Width and height of the finished images; (n,) each."""
        if not self.specs:
            return rows.width, rows.height
        ends = [passes[-1] for passes in self._distinct(rows)]
        found = np.array([(end.width, end.height) for end in ends], np.int64)[_sizes(rows)[1]]
        return found[:, 0], found[:, 1]

    def texts(self, rows: Rows) -> pa.Array:
        """The passes of each row as `passes_as_text`; (n,) string."""
        if not self.specs:
            return pa.nulls(len(rows), pa.string())
        texts = [passes_as_text(passes) for passes in self._distinct(rows)]
        return pc.take(pa.array(texts, pa.string()), pa.array(_sizes(rows)[1]))

    def _distinct(self, rows: Rows) -> list[tuple[Pass, ...]]:
        return [self.passes(*size) for size in _sizes(rows)[0].tolist()]


def _sizes(rows: Rows) -> tuple[Ints, Ints]:
    """The distinct widths, heights and models, (k, 3), and each row's among them, (n,)."""
    width = rows.width.astype(np.int64)
    sizes, which = np.unique(width << 32 | rows.height << 8 | rows.model, return_inverse=True)
    return np.stack([sizes >> 32, sizes >> 8 & 0xFFFFFF, sizes & 0xFF], axis=1), which


def check_passes(model: JobModel) -> None:
    """Check that a model can sample an image again.

    Raises:
        SpecError: it cannot, or not with so many steps.
    """
    spec, info = model.spec, model.info
    if not spec.passes:
        return
    if MODE not in info.modes:
        raise SpecError(
            f"{model.told('passes')}: a pass needs the mode {MODE}, but this model has only: "
            f"{', '.join(info.modes)}"
        )
    for number, each in enumerate(spec.passes):
        if each.num_inference_steps > info.max_steps:
            raise SpecError(
                f"{model.told(f'passes.{number}.num_inference_steps')}: {each.num_inference_steps} "
                f"steps are more than the {info.max_steps} that the model allows"
            )
        if reason := info.too_many_steps(MODE, each.num_inference_steps, each.strength):
            raise SpecError(f"{model.told(f'passes.{number}')}: {reason}")


def check_rows(
    spec: RunSpec,
    infos: Sequence[ModelInfo],
    columns: Columns,
    rows: Rows,
    problems: RowProblems,
) -> None:
    """Add a problem for each row whose image the job's passes cannot make.

    Args:
        infos: of the job's models, in its order.
    """
    if not spec.passes or problems.total:
        return
    planner = PassPlanner(spec.passes, tuple(info.size_multiple for info in infos))
    sizes, which = _sizes(rows)
    wrong = [_wrong_size(planner.passes(*size), spec.images.max_side) for size in sizes.tolist()]
    _add(problems, columns.manifest_name("width"), wrong, which)
    wrong = [_wrong_sampler(name, spec.passes, info) for info in infos for name in SAMPLER_NAMES]
    of_rows = rows.model * len(SAMPLER_NAMES) + rows.scheduler
    _add(problems, columns.manifest_name("scheduler"), wrong, of_rows)
    texts = pc.fill_null(rows.conditioning, "").dictionary_encode()
    for base, name in KEEPING_MODES.items():
        wrong = [_wrong_mode(text, base) for text in texts.dictionary.to_pylist()]
        _add(problems, columns.manifest_name(name), wrong, np.array(texts.indices))


def _add(problems: RowProblems, name: str, wrong: Sequence[str | None], which: Ints) -> None:
    """Add the problem that goes with each row's kind; None for none."""
    bad = np.array([text is not None for text in wrong], np.bool_)[which]
    problems.add(bad, name, lambda row: wrong[which[row]] or "")


def _wrong_size(passes: Sequence[Pass], max_side: int) -> str | None:
    for each in passes:
        before = (
            f"passes: {each.from_width:,} x {each.from_height:,} pixels at scale {each.scale:g}"
        )
        after = f"{before} become {each.width:,} x {each.height:,}"
        if each.width <= each.from_width or each.height <= each.from_height:
            return f"{after}, which is not larger on both sides; use a larger scale"
        if max(each.width, each.height) > max_side:
            return f"{after}, but a side may have at most {max_side:,}"
        if each.width * each.height > MAX_PIXELS:
            return (
                f"{after}, which are more than {MAX_PIXELS:,} pixels, above which Pillow does not "
                "open an image without a warning"
            )
    return None


def _wrong_sampler(name: str, specs: Sequence[PassSpec], info: ModelInfo) -> str | None:
    if reason := wrong_sampler(info, name, MODE):
        return f"passes: {reason}"
    most = max_steps(name, info.max_steps)
    is_trailing = solver_and_suffix(name)[1] == "-trailing"
    for steps in (each.num_inference_steps for each in specs):
        if steps > most:
            return f"passes: {steps} steps are more than the {most} that {name} allows"
        if is_trailing and is_uneven(steps, info.max_steps):
            return (
                f"passes: diffusers would make {steps + 1} trailing timesteps instead of {steps}; "
                "use one step more or less"
            )
    return None


def _wrong_mode(text: str, base: str) -> str | None:
    if Conditioning.from_text(text or None).base != base:
        return None
    return (
        f"passes: a pass samples the whole image again, also the part that {base} keeps; take "
        "passes out of the job, or this row out of the manifest"
    )
