"""The model that ships with the package, and the recipe that made it.

`model/` is a diffusers pipeline folder; `recipe/` builds its data set, trains it and evaluates it.
Importing this package loads no weights.
"""

from pathlib import Path

__all__ = ["folder"]


def folder() -> Path:
    """The shipped pipeline folder, for `DiffusionPipeline.from_pretrained`."""
    return Path(__file__).parent / "model"
