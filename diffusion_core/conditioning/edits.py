"""Models that edit images: which pictures their pipelines take, and how.

The initial image of a row is the picture to edit; its reference images are further pictures. Only
`FluxKontextPipeline` takes a picture for each image of a batch. The others repeat one list of
pictures over the whole batch, or take one image at a time, so each image is sampled alone there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning
from nightpress.diffusion_core.models.modes import why_not_editable


@dataclass(frozen=True)
class EditClass:
    """How a pipeline class takes the pictures to edit."""

    takes_batches: bool = False
    """Each image of a batch may have a picture of its own."""
    takes_list: bool = True
    """Its argument `image` is a list: the picture to edit, and further ones."""


EDIT_CLASSES = {
    "FluxKontextPipeline": EditClass(takes_batches=True, takes_list=False),
    "Flux2Pipeline": EditClass(),
    "Flux2KleinPipeline": EditClass(),
    "Flux2KleinKVPipeline": EditClass(),
    "QwenImageEditPipeline": EditClass(takes_list=False),
    "QwenImageEditPlusPipeline": EditClass(),
}
"""Name of a class -> how it takes pictures. Read against diffusers 0.42.1.

Those of Qwen encode the prompt together with the pictures, so their prompts are passed as text.
"""


def samples_alone(pipeline_class: str, conditioning: Conditioning) -> bool:
    """Whether images with this conditioning are sampled one at a time."""
    edits = EDIT_CLASSES.get(pipeline_class)
    return edits is not None and not edits.takes_batches and conditioning.mode != "text"


def arguments(
    pipeline_class: str, images: Sequence[ConditionImages], conditioning: Conditioning
) -> dict[str, Any]:
    """The arguments that carry the pictures to edit; none for other pipelines.

    Args:
        pipeline_class: name of the diffusers class.
        images: the pictures of each image; of one image if `samples_alone`.
        conditioning: what all images of the batch share.

    Raises:
        ValueError: a strength, or a picture that the mode or the class does not take, or lacks.
    """
    edits = EDIT_CLASSES.get(pipeline_class)
    if edits is None or conditioning.mode == "text":
        return {}
    if conditioning.strength is not None:
        raise ValueError("a model that edits images takes no strength")
    pictures = [_pictures(each, conditioning) for each in images]
    for own in pictures:
        _check_sizes(pipeline_class, own, first=int(conditioning.base != "edit"))
    if edits.takes_batches:
        import torch

        stacked = torch.from_numpy(np.stack([own[0] for own in pictures]))
        return {"image": stacked.permute(0, 3, 1, 2).to(torch.float32) / 255}
    if len(pictures) != 1:
        raise ValueError(f"it edits one image at a time, not {len(pictures)}")
    as_images = [Image.fromarray(picture) for picture in pictures[0]]
    return {"image": as_images if edits.takes_list else as_images[0]}


def _check_sizes(pipeline_class: str, pictures: Sequence[Any], first: int) -> None:
    """Refuse pictures that the class takes in no such size.

    Args:
        pipeline_class: name of the diffusers class.
        pictures: of one image.
        first: the number of the first one, 0 for the picture to edit.
    """
    for number, picture in enumerate(pictures, first):
        height, width = picture.shape[:2]
        if reason := why_not_editable(pipeline_class, width, height):
            name = f"reference_image {number}" if number else "init_image"
            raise ValueError(f"{name} has {reason}")


def _pictures(images: ConditionImages, conditioning: Conditioning) -> list[Any]:
    """The picture to edit, if there is one, and the further ones."""
    further = [picture for group in images.reference_images for picture in group]
    own = [] if images.init_image is None else [images.init_image]
    expected = (conditioning.base == "edit", sum(conditioning.num_references))
    if (len(own) == 1, len(further)) != expected or images.mask_image is not None:
        raise ValueError(
            f"mode {conditioning.mode!r} with {sum(conditioning.num_references)} references: got "
            f"{len(own)} pictures to edit, {len(further)} references and "
            f"{'no mask' if images.mask_image is None else 'a mask'}"
        )
    return [*own, *further]
