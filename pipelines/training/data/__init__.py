"""Training data: captioned images from any store, as one checked copy on this machine.

`pack` reads tars, Parquet files or image folders once; training reads from the `PackedImages`
that it returns.
"""

from typing import TYPE_CHECKING, Any

from nightpress.pipelines.training.data.spec import DataSpec

if TYPE_CHECKING:
    from nightpress.pipelines.training.data.packed import BadImage, PackedImages
    from nightpress.pipelines.training.data.packing import pack

__all__ = ["BadImage", "DataSpec", "PackedImages", "pack"]

_HOMES = {"BadImage": "packed", "PackedImages": "packed", "pack": "packing"}


def __getattr__(name: str) -> Any:
    """Import the readers only when they are used: checking a job file does not need them."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
