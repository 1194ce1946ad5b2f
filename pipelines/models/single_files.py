"""Find a model in one file on this machine, and make the folder with its configurations.

The file itself stays where it is, or is mirrored once; `diffusion_core.models.single_file` reads
its names and shapes and says what it is.
"""

import hashlib
import re
import shutil
from pathlib import Path, PurePosixPath

from nightpress.diffusion_core.errors import ModelError, ModelNotFound, UnsafeWeights
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.weight_files import CHECKPOINT, GGUF_SUFFIX, MODEL_SUFFIXES
from nightpress.pipelines import storage
from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.job.spec import canonical_json
from nightpress.pipelines.models.mirrors import made_once, mirror_folder, mirror_once
from nightpress.pipelines.storage import Source
from nightpress.pipelines.storage.sources import DOWNLOAD_BYTES
from nightpress.pipelines.storage.urls import Options, absolute, local_path, public

LIKE_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

FORMAT = 1
"""Changes when other folders are made of the same files."""


def is_single_file(source: str) -> bool:
    """Whether a source is a model in one file: a local file, or a URL or path named like one.

    A folder of such a name is a folder.
    """
    if storage.is_url(source) and not storage.is_local(source):
        return PurePosixPath(public(source)).suffix.lower() in MODEL_SUFFIXES
    path = local_path(source)
    return source != "builtin" and (
        path.is_file() or (path.suffix.lower() in MODEL_SUFFIXES and not path.is_dir())
    )


def locate_single_file(spec: ModelSpec, options: Options, cache: Path) -> Path:
    """The folder with the configurations of a model in one file, which is made once.

    Args:
        spec: a model whose source `is_single_file`.
        options: fsspec options by protocol, for URLs.
        cache: where the folder is made, and where remote files and configurations are mirrored.

    Raises:
        ModelNotFound: there is no such file, or something that it needs beside it is missing.
        UnsafeWeights: it is a pickle, and `spec.allow_pickle` is off.
        UnsupportedModel: it is no model, or of a family that is not supported.
        ModelError: the file or a configuration is damaged.
        StoreError: the store behind a URL refuses or fails.
    """
    from nightpress.diffusion_core.models.single_file.folder import make_folder
    from nightpress.diffusion_core.models.single_file.pickles import as_safetensors

    _require_settings_of_files(spec)
    path = _file_here(spec.source, options, cache)
    is_pickle = path.suffix.lower() not in (".safetensors", GGUF_SUFFIX)
    if is_pickle and not spec.allow_pickle:
        raise UnsafeWeights(
            f"{spec.source}: it is not a safetensors file, and loading a pickle runs code; set "
            "`model.allow_pickle: true` if you trust it"
        )
    config = None if spec.config is None else _config_folder(spec.config, options, cache)

    def make(into: Path) -> None:
        file = path
        if is_pickle:
            file = into / CHECKPOINT
            as_safetensors(path, file, public(spec.source))
        make_folder(file, config, into, public(spec.source))

    facts = canonical_json(_facts_of(path, config))
    folder = cache / hashlib.sha256(facts.encode()).hexdigest()[:32]
    return made_once(f"model {public(spec.source)}", folder, make)


def _require_settings_of_files(spec: ModelSpec) -> None:
    for key in ("revision", "variant"):
        if getattr(spec, key) is not None:
            what = "hub ids" if key == "revision" else "folders and hub ids"
            raise ModelError(
                f"model.{key}: it is for {what}, and {spec.source!r} is one file; remove it"
            )


def _file_here(source: str, options: Options, cache: Path) -> Path:
    """A model's file on this machine; a remote one is mirrored."""
    if not storage.is_url(source) or storage.is_local(source):
        path = local_path(source)
        if not path.is_file():
            raise ModelNotFound(f"model {source!r}: no such file")
        return path
    remote = _remote_file(source, options)
    name = PurePosixPath(public(source)).name

    def download(into: Path) -> None:
        with (
            storage.open_source(remote.url, options, DOWNLOAD_BYTES) as stream,
            (into / name).open("wb") as file,
        ):
            shutil.copyfileobj(stream, file, DOWNLOAD_BYTES)

    return mirror_once(source, [remote], cache, download) / name


def _remote_file(source: str, options: Options) -> Source:
    try:
        found = storage.find([source], options, MODEL_SUFFIXES)
    except StoreMissing as error:
        raise ModelNotFound(f"model {error}") from error
    if len(found) != 1 or found[0].url != absolute(source):
        raise ModelNotFound(f"model {public(source)} is not a file")
    return found[0]


def _config_folder(source: str, options: Options, cache: Path) -> Path:
    """The folder of `model.config` on this machine; a remote one is mirrored."""
    if storage.is_url(source) and not storage.is_local(source):
        try:
            sources = storage.contents(source, options)
        except StoreMissing as error:
            raise ModelNotFound(f"model.config {error}") from error
        return mirror_once(
            source, sources, cache, lambda into: storage.download_folder(source, into, options)
        )
    folder = local_path(source)
    if not folder.is_dir():
        hint = ""
        if LIKE_HUB_ID.fullmatch(source):
            hint = (
                "; a hub id is not taken here, but this downloads it into a folder: hf download "
                f"{source} --local-dir FOLDER"
            )
        raise ModelNotFound(
            f"model.config {source!r}: no such folder; it must be a folder, or the URL of one{hint}"
        )
    return folder


def _facts_of(path: Path, config: Path | None) -> list[object]:
    """What decides the folder of a model in one file: which files it is made of, and their age."""
    files = [path, *([] if config is None else sorted(p for p in config.rglob("*") if p.is_file()))]
    stats = [(str(file.resolve()), file.stat()) for file in files]
    ages = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return [FORMAT, str(path), str(config), ages]


def is_file_here(source: str, options: Options, cache: Path) -> bool:
    """Whether this machine has a model's file, so that `locate_single_file` downloads none.

    Raises:
        ModelNotFound, StoreError: as `locate_single_file` raises them for URLs.
    """
    if not storage.is_url(source) or storage.is_local(source):
        return local_path(source).is_file()
    return mirror_folder(source, [_remote_file(source, options)], cache).is_dir()
