"""Find the files of a model's IP-Adapters on this machine, downloading them first if needed.

Only the weight file and the image encoder are downloaded from a source that holds more;
`diffusion_core.models.references` decides which file the weights are.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import ModelError, ModelNotFound
from nightpress.diffusion_core.models.adapter_files import ReferenceFiles
from nightpress.diffusion_core.models.references import (
    IMAGE_ENCODER,
    ReferenceSpec,
    weight_name,
)
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines import storage
from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.models.location import HUB_ID, component_folder, one_revision
from nightpress.pipelines.models.loras import ask_hub, hub_files
from nightpress.pipelines.models.mirrors import mirror_once
from nightpress.pipelines.storage import Source
from nightpress.pipelines.storage.urls import Options, absolute, local_path

KIND = "IP-Adapter"

ENCODER_SUFFIXES = (".json", ".safetensors")
"""The suffixes of the files of an image encoder that are read."""


@dataclass(frozen=True)
class _Chosen:
    """The files of an adapter, relative to its source."""

    weights: str
    encoder: str | None
    """The folder of the image encoder; None if the source does not hold it."""

    def among(self, names: Sequence[str]) -> list[str]:
        """The names of the files to fetch."""
        return [self.weights, *(_encoder_files(names, self.encoder) if self.encoder else ())]


def locate_references(
    spec: ModelSpec, options: Options | None = None, cache: Path | None = None
) -> tuple[ReferenceFiles, ...]:
    """The files of each of the model's IP-Adapters on this machine, in the job's order.

    Args:
        spec: each adapter's `source` is a folder, a file, a hub id with an optional `@revision`, or
            the URL of a folder or file.
        options: fsspec options by protocol, for URLs.
        cache: where remote files are mirrored, once for all processes of the machine; by default
            the user's cache folder. Files from the hub are kept in the hub's own cache.

    Raises:
        ModelNotFound: there is no such adapter or image encoder, or there are several files and
            none is named.
        UnsafeWeights: there are only pickles, and `spec.allow_pickle` is off.
        ModelError: the download failed.
        StoreError: the store behind a URL refuses or fails.
    """
    folder = cache or cache_folder() / "adapters"
    return tuple(
        _locate(each, spec.allow_pickle, options or {}, folder) for each in spec.references
    )


def _locate(
    adapter: ReferenceSpec, allow_pickle: bool, options: Options, cache: Path
) -> ReferenceFiles:
    is_remote = storage.is_url(adapter.source) and not storage.is_local(adapter.source)
    if adapter.revision and (is_remote or local_path(adapter.source).exists()):
        raise ModelError(
            f"{KIND} {adapter.source!r}: only hub ids have a `revision`, here "
            f"{adapter.revision!r}; remove it"
        )
    if is_remote:
        folder, chosen = _from_url(adapter, allow_pickle, options, cache)
    elif (path := local_path(adapter.source)).is_file():
        folder = path.parent
        beside = _files_below(folder / (adapter.image_encoder or IMAGE_ENCODER), folder)
        chosen = _choose([path.name, *beside], adapter, allow_pickle)
    elif path.is_dir():
        folder = path
        chosen = _choose(_files_below(path, path), adapter, allow_pickle)
    elif hub_id := HUB_ID.fullmatch(adapter.source):
        folder, chosen = _from_hub(adapter, hub_id["repo"], hub_id["revision"], allow_pickle)
    else:
        raise ModelNotFound(
            f"{KIND} {adapter.source!r}: no such file or folder; an IP-Adapter must be a folder, a "
            "safetensors file, a hub id such as owner/name@revision, or a URL"
        )
    encoder_folder = folder / chosen.encoder if chosen.encoder is not None else None
    if encoder_folder is None and adapter.image_encoder is not None:
        encoder_folder = _named_encoder(adapter, options, cache)
    return ReferenceFiles(folder / chosen.weights, encoder_folder)


def _choose(names: Sequence[str], adapter: ReferenceSpec, allow_pickle: bool) -> _Chosen:
    weights = weight_name(names, adapter, allow_pickle)
    beside = PurePosixPath(weights).parent.as_posix()
    return _Chosen(weights, _encoder_in(names, adapter, "" if beside == "." else beside))


def _encoder_in(names: Sequence[str], adapter: ReferenceSpec, beside: str) -> str | None:
    """The folder of the image encoder in the source; None if it is not there.

    Args:
        names: the files of the source.
        adapter: `image_encoder` may name a folder beside the weights, or from the source's top.
        beside: the folder of the weights; "" for the top.
    """
    wanted = (adapter.image_encoder or IMAGE_ENCODER).strip("/")
    folders = [f"{beside}/{wanted}"] if beside else []
    if adapter.image_encoder or not beside:
        folders.append(wanted)
    return next((each for each in folders if f"{each}/config.json" in names), None)


def _encoder_files(names: Sequence[str], folder: str) -> list[str]:
    begin = f"{folder}/" if folder else ""
    inside = [name.removeprefix(begin) for name in names if name.startswith(begin)]
    return [begin + name for name in inside if "/" not in name and name.endswith(ENCODER_SUFFIXES)]


def _files_below(folder: Path, base: Path) -> list[str]:
    return [p.relative_to(base).as_posix() for p in folder.rglob("*") if p.is_file()]


def _named_encoder(adapter: ReferenceSpec, options: Options, cache: Path) -> Path:
    """The folder of an image encoder from another source."""
    named = adapter.image_encoder or ""
    try:
        return component_folder(named, options, cache)
    except ModelNotFound:
        hub_id = HUB_ID.fullmatch(named)
        if hub_id is None or storage.is_url(named):
            raise
    repo, revision = hub_id["repo"], hub_id["revision"]
    names = _encoder_files(hub_files(named, repo, revision, "image encoder"), "")
    return download_from_hub(named, repo, revision, names)


def _from_hub(
    adapter: ReferenceSpec, repo: str, named: str | None, allow_pickle: bool
) -> tuple[Path, _Chosen]:
    """Download an adapter of a hub repository; returns the repository's folder in the cache."""
    what = f"{KIND} {adapter.source!r}"
    revision = one_revision(what, named, "its `revision`", adapter.revision)
    names = hub_files(adapter.source, repo, revision, KIND)
    chosen = _choose(names, adapter, allow_pickle)
    return download_from_hub(adapter.source, repo, revision, chosen.among(names)), chosen


def download_from_hub(name: str, repo: str, revision: str | None, files: Sequence[str]) -> Path:
    """Download files of a repository; returns the folder of its revision in the hub's cache."""
    from huggingface_hub import hf_hub_download

    if not files:
        raise ModelNotFound(f"{name}: the hub's repository holds no safetensors file")
    paths = [
        ask_hub(name, partial(hf_hub_download, repo, file, revision=revision), KIND)
        for file in files
    ]
    return Path(paths[0]).parents[files[0].count("/")]


def _from_url(
    adapter: ReferenceSpec, allow_pickle: bool, options: Options, cache: Path
) -> tuple[Path, _Chosen]:
    """Mirror an adapter's files; returns their folder on this machine."""
    base, sources = _listing(adapter, options)
    names = list(sources)
    chosen = _choose(names, adapter, allow_pickle)
    wanted = {name: sources[name] for name in chosen.among(names)}

    def download(into: Path) -> None:
        for name, source in wanted.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            with (
                storage.open_source(source.url, options) as stream,
                (into / name).open("wb") as file,
            ):
                shutil.copyfileobj(stream, file)

    return mirror_once(base, list(wanted.values()), cache, download), chosen


def _listing(adapter: ReferenceSpec, options: Options) -> tuple[str, Mapping[str, Source]]:
    """The URL of an adapter's folder, and the files below it by their names in it."""
    url = absolute(adapter.source).rstrip("/")
    try:
        sources = storage.find([url], options, (".safetensors", ".bin", ".json"))
        if len(sources) == 1 and sources[0].url == url:
            url = url.rpartition("/")[0]
            sources += _below(f"{url}/{adapter.image_encoder or IMAGE_ENCODER}", options)
    except StoreMissing as error:
        raise ModelNotFound(f"{KIND} {error}") from error
    return url, {source.url.removeprefix(f"{url}/"): source for source in sources}


def _below(url: str, options: Options) -> list[Source]:
    try:
        return storage.contents(url, options)
    except StoreMissing:
        return []
