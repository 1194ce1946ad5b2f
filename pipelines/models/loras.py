"""Find the files of a model's LoRAs and textual inversions, downloading them first if needed.

Only the weight file itself is downloaded from a source with several files;
`diffusion_core.models.lora_files` decides which one that is, and reads it.
"""

import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypeVar

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import ModelNotFound
from nightpress.diffusion_core.models.lora_files import WeightSource, weight_name
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.weight_files import WEIGHT_SUFFIXES
from nightpress.pipelines import storage
from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.models.location import HUB_ID, builtin_adapter, hub_error
from nightpress.pipelines.models.mirrors import mirror_once
from nightpress.pipelines.storage import Source
from nightpress.pipelines.storage.urls import Options, local_path, public

T = TypeVar("T")


def locate_loras(
    spec: ModelSpec, options: Options | None = None, cache: Path | None = None
) -> tuple[Path, ...]:
    """The weight file of each of the model's LoRAs on this machine, in the order of `all_loras`.

    Args:
        spec: each LoRA's `source` is `builtin/loras/duotone`, a folder, a file, a hub id with an
            optional `@revision`, or the URL of a folder or file.
        options: fsspec options by protocol, for URLs.
        cache: where remote files are mirrored, once for all processes of the machine; by default
            the user's cache folder. Files from the hub are kept in the hub's own cache.

    Raises:
        ModelNotFound: there is no LoRA, or there are several files and none is named.
        UnsafeWeights: there are only pickles, and `spec.allow_pickle` is off.
        ModelError: the download failed.
        StoreError: the store behind a URL refuses or fails.
    """
    folder = cache or cache_folder() / "loras"
    return tuple(_locate(lora, spec.allow_pickle, options or {}, folder) for lora in spec.all_loras)


def locate_embeddings(
    spec: ModelSpec, options: Options | None = None, cache: Path | None = None
) -> tuple[Path, ...]:
    """The file of each of the model's textual inversions; see `locate_loras`."""
    folder = cache or cache_folder() / "embeddings"
    return tuple(
        _locate(each, spec.allow_pickle, options or {}, folder, "embedding")
        for each in spec.embeddings
    )


def _locate(
    lora: WeightSource, allow_pickle: bool, options: Options, cache: Path, kind: str = "LoRA"
) -> Path:
    if storage.is_url(lora.source) and not storage.is_local(lora.source):
        return _from_url(lora, allow_pickle, options, cache, kind)
    path = builtin_adapter(lora.source, "loras") or local_path(lora.source)
    if path.is_file():
        return path
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
        return path / weight_name(names, lora, allow_pickle, kind)
    if hub_id := HUB_ID.fullmatch(lora.source):
        return _from_hub(lora, hub_id["repo"], hub_id["revision"], allow_pickle, kind)
    article = "an" if kind[0] in "aeiou" else "a"
    raise ModelNotFound(
        f"{kind} {lora.source!r}: no such file or folder; {article} {kind} must be a folder, a "
        "safetensors file, a hub id such as owner/name@revision, or a URL"
    )


def _from_url(
    lora: WeightSource, allow_pickle: bool, options: Options, cache: Path, kind: str
) -> Path:
    try:
        sources = storage.find([lora.source], options, WEIGHT_SUFFIXES)
    except StoreMissing as error:
        raise ModelNotFound(f"{kind} {error}") from error
    source = _chosen(lora, sources, allow_pickle, kind)
    name = PurePosixPath(public(source.url)).name

    def download(into: Path) -> None:
        with (
            storage.open_source(source.url, options) as stream,
            (into / name).open("wb") as file,
        ):
            shutil.copyfileobj(stream, file)

    return mirror_once(lora.source, [source], cache, download) / name


def _chosen(lora: WeightSource, sources: list[Source], allow_pickle: bool, kind: str) -> Source:
    """The source itself if it is a file, otherwise the weight file below the folder."""
    base = lora.source.rstrip("/")
    names = {source.url.removeprefix(f"{base}/"): source for source in sources}
    if len(sources) == 1 and lora.weight_name is None:
        names = {PurePosixPath(public(sources[0].url)).name: sources[0]}
    return names[weight_name(list(names), lora, allow_pickle, kind)]


def _from_hub(
    lora: WeightSource, repo: str, revision: str | None, allow_pickle: bool, kind: str
) -> Path:
    """Download a hub repository's weight file; returns its path in the hub's cache."""
    from huggingface_hub import hf_hub_download

    names = hub_files(lora.source, repo, revision, kind)
    file = weight_name(names, lora, allow_pickle, kind)
    path = ask_hub(lora.source, lambda: hf_hub_download(repo, file, revision=revision), kind)
    return Path(str(path))


def hub_files(name: str, repo: str, revision: str | None, kind: str = "LoRA") -> list[str]:
    """The files that the hub lists for a repository; those in its cache if it is unreachable.

    Args:
        name: the source, as errors call it.
        repo, revision: the repository, and a branch, tag or commit of it.
        kind: what is looked for, as errors call it.

    Raises:
        ModelNotFound: there is no such repository, or neither it nor its copy can be reached.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    def listed() -> list[str]:
        try:
            # One request: the calls that list a repository's tree retry for half a minute.
            files = HfApi().model_info(repo, revision=revision).siblings or []
            return [file.rfilename for file in files]
        except HfHubHTTPError:
            raise
        except (httpx.HTTPError, OfflineModeIsEnabled, OSError):
            folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
            return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]

    return ask_hub(name, listed, kind)


def ask_hub(name: str, ask: Callable[[], T], kind: str = "LoRA") -> T:
    """Call the hub, turning its failures into one-line errors; see `hub_files`."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    try:
        return ask()
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError) as error:
        raise hub_error(name, error, kind) from error
