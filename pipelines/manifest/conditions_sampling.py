"""Check that rows with pictures can be sampled as they ask: sampler, steps, and ControlNets.

diffusers fails on some of these rows, and leaves out of others what they ask for, without a word.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightpress.diffusion_core.models.controlnet_spec import ControlNetSpec
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.modes import least_strength, steps_taken
from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.settings import base_setting
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.distinct import distinct_rows
from nightpress.pipelines.manifest.modes import mode_name
from nightpress.pipelines.manifest.numbers import Floats, Ints
from nightpress.pipelines.manifest.refusals import Refusals


@dataclass(frozen=True)
class SampledRows:
    """What decides whether n rows can be sampled; (n,) each."""

    modes: Ints
    """As `modes_of_rows` returns them."""
    strength: Floats
    """The row's own or the default of its mode; NaN if the mode has none."""
    steps: Ints
    scheduler: Ints
    """Index in `SAMPLER_NAMES`, or -1 if the row names none that the model has."""
    controls: NDArray[np.bool_]
    """(n, ControlNets) which of the job's ControlNets a row uses; (n, 1) without any."""


@dataclass(frozen=True)
class SamplingChecks:
    """Checks rows of one manifest; picklable."""

    info: ModelInfo
    columns: Columns
    controlnets: Sequence[ControlNetSpec] = ()
    """Those of the job, in the order of `info.controlnets`."""

    def default_strengths(self, modes: Ints) -> Floats:
        """The strength of rows that give none, (n,); NaN where their mode has none."""
        found = np.full(len(modes), np.nan)
        for code in np.unique(modes).tolist():
            default = self.info.default_strength(mode_name(code))
            if default is not None:
                found[modes == code] = default
        return found

    def check(self, rows: SampledRows, refusals: Refusals) -> None:
        """Add a problem for each row that cannot be sampled."""
        used = list(rows.controls.T)
        checks: list[tuple[str, list[Ints | Floats], Callable[[SampledRows, int], str | None]]] = [
            ("strength", [rows.modes, rows.strength, rows.steps], self._no_steps),
            ("scheduler", [rows.modes, rows.scheduler], self._wrong_sampler),
            (self._control_column(), [rows.modes, *used], self._wrong_controls),
            (
                "num_inference_steps",
                [rows.modes, rows.strength, rows.steps, rows.scheduler, *used],
                self._idle_control,
            ),
        ]
        for setting, columns, why in checks:
            codes, firsts = distinct_rows(columns)
            reasons = [why(rows, row) for row in firsts.tolist()]
            bad = np.array([reason is not None for reason in reasons], np.bool_)[codes]
            refusals.add(
                bad,
                self.columns.manifest_name(setting),
                lambda row, reasons=reasons, codes=codes: reasons[codes[row]] or "",  # type: ignore[misc]
            )

    def _mode(self, rows: SampledRows, row: int) -> str | None:
        """The mode of a row; None if the model does not have it, which is reported already."""
        mode = mode_name(int(rows.modes[row]))
        return mode if mode in self.info.modes else None

    def _control_column(self) -> str:
        named = (name for name in self.columns.settings if base_setting(name) == "control_image")
        return next(named, "control_image")

    def _no_steps(self, rows: SampledRows, row: int) -> str | None:
        """Why no denoising step is left, which diffusers runs without a word."""
        mode, steps, strength = self._mode(rows, row), int(rows.steps[row]), rows.strength[row]
        if mode is None or np.isnan(strength):
            return None
        if self.info.takes_all_steps(mode):
            return self.info.too_many_steps(mode, steps, float(strength))
        if int(steps * strength) >= 1:
            return None
        return (
            f"the strength {strength:g} leaves none of {plural(steps, 'step')} to take; with that "
            f"many it must be at least {least_strength(steps):g}"
        )

    def _wrong_sampler(self, rows: SampledRows, row: int) -> str | None:
        mode, index = self._mode(rows, row), int(rows.scheduler[row])
        return (
            None
            if mode is None or index < 0
            else wrong_sampler(self.info, SAMPLER_NAMES[index], mode)
        )

    def _wrong_controls(self, rows: SampledRows, row: int) -> str | None:
        names = [self.info.controlnets[number].name for number in self._used(rows, row)]
        return self.info.why_not_together(names) if names else None

    def _idle_control(self, rows: SampledRows, row: int) -> str | None:
        """Which ControlNet would act on no step."""
        index, strength = int(rows.scheduler[row]), float(rows.strength[row])
        if self._mode(rows, row) is None or index < 0:
            return None
        sampler = self.info.sampler_that_runs(SAMPLER_NAMES[index])
        share = None if np.isnan(strength) else strength
        taken = steps_taken(self.info.pipeline, int(rows.steps[row]), share)
        for number in self._used(rows, row):
            reason = self.controlnets[number].why_idle(taken, sampler)
            if reason is not None:
                return reason
        return None

    def _used(self, rows: SampledRows, row: int) -> list[int]:
        """The ControlNets of a row, by their places in the job."""
        return np.flatnonzero(rows.controls[row][: len(self.controlnets)]).tolist()


def wrong_sampler(info: ModelInfo, name: str, mode: str) -> str | None:
    """Why a sampler of a model does not sample one of its modes; None if it does.

    Args:
        info: the model.
        name: the sampler's.
        mode: such as `inpaint`.
    """
    allowed = info.samplers_for(mode)
    if name in allowed or name not in info.samplers:
        return None
    return (
        f"sampler {name} does not work with this model in mode {mode}; choose one of: "
        f"{', '.join(allowed)}"
    )
