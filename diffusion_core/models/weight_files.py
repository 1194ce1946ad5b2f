"""Which files of a model folder decide its pixels, whether they are safe, and their fingerprint.

Owns the rules for the names of weight files and the cache of file hashes. No weight is loaded here.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TypeVar

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import ModelError, ModelNotFound, UnsafeWeights

if TYPE_CHECKING:
    from torch import nn

AnyPath = TypeVar("AnyPath", bound=PurePath)

CONFIG_SUFFIXES = frozenset(
    {".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".vocab", ".merges"}
)
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
"""The suffixes of files that may hold weights."""
GGUF_SUFFIX = ".gguf"
"""The suffix of files that hold a denoiser in ggml's quantised types."""
MODEL_SUFFIXES = (*WEIGHT_SUFFIXES, GGUF_SUFFIX)
"""The suffixes of files that may be a model in one file."""
CHECKPOINT = "nightpress-checkpoint.safetensors"
"""In the folder of a model in one file, the file; it is a link. See `single_file`."""
GGUF_CHECKPOINT = f"nightpress-checkpoint{GGUF_SUFFIX}"
"""The same where the file is a GGUF file."""
NOT_WEIGHTS = re.compile(r"Scheduler|Tokenizer|Processor|FeatureExtractor|Guidance")
"""Matches the classes of components that have no weights."""

_STEM = re.compile(r"^(?:diffusion_pytorch_model|pytorch_model|model)(?P<rest>[.\-].*)?$")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_SETTLED_NS = 2_000_000_000
"""Younger files may still change under the same time stamp, so their hashes are not cached."""


def used_files(
    folder: Path, components: Mapping[str, str], variant: str | None, allow_pickle: bool
) -> list[Path]:
    """Every file that loading the model reads: configurations, and weights of the variant.

    Args:
        folder: the pipeline's folder.
        components: name of each component's folder -> its class.
        variant: of the weight files, such as fp16; None for the plain ones.
        allow_pickle: whether pickled weights may be read.

    Raises:
        UnsafeWeights: a component has only pickled weights, and those are not allowed.
        ModelNotFound: a component's folder or its weights are missing.
    """
    files = [folder / name for name in ("model_index.json", "nightpress.json")]
    checkpoint = checkpoint_in(folder)
    files += [] if checkpoint is None else [checkpoint]
    for name, class_name in components.items():
        if not (folder / name).is_dir():
            raise ModelNotFound(
                f"{folder}: model_index.json names {name!r}, but there is no {name}/"
            )
        files += _config_files(folder / name)
        if NOT_WEIGHTS.search(class_name):
            continue
        if checkpoint is None or any(
            p.suffix in WEIGHT_SUFFIXES for p in (folder / name).iterdir()
        ):
            files += weight_files(folder / name, variant, allow_pickle)
    return [file for file in files if file.is_file()]


def checkpoint_in(folder: Path) -> Path | None:
    """The file in the folder of a model in one file; None in any other folder."""
    paths = (folder / name for name in (CHECKPOINT, GGUF_CHECKPOINT))
    return next((path for path in paths if path.is_file()), None)


def weight_files(component: Path, variant: str | None, allow_pickle: bool) -> list[Path]:
    """The weight files that diffusers would load for one component.

    These are the variant's files if there are any, else the plain ones, and safetensors before
    pickles.

    Raises:
        UnsafeWeights, ModelNotFound: as `used_files`.
    """
    present = sorted(path for path in component.iterdir() if path.is_file())
    return chosen(present, variant, allow_pickle, str(component))


def chosen(
    present: Sequence[AnyPath], variant: str | None, allow_pickle: bool, where: str
) -> list[AnyPath]:
    """The weight files among all files of a folder; see `weight_files`.

    Args:
        present: the files.
        variant: of the weight files; None for the plain ones.
        allow_pickle: whether pickled weights may be read.
        where: the name of their folder in error messages.

    Raises:
        UnsafeWeights, ModelNotFound: as `used_files`.
    """
    safe = [path for path in present if path.suffix == ".safetensors"]
    pickled = [path for path in present if path.suffix in PICKLE_SUFFIXES]
    for kind in (safe, pickled) if allow_pickle else (safe,):
        for wanted in dict.fromkeys((variant, None)):
            if found := [path for path in kind if _is_variant(path, wanted)]:
                return found
    if pickled and not allow_pickle:
        raise UnsafeWeights(
            f"{where}: the only weights are pickles ({_names(pickled)}), and loading a pickle "
            "runs code; set `model.allow_pickle: true` if you trust them"
        )
    names = _names([*safe, *pickled]) or "none"
    wanted = f"of variant {variant!r} or without a variant" if variant else "without a variant"
    hint = ""
    if gguf := [path for path in present if path.suffix.lower() == GGUF_SUFFIX]:
        hint = f"; {gguf[0].name} can be model.source, and its pipeline's folder model.config"
    raise ModelNotFound(f"{where}: no weights {wanted}; found: {names}{hint}")


def fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the sorted (relative path, SHA-256) pairs of `files`.

    Only files that have changed since they were last hashed are read.

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
    """SHA-256 of one file, which is read only if it has changed since it was last hashed.

    Raises:
        ModelError: the file cannot be read.
    """
    memo = HashMemo(cache_folder() / "hashes.json")
    try:
        digest = memo.sha256(file)
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror or error}") from error
    memo.save()
    return digest


def fingerprint_of_tensors(module: "nn.Module") -> str:
    """SHA-256 over the names, shapes and values of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


class HashMemo:
    """A cache of SHA-256 by (path, size, modification time) in a small JSON file.

    A damaged file counts as empty. Processes that save at once may lose each other's new entries.
    Of several processes of a machine that want the hash of one file, one reads the file, and the
    others wait for its entry, unless the cache cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read_memo(path)
        self._new: dict[str, str] = {}

    def sha256(self, path: Path) -> str:
        """The file's SHA-256; the file is read only if its size or modification time is new."""
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if known := self._known.get(key):
            return known
        with path.open("rb") as file:
            if time.time_ns() - stat.st_mtime_ns <= _SETTLED_NS or not self._is_writable():
                return hashlib.file_digest(file, "sha256").hexdigest()
            # A file system without locks costs reading it more than once. Closing it unlocks it.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if (known := _read_memo(self._path).get(key)) is None:
                known = hashlib.file_digest(file, "sha256").hexdigest()
                self._new[key] = known
                self.save()
        return known

    def _is_writable(self) -> bool:
        """Whether other processes will find what is saved."""
        above = next(each for each in self._path.absolute().parents if each.exists())
        return above.is_dir() and os.access(above, os.W_OK)

    def save(self) -> None:
        """Write the new entries, if the file can be written."""
        if not self._new:
            return
        text = json.dumps(_read_memo(self._path) | self._new, indent=0)
        # An unwritable cache folder costs the next start some seconds, but must not stop a run.
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _write_atomically(self._path, text)


def _write_atomically(path: Path, text: str) -> None:
    """Write a file atomically, whatever other processes do."""
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
        # An index only maps tensors to shards, and the shards themselves are hashed.
        if path.suffix in CONFIG_SUFFIXES and ".index." not in path.name
    ]


def variant_of(path: PurePath) -> str | None:
    """The variant in the name of a weight file, such as fp16; None for a plain file."""
    stem = _STEM.match(path.stem)
    rest = _SHARD.sub("", stem["rest"] or "") if stem else ""
    return rest.removeprefix(".") or None


def _is_variant(path: PurePath, variant: str | None) -> bool:
    return _STEM.match(path.stem) is not None and variant_of(path) == variant


def _names(paths: Sequence[PurePath]) -> str:
    return ", ".join(path.name for path in paths[:4]) + (", ..." if len(paths) > 4 else "")
