"""The names, shapes and types of the tensors in weight files, read without loading a weight.

Owns what is wrong with a file that is cut short and with an index whose shards are not all there.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nightpress.diffusion_core.errors import ModelError, as_model_error, one_line
from nightpress.diffusion_core.models.pipeline_folder import read_json

SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<rest>.*)$")
"""Matches the name of one of several files that hold a network's weights together."""


@dataclass(frozen=True)
class TensorHeader:
    """What a weight file says of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    """In safetensors' words, such as F16 or I64, or in ggml's, such as Q4_K."""
    quantized_bytes: int | None = None
    """Bytes in the file if it holds blocks of numbers with common scales; None if it does not."""

    @property
    def is_floating(self) -> bool:
        """Whether the tensor holds floating-point numbers."""
        return self.dtype.startswith(("F", "BF"))

    @property
    def is_quantized(self) -> bool:
        """Whether it holds blocks of numbers with common scales."""
        return self.quantized_bytes is not None


def read_headers(file: Path) -> dict[str, TensorHeader]:
    """Name -> header of every tensor in a safetensors file.

    Raises:
        ModelError: the file is cut short, or is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {
                name: TensorHeader(tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a readable safetensors file: {one_line(error)}") from error


def read_pickle(file: Path) -> dict[str, TensorHeader]:
    """Name -> header of every tensor in a pickled state dict; runs no code of the file.

    Raises:
        ModelError: the file is damaged, or holds something else than tensors by name.
    """
    import torch

    with as_model_error(f"{file}: not readable weights"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a damaged file says about its format
        values = torch.load(file, map_location="meta", weights_only=True)
    if not isinstance(values, Mapping):
        raise ModelError(f"{file}: it holds a {type(values).__name__}, not tensors by name")
    return {
        str(name): TensorHeader(tuple(value.shape), "F" if value.is_floating_point() else "I")
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def read_all_headers(component: Path, files: Sequence[Path]) -> dict[str, TensorHeader]:
    """The headers of all tensors in the files that hold one network together.

    Those of a single pickle are left out: its network names what it lacks when it is loaded.

    Args:
        component: the network's folder.
        files: its weight files.

    Raises:
        ModelError: a file is damaged or holds something else, a shard is missing, or the index
            names a tensor that its shard does not hold.
    """
    _require_all_shards(files)
    is_sharded = any(SHARD.match(file.name) for file in files)
    names = {
        file.name: read_headers(file) if file.suffix == ".safetensors" else read_pickle(file)
        for file in files
    }
    if is_sharded:
        _check_indexes(component, names)
    counted = (held for file, held in names.items() if is_sharded or file.endswith(".safetensors"))
    return {name: header for held in counted for name, header in held.items()}


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few of some names, and the number of the others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


def _require_all_shards(files: Iterable[Path]) -> None:
    """Refuse shards whose names say that there are others."""
    present: dict[tuple[str, str, str], set[int]] = {}
    for file in files:
        if match := SHARD.match(file.name):
            key = match["stem"], match["total"], match["rest"]
            present.setdefault(key, set()).add(int(match["number"]))
    for (stem, total, rest), numbers in present.items():
        lost = sorted(set(range(1, int(total) + 1)) - numbers)
        if lost:
            names = [f"{stem}-{number:05}-of-{total}{rest}" for number in lost]
            raise ModelError(
                f"{len(lost)} of its {int(total)} weight files are missing: {listed(names)}"
            )


def _check_indexes(component: Path, names: Mapping[str, Mapping[str, TensorHeader]]) -> None:
    """Refuse an index that disagrees with its shards; diffusers believes the index alone."""
    indexes = {path.name: _weight_map(path) for path in sorted(component.glob("*.index*.json"))}
    # A folder may hold further indexes, of other variants or formats.
    of_these = {name: map_ for name, map_ in indexes.items() if set(map_.values()) & set(names)}
    if not of_these:
        raise ModelError(
            f"no index says which of its {len(names)} weight files holds what: there is no "
            f"*.index.json that names {min(names)}"
        )
    for name, entries in of_these.items():
        lost = sorted(key for key, file in entries.items() if key not in names.get(file, {}))
        if lost:
            raise ModelError(
                f"{len(lost)} of the {len(entries)} tensors that {name} lists are not in their "
                f"files: {listed(lost)}; {lost[0]} should be in {entries[lost[0]]}"
            )


def _weight_map(index: Path) -> dict[str, str]:
    entries = read_json(index).get("weight_map")
    if not isinstance(entries, dict):
        raise ModelError(f"{index}: has no `weight_map`")
    return {str(key): str(file) for key, file in entries.items()}
