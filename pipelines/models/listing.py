"""The models that a folder, a URL, a file or the hub's cache holds, each as a job would name it."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from nightpress.diffusion_core.errors import ModelError, NightpressError, one_line
from nightpress.diffusion_core.models.overview import (
    Overview,
    bytes_by_dtype,
    family_and_bytes,
    overview,
)
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines import storage
from nightpress.pipelines.models.hub_cache import cached_models
from nightpress.pipelines.models.location import HUB_ID, MODEL_INDEX, is_here, locate
from nightpress.pipelines.models.single_files import is_single_file
from nightpress.pipelines.models.weight_size import weight_bytes
from nightpress.pipelines.storage import Options, Source
from nightpress.pipelines.storage.urls import absolute, local_path, public

Kind = Literal["builtin", "folder", "file", "hub", "url"]

READ_SUFFIXES = ("config.json", MODEL_INDEX)
"""How the files end that are read of a folder at a URL."""

FILE_SUFFIXES = (".safetensors", ".ckpt", ".gguf")


@dataclass(frozen=True)
class ListedModel:
    """A model, or what looks like one and cannot be used."""

    source: str
    """What `model.source` of a job would be."""
    kind: Kind
    what: Overview | None
    """None if it cannot be read."""
    family: str | None
    """What a model in one file is, such as SDXL; None for others."""
    weight_bytes: dict[str, int]
    """Bytes in memory by `dtype`; empty if its weights are not on this machine."""
    stored_bytes: int | None
    """Bytes of the weight files that would be loaded; None if that is not known."""
    is_ready: bool
    """Whether this machine can load it without a network."""
    reason: str | None
    """Why it is not ready."""


def listed_models(
    source: str, options: Options, config: str | None = None
) -> Iterator[ListedModel]:
    """The models behind a source: one, or all below a folder or in the hub's cache.

    Nothing is downloaded but the configurations of folders at URLs.

    Args:
        source: `builtin`, `hub` for the hub's cache, a hub id, a folder, a file, or a URL.
        options: fsspec options by protocol.
        config: `model.config` for models in one file.

    Raises:
        ModelError: there is no such source.
        StoreError: the store behind a URL refuses or fails.
    """
    if source == "builtin":
        yield _on_this_machine(source, "builtin", ModelSpec(source=source), options)
    elif source == "hub":
        yield from _of_hub(None)
    elif is_single_file(source):
        yield _file(source, options, config)
    elif storage.is_url(source) and not storage.is_local(source):
        yield from _at_url(source, options, config)
    elif local_path(source).is_dir():
        yield from _below(local_path(source), source, options, config)
    elif hub_id := HUB_ID.fullmatch(source):
        found = list(_of_hub(hub_id["repo"]))
        if not found:
            raise ModelError(f"{source!r}: no such folder, and not in the hub's cache here")
        yield from found
    else:
        raise ModelError(
            f"{source!r}: no such folder or file; a source is `builtin`, `hub`, a folder, a file, "
            "a hub id or a URL"
        )


def _of_hub(repo: str | None) -> Iterator[ListedModel]:
    for cached in cached_models(repo):
        spec = ModelSpec(source=str(cached.folder))
        yield _on_this_machine(cached.source, "hub", spec, {})


def _below(
    folder: Path, source: str, options: Options, config: str | None
) -> Iterator[ListedModel]:
    """The pipelines and single files in a folder, at any depth, but none inside a pipeline."""
    if (folder / MODEL_INDEX).is_file():
        yield _on_this_machine(source, "folder", ModelSpec(source=str(folder)), options)
        return
    for path, folders, files in os.walk(folder, followlinks=False):
        here = Path(path)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = os.path.join(source, os.path.relpath(path, folder)) if here != folder else source
        if MODEL_INDEX in files:
            folders.clear()
            yield _on_this_machine(shown, "folder", ModelSpec(source=path), options)
        elif "config.json" not in files:  # which would make it a network alone
            for name in sorted(files):
                if name.endswith(FILE_SUFFIXES) and not name.startswith("."):
                    yield _file(os.path.join(shown, name), options, config)


def _file(source: str, options: Options, config: str | None) -> ListedModel:
    spec = ModelSpec(source=source, config=config)
    is_remote = storage.is_url(source) and not storage.is_local(source)
    if is_remote and not is_here(spec, options):
        num_bytes = weight_bytes(spec, options)
        reason = "this machine has no copy of it yet, so it was not read"
        return ListedModel(source, "file", None, None, {}, num_bytes, False, reason)
    return _on_this_machine(source, "file", spec, options)


def _on_this_machine(source: str, kind: Kind, spec: ModelSpec, options: Options) -> ListedModel:
    """A model whose files should all be here."""
    what, in_memory, stored = None, {}, None
    try:
        folder = locate(spec, options)
        what = overview(folder)
        in_memory = bytes_by_dtype(folder, spec)
        stored = weight_bytes(spec, options)
    except NightpressError as error:
        reason = one_line(error).removeprefix(f"{spec.source}: ")
        family = None if what is None else what.family
        if kind == "file" and what is None:
            family, in_memory, stored = _known_of_file(spec.source)
        return ListedModel(source, kind, what, family, in_memory, stored, False, reason)
    return ListedModel(source, kind, what, what.family, in_memory, stored, True, None)


def _known_of_file(source: str) -> tuple[str | None, dict[str, int], int | None]:
    """Family and sizes of a local file that lacks its configurations, as far as they are known."""
    path = local_path(source)
    try:
        family, in_memory = family_and_bytes(path)
    except ModelError:
        return None, {}, None
    return family, in_memory, path.stat().st_size


def _at_url(url: str, options: Options, config: str | None) -> Iterator[ListedModel]:
    """The pipelines and single files below a URL."""
    sources = storage.contents(url, options)
    base = absolute(url)
    names = {source.url.removeprefix(f"{base}/"): source for source in sources}
    folders = sorted(_folder(name) for name in names if PurePosixPath(name).name == MODEL_INDEX)
    for inside in folders:
        held = {
            name.removeprefix(inside).removeprefix("/"): source
            for name, source in names.items()
            if not inside or name.startswith(f"{inside}/")
        }
        yield _remote_folder("/".join(filter(None, (public(base), inside))), held, options)
    networks = {_folder(name) for name in names if PurePosixPath(name).name == "config.json"}
    for name in sorted(names):
        alone = not any(_is_below(name, folder) for folder in folders)
        if name.endswith(FILE_SUFFIXES) and alone and _folder(name) not in networks:
            yield _file(f"{base}/{name}", options, config)


def _folder(name: str) -> str:
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else parent


def _is_below(name: str, folder: str) -> bool:
    return not folder or name.startswith(f"{folder}/")


def _remote_folder(url: str, held: dict[str, Source], options: Options) -> ListedModel:
    """A pipeline at a URL, of which only the configurations are read."""
    spec = ModelSpec(source=url)
    if is_here(spec, options):
        return _on_this_machine(url, "url", spec, options)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for name, source in held.items():
                if name.endswith(READ_SUFFIXES) and ".." not in name.split("/"):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    with storage.open_source(source.url, options) as stream:
                        (folder / name).write_bytes(stream.read())
            what = overview(folder)
        stored = weight_bytes(spec, options)
    except NightpressError as error:
        return ListedModel(url, "url", None, None, {}, None, False, one_line(error))
    reason = "this machine has no copy of it yet"
    return ListedModel(url, "url", what, None, {}, stored, False, reason)
