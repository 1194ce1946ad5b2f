"""Create networks from a configuration, or load them from a folder.

The networks are those of diffusers and transformers. Checks that a class is allowed, and explains
what is wrong with a configuration.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    SettingsError,
    UnsafeWeights,
    one_line,
)
from nightpress.diffusion_core.models import weight_files
from nightpress.diffusion_core.models.networks import load_network, require_finite_weights

WRONG_ARGUMENTS = (TypeError, ValueError, NotImplementedError, AttributeError, ZeroDivisionError)
"""Errors that diffusers raises for a wrong configuration. It does not validate its arguments, so
the first computation with them fails. Errors of memory, files and devices are not among these."""


def new_module(config: Mapping[str, Any], allowed: Sequence[str], seed: int) -> nn.Module:
    """Create an untrained diffusers network; the same seed gives the same weights.

    Raises:
        SettingsError: the class is not allowed here, or does not take these arguments.
    """
    import diffusers

    values = {key: value for key, value in config.items() if key != "_diffusers_version"}
    name = values.pop("_class_name", None)
    if name not in allowed:
        raise SettingsError(f"_class_name {name!r}: must be one of {', '.join(allowed)}")
    owner = getattr(diffusers, name)
    known = inspect.signature(owner.__init__).parameters
    for key in values:
        if key not in known or key == "self":
            raise SettingsError(f"{name} takes no {key!r}; it takes: {', '.join(list(known)[1:])}")
    torch.manual_seed(seed)
    try:
        module: nn.Module = owner(**_tuples(values))
    except WRONG_ARGUMENTS as error:
        raise SettingsError(f"{name}: {one_line(error, 300)}") from error
    return module


def saved_module(folder: Path, allowed: Sequence[str]) -> nn.Module:
    """Load a network that `save_pretrained` of diffusers or transformers wrote, in float32.

    Raises:
        ModelNotFound: there is no saved network in the folder.
        UnsafeWeights: its weights are not safetensors.
        ModelError: it has another class, cannot be loaded, its files do not hold exactly its
            weights, or a weight is NaN or infinite.
    """
    name = class_name(folder)
    if name not in allowed:
        raise ModelError(f"{folder}: holds a {name}; must be one of {', '.join(allowed)}")
    if not any(folder.glob("*.safetensors")):
        raise UnsafeWeights(f"{folder}: holds no safetensors file, the only allowed format")
    files = weight_files.weight_files(folder, variant=None, allow_pickle=False)
    try:
        module: nn.Module = load_network(_owner(name), folder, files, dtype=torch.float32)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    require_finite_weights(module, str(folder))
    return module


def class_name(folder: Path) -> str:
    """The class of a saved network, from its `config.json`."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFound(f"{folder}: no saved network here (config.json is missing)") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {one_line(error, None)}") from error
    return str(config.get("_class_name") or (config.get("architectures") or ["?"])[0])


def saved_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in a folder.

    Raises:
        ModelError: transformers cannot load one.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: cannot load a tokenizer: {one_line(error, 300)}") from error


def _owner(name: str) -> Any:
    import diffusers
    import transformers

    return getattr(diffusers, name, None) or getattr(transformers, name)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
