"""Training data: pictures with captions from anywhere, as one checked local copy.

`pack` reads tars, Parquet files and folders once; `PackedImages` is what training reads from.
Knows nothing of models or of the order in which samples are drawn.
"""

from typing import TYPE_CHECKING, Any

from nightpress.pipelines.training.data.spec import DataSpec

if TYPE_CHECKING:
    from nightpress.pipelines.training.data.packed import BadImage, PackedImages
    from nightpress.pipelines.training.data.packing import pack

__all__ = ["BadImage", "DataSpec", "PackedImages", "pack"]

_HOMES = {"BadImage": "packed", "PackedImages": "packed", "pack": "packing"}


def __getattr__(name: str) -> Any:
    """Import what reads pictures when it is asked for: a job file is checked without it."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
