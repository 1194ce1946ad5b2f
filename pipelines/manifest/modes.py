"""The mode of each row: which pictures condition it, and whether the model can do that."""

from dataclasses import dataclass

import numpy as np

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.job.settings import base_setting
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.refusals import Refusals
from nightpress.pipelines.manifest.row_problems import Mask

TEXT, IMAGE, INPAINT, OUTPAINT, EDIT, FIRST_LAST = range(6)
BASES = ("text", "image", "inpaint", "outpaint", "edit", "first-last")
CONTROL, REFERENCE = 8, 16
"""Added to the number of a base."""


@dataclass(frozen=True)
class GivenPictures:
    """Which kinds of pictures and settings n rows give; (n,) bool each."""

    init_image: Mask
    mask_image: Mask
    canvas: Mask
    control: Mask
    reference: Mask
    last_image: Mask


def mode_name(code: int) -> str:
    """The mode as `Conditioning.mode` has it."""
    return (
        BASES[code % CONTROL]
        + ("+control" if code & CONTROL else "")
        + ("+reference" if code & REFERENCE else "")
    )


def edits_images(info: ModelInfo) -> bool:
    """Whether the model edits its `init_image`, instead of beginning from it."""
    return any(mode.partition("+")[0] == "edit" for mode in info.modes)


def modes_of_rows(
    given: GivenPictures, info: ModelInfo, columns: Columns, refusals: Refusals
) -> Ints:
    """The code of each row's mode, (n,); see `mode_name`.

    Args:
        given: what the rows give.
        info: the model.
        columns: the manifest's columns.
        refusals: receives the rows that make no sense, or that the model cannot do.
    """
    _refuse_without_image(given, columns, refusals)
    begun = EDIT if edits_images(info) else IMAGE
    base = np.where(given.init_image, begun, TEXT)
    base = np.where(given.init_image & given.mask_image, INPAINT, base)
    base = np.where(given.init_image & given.canvas, OUTPAINT, base)
    base = np.where(given.init_image & given.last_image, FIRST_LAST, base)
    codes: Ints = base + CONTROL * given.control + REFERENCE * given.reference
    for code in np.unique(codes).tolist():
        if mode_name(code) not in info.modes:
            refusals.add(
                codes == code,
                columns.manifest_name(_setting_to_blame(code, info, columns)),
                lambda row, code=code: _refusal(code, info),  # type: ignore[misc]
            )
    return codes


def _refuse_without_image(given: GivenPictures, columns: Columns, refusals: Refusals) -> None:
    needed = [("mask_image", given.mask_image, "a mask"), ("canvas", given.canvas, "a canvas")]
    needed.append(("last_image", given.last_image, "a last_image"))
    for setting, where, what in needed:
        refusals.add(
            where & ~given.init_image,
            columns.manifest_name(setting),
            lambda row, what=what: f"{what} needs an init_image in the same row",  # type: ignore[misc]
        )


def _refusal(code: int, info: ModelInfo) -> str:
    modes = f"it has the modes {', '.join(info.modes)}"
    if code == TEXT:
        return f"this model cannot make an image from text alone; {modes}"
    return f"this model cannot do what the row asks for, {mode_name(code)}; {modes}"


def _setting_to_blame(code: int, info: ModelInfo, columns: Columns) -> str:
    """The setting whose column a refused mode is reported for."""
    base = code % CONTROL
    if BASES[base] in info.modes and code >= CONTROL:
        with_control = mode_name(base + CONTROL) in info.modes or not code & CONTROL
        kind = "reference_image" if with_control else "control_image"
        return next((name for name in columns.settings if base_setting(name) == kind), kind)
    if base == OUTPAINT:
        return "canvas"
    if base == FIRST_LAST:
        return "last_image"
    return "mask_image" if base == INPAINT else "init_image"
