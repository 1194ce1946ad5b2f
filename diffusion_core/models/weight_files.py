"""Which files of a model folder decide its pixels, whether they are safe, and their fingerprint.

Owns the rules for weight file names and the memo of file hashes. Knows nothing of what the files
hold; no weight is ever loaded here.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import ModelError, ModelNotFound, UnsafeWeights

if TYPE_CHECKING:
    from torch import nn

CONFIG_SUFFIXES = frozenset(
    {".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".vocab", ".merges"}
)
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl"})
NOT_WEIGHTS = re.compile(r"Scheduler|Tokenizer|Processor|FeatureExtractor")
"""Classes of components that hold no weights."""

_STEM = re.compile(r"^(?:diffusion_pytorch_model|pytorch_model|model)(?P<rest>[.\-].*)?$")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_SETTLED_NS = 2_000_000_000
"""A file younger than this may still change under the same time stamp, so it is not memoised."""


def used_files(
    folder: Path, components: Mapping[str, str], variant: str | None, allow_pickle: bool
) -> list[Path]:
    """Every file that loading the model reads: weights of the variant, and configurations.

    Args:
        components: Name of each component folder -> its class.

    Raises:
        UnsafeWeights: a component has pickled weights only, and those are not allowed.
        ModelNotFound: a component's folder or its weights are missing.
    """
    files = [folder / name for name in ("model_index.json", "nightpress.json")]
    for name, class_name in components.items():
        if not (folder / name).is_dir():
            raise ModelNotFound(f"{folder}: model_index.json names {name!r}, but has no {name}/")
        files += _config_files(folder / name)
        if not NOT_WEIGHTS.search(class_name):
            files += weight_files(folder / name, variant, allow_pickle)
    return [file for file in files if file.is_file()]


def weight_files(component: Path, variant: str | None, allow_pickle: bool) -> list[Path]:
    """The weight files that diffusers would load for one component.

    The variant's own files where there are any, else the plain ones; safetensors before pickles.
    """
    present = sorted(path for path in component.iterdir() if path.is_file())
    safe = [path for path in present if path.suffix == ".safetensors"]
    pickled = [path for path in present if path.suffix in PICKLE_SUFFIXES]
    for kind in (safe, pickled) if allow_pickle else (safe,):
        for wanted in dict.fromkeys((variant, None)):
            if chosen := [path for path in kind if _is_variant(path, wanted)]:
                return chosen
    if pickled and not allow_pickle:
        raise UnsafeWeights(
            f"{component}: the only weights are pickles ({_names(pickled)}), and loading those "
            "runs code; say `model.allow_pickle: true` if you trust them"
        )
    found = f"only {_names(safe)}" if safe else "none"
    raise ModelNotFound(f"{component}: no weights without a variant; found {found}")


def fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """Sha256 over the sorted (relative path, sha256) pairs of `files`; unchanged files are cheap.

    Raises:
        ModelError: a file cannot be read.
    """
    memo = HashMemo(cache_folder() / "hashes.json")
    whole = hashlib.sha256()
    for name, path in sorted((file.relative_to(folder).as_posix(), file) for file in files):
        try:
            whole.update(f"{name}\0{memo.sha256(path)}\n".encode())
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror or error}") from error
    memo.save()
    return whole.hexdigest()


def fingerprint_of_file(file: Path) -> str:
    """Sha256 of one file; cheap where it is unchanged.

    Raises:
        ModelError: it cannot be read.
    """
    memo = HashMemo(cache_folder() / "hashes.json")
    try:
        digest = memo.sha256(file)
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror or error}") from error
    memo.save()
    return digest


def fingerprint_of_tensors(module: "nn.Module") -> str:
    """sha256 over the names, shapes and values of a network's weights, wherever they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


class HashMemo:
    """Sha256 of files, remembered by (path, size, modification time) in a small JSON file.

    A damaged memo is an empty one. Processes that save at once lose at most each other's news.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read_memo(path)
        self._news: dict[str, str] = {}

    def sha256(self, path: Path) -> str:
        """The file's sha256; read only when it is not the file that was hashed before."""
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if known := self._known.get(key):
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
            self._news[key] = digest
        return digest

    def save(self) -> None:
        """Write what is new; a cache that cannot be written is done without."""
        if not self._news:
            return
        text = json.dumps(_read_memo(self._path) | self._news, indent=0)
        # A read-only home costs the next start some seconds, never this one its run.
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self._path, text)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, whoever else does the same."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _read_memo(path: Path) -> dict[str, str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {k: v for k, v in values.items() if isinstance(v, str) and len(v) == 64}


def _config_files(component: Path) -> list[Path]:
    return [
        path
        for path in component.iterdir()
        # An index only says which shard holds what; the shards themselves are hashed.
        if path.suffix in CONFIG_SUFFIXES and ".index." not in path.name
    ]


def _is_variant(path: Path, variant: str | None) -> bool:
    stem = _STEM.match(path.stem)
    if stem is None:
        return False
    rest = _SHARD.sub("", stem["rest"] or "")
    return rest == (f".{variant}" if variant else "")


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:4]) + (", ..." if len(paths) > 4 else "")
