"""Find a saved network of transformers, or a single file, on this machine, downloading it first."""

import shutil
from pathlib import Path, PurePosixPath

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import ModelNotFound
from nightpress.diffusion_core.models import weight_files
from nightpress.pipelines import storage
from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.models.location import HUB_ID, component_folder
from nightpress.pipelines.models.loras import hub_files
from nightpress.pipelines.models.mirrors import mirror_once
from nightpress.pipelines.models.references import download_from_hub
from nightpress.pipelines.storage import Source
from nightpress.pipelines.storage.urls import Options, local_path, public

CONFIG = "config.json"
KIND = "network"


def locate_network(source: str, options: Options | None = None, cache: Path | None = None) -> Path:
    """The folder of a saved network of transformers on this machine.

    Args:
        source: a folder, a hub id with an optional `@revision`, or the URL of a folder.
        options: fsspec options by protocol, for URLs.
        cache: where remote folders are mirrored, once for all processes of the machine; by default
            the user's cache folder. Files from the hub are kept in the hub's own cache.

    Raises:
        ModelNotFound: there is no such folder, hub id or URL, or it holds no network.
        UnsafeWeights: the hub has only pickles.
        ModelError: the download failed.
        StoreError: the store behind a URL refuses or fails.
    """
    is_remote = storage.is_url(source) and not storage.is_local(source)
    if is_remote or local_path(source).is_dir():
        folder = component_folder(source, options, cache)
        if not (folder / CONFIG).is_file():
            raise ModelNotFound(f"{source}: not a saved network: {CONFIG} is missing")
        return folder
    if local_path(source).is_file():
        raise ModelNotFound(
            f"{source} is a file; a network is a folder with a {CONFIG}, as save_pretrained "
            "writes it"
        )
    if hub_id := HUB_ID.fullmatch(source):
        return _from_hub(source, hub_id["repo"], hub_id["revision"])
    raise ModelNotFound(
        f"{source!r}: no such folder; a network must be a folder, a hub id such as "
        "owner/name@revision, or a URL"
    )


def _from_hub(source: str, repo: str, revision: str | None) -> Path:
    """Download a network's configuration and weights; returns its folder in the hub's cache."""
    here = [PurePosixPath(name) for name in hub_files(source, repo, revision, KIND)]
    names = [name for name in here if len(name.parts) == 1]
    if PurePosixPath(CONFIG) not in names:
        raise ModelNotFound(f"{source}: not a saved network: {CONFIG} is missing")
    weights = weight_files.chosen(names, None, False, source)
    texts = [name for name in names if name.suffix in weight_files.CONFIG_SUFFIXES]
    return download_from_hub(source, repo, revision, [str(name) for name in (*texts, *weights)])


def locate_file(source: str, options: Options | None = None, cache: Path | None = None) -> Path:
    """One file on this machine.

    Args:
        source: a path, or the URL of a file.
        options, cache: as for `locate_network`.

    Raises:
        ModelNotFound: there is no such file.
        ModelError: the download failed.
        StoreError: the store behind a URL refuses or fails.
    """
    if not storage.is_url(source) or storage.is_local(source):
        path = local_path(source)
        if not path.is_file():
            raise ModelNotFound(f"{source}: {'not a file' if path.exists() else 'no such file'}")
        return path
    remote = _remote_file(source, options or {})
    name = PurePosixPath(public(remote.url)).name

    def download(into: Path) -> None:
        with (
            storage.open_source(remote.url, options or {}) as stream,
            (into / name).open("wb") as file,
        ):
            shutil.copyfileobj(stream, file)

    return mirror_once(source, [remote], cache or cache_folder() / "models", download) / name


def read_file(source: str, options: Options | None = None) -> bytes:
    """The bytes of one file, which no mirror keeps; the arguments are those of `locate_file`.

    Raises:
        ModelNotFound, StoreError: as `locate_file`.
    """
    if not storage.is_url(source) or storage.is_local(source):
        return locate_file(source).read_bytes()
    remote = _remote_file(source, options or {})
    with storage.open_source(remote.url, options or {}) as stream:
        return stream.read()


def _remote_file(source: str, options: Options) -> Source:
    suffix = PurePosixPath(public(source)).suffix
    try:
        found = storage.find([source], options, (suffix,))
    except StoreMissing as error:
        raise ModelNotFound(str(error)) from error
    if len(found) != 1 or found[0].url.rstrip("/") != source.rstrip("/"):
        raise ModelNotFound(f"{source}: is a folder; expected one file")
    return found[0]
