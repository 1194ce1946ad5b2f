"""From the pictures that one image names to the arrays that condition it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightpress.diffusion_core.conditioning.spec import NO_IMAGES, ConditionImages, Conditioning
from nightpress.pipelines.inputs.decoding import decode, fitted
from nightpress.pipelines.inputs.reading import read_input
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.records import InputInfo, PlannedInput
from nightpress.pipelines.storage import Options


@dataclass(frozen=True)
class PreparedInputs:
    """The pictures of one image, ready to condition it."""

    images: ConditionImages = NO_IMAGES
    infos: tuple[InputInfo, ...] = ()


NO_INPUTS = PreparedInputs()


def input_info(planned: PlannedInput, fit: str, sha256: str | None = None) -> InputInfo:
    """What is recorded of a picture."""
    return InputInfo(planned.role, planned.url, sha256, fit)


def prepare(
    inputs: Sequence[PlannedInput],
    conditioning: Conditioning,
    size: tuple[int, int],
    spec: InputsSpec,
    options: Options,
) -> PreparedInputs:
    """Read, decode and fit the pictures of one image.

    Args:
        inputs: the pictures, in the order of the plan.
        conditioning: how they are used.
        size: (width, height) of the image in pixels.
        spec: how they are fitted.
        options: fsspec options by protocol.

    Raises:
        InputError: one of them cannot be used.
        StoreError: the store fails.
    """
    if not inputs:
        return NO_INPUTS
    data = [read_input(each, spec, options) for each in inputs]
    pictures = {
        each.role: decode(content, each.role) for each, content in zip(inputs, data, strict=True)
    }
    init = fitted(pictures["init_image"], *size, spec.fit)
    mask = None
    if "mask_image" in pictures:
        grey = fitted(pictures["mask_image"].convert("L"), *size, spec.fit)
        mask = np.where(grey >= 128, 255, 0).astype(np.uint8)
    infos = tuple(
        InputInfo(each.role, each.url, hashlib.sha256(content).hexdigest(), spec.fit)
        for each, content in zip(inputs, data, strict=True)
    )
    return PreparedInputs(ConditionImages(init, mask), infos)
