"""Models in one file that are pickles, as safetensors."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from nightpress.diffusion_core.errors import ModelError, as_model_error


def as_safetensors(path: Path, into: Path, name: str) -> None:
    """Write the tensors of a pickle as a safetensors file. The pickle may run any code.

    Args:
        path: a `.ckpt` or another file of torch, whose weights may be under `state_dict`.
        into: the file to write.
        name: what errors call the pickle.

    Raises:
        ModelError: it is damaged, or holds something else.
    """
    import torch
    from safetensors.torch import save_file

    with as_model_error(f"{name}: not readable weights"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a damaged file says about its format
        try:
            values: Any = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError:  # the trainer's own objects are in it, too
            values = torch.load(path, map_location="cpu", weights_only=False)
    while isinstance(values, Mapping) and isinstance(values.get("state_dict"), Mapping):
        values = values["state_dict"]
    if not isinstance(values, Mapping):
        raise ModelError(f"{name}: it holds a {type(values).__name__}, not tensors by name")
    tensors = {
        str(key): value.contiguous()
        for key, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    with as_model_error(f"{name}: its tensors cannot be kept"):
        save_file(_without_shared_memory(tensors), into)


def _without_shared_memory(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors, each with memory of its own, as safetensors needs it."""
    seen: set[int] = set()
    own = {}
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        own[name] = value.clone() if place in seen or _is_part(value) else value
        seen.add(place)
    return own


def _is_part(value: Any) -> bool:
    return bool(value.untyped_storage().nbytes() != value.numel() * value.element_size())
