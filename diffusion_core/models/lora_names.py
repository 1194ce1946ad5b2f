"""What the names of the tensors in a LoRA file say about its layout, without loading a tensor."""

import re
from collections.abc import Iterable

KOHYA = "lora_"
"""What all layers are called in the files of kohya's and LyCORIS' trainers."""

NUMBERED = re.compile(r"^(?:(?P<part>\w+):)?(?P<number>\d+):(?P<factor>up|down)$")
"""A tensor of cloneofsimo/lora, as `unet:12:up`; without a component where the file has one."""


def needs_rewriting(names: Iterable[str]) -> bool:
    """Whether a file with these tensors is to be translated by `translation`."""
    names = list(names)
    if all(NUMBERED.match(name) for name in names):
        return True
    products = ("hada_", "lokr_", "dora_scale")
    return all(name.startswith(KOHYA) for name in names) and any(
        product in name for name in names for product in products
    )
