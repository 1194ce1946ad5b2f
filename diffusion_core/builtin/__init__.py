"""The model that ships with the package, and the recipe that made it.

`model/` is a diffusers pipeline folder, `controlnet/` a ControlNet for it and `loras/duotone/` a
LoRA; `recipe/` builds their data set, trains and evaluates them. Jobs call them `builtin`,
`builtin/controlnet` and `builtin/loras/duotone`.
Importing this package loads no weights.
"""

from pathlib import Path

__all__ = ["controlnet_folder", "folder", "lora_folder"]


def folder() -> Path:
    """The shipped pipeline folder, for `DiffusionPipeline.from_pretrained`."""
    return Path(__file__).parent / "model"


def controlnet_folder() -> Path:
    """The folder of the shipped ControlNet, for `ControlNetModel.from_pretrained`."""
    return Path(__file__).parent / "controlnet"


def lora_folder() -> Path:
    """The folder of the shipped LoRA `duotone`, for `load_lora_weights` of a pipeline."""
    return Path(__file__).parent / "loras" / "duotone"
