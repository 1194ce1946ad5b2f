"""Where a model lies on this machine, fetched first if it must be.

Owns the kinds of model source and the mirror of remote ones. Knows nothing of what is inside
a model; `diffusion_core.models.loading` describes and loads it, and `loras.py`
finds its LoRAs.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import ModelError, ModelNotFound, UnsafeWeights
from nightpress.diffusion_core.models.loading import ModelSpec
from nightpress.pipelines import storage
from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.job.spec import canonical_json
from nightpress.pipelines.storage import Source
from nightpress.pipelines.storage.urls import Options, local_path

HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def locate(spec: ModelSpec, options: Options | None = None, cache: Path | None = None) -> Path:
    """The folder of a model on this machine.

    Args:
        spec: `source` is `builtin`, a folder, a hub id with an optional `@revision`, or the URL
            of a folder.
        options: fsspec options by protocol, for URLs.
        cache: Where remote folders are mirrored, once for all processes of the machine; unless
            given, the user's cache folder. Models of the hub lie in the hub's own cache.

    Raises:
        ModelNotFound: no such folder, hub id or URL, or it cannot be reached.
        UnsafeWeights: on the hub there are pickles only, and `spec.allow_pickle` is off.
        ModelError: the download failed.
        StoreError: the store behind a URL refused.
    """
    source = spec.source
    if source == "builtin":
        return _builtin()
    if storage.is_url(source) and not storage.is_local(source):
        return _mirror(source, options or {}, cache or cache_folder() / "models")
    folder = local_path(source)
    if folder.is_dir():
        return folder
    if hub_id := HUB_ID.fullmatch(source):
        return _from_hub(hub_id["repo"], _revision(spec, hub_id["revision"]), spec)
    raise ModelNotFound(
        f"model {source!r}: no such folder; a model is `builtin`, a folder, a hub id such as "
        "owner/name@revision, or a URL"
    )


def _builtin() -> Path:
    from nightpress.diffusion_core import builtin

    return builtin.folder()


def _revision(spec: ModelSpec, named: str | None) -> str | None:
    if named and spec.revision and named != spec.revision:
        raise ModelError(
            f"model {spec.source!r} names one revision, and model.revision another: "
            f"{spec.revision!r}"
        )
    return named or spec.revision


def _mirror(url: str, options: Options, cache: Path, index: str = "model_index.json") -> Path:
    """A local copy of a remote folder, which has to hold the file `index`."""
    sources = _listing(url, options, index)
    return mirrored(url, sources, cache, lambda into: storage.download_folder(url, into, options))


def mirrored(
    url: str, sources: Sequence[Source], cache: Path, download: Callable[[Path], None]
) -> Path:
    """A folder with local copies of `sources`, made once per machine and content.

    It is whole from the moment that it has its name. Whoever comes second waits for the lock, and
    finds it.

    Args:
        url: what the sources were found at.
        sources: what is to arrive.
        cache: the folder of all mirrors.
        download: copies the sources into a folder.

    Raises:
        ModelError: less arrived than was listed.
    """
    content = [[source.url, source.num_bytes, source.version] for source in sources]
    key = hashlib.sha256(canonical_json([url, content]).encode()).hexdigest()[:32]
    folder = cache / key
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{key}.lock"):
        if not folder.is_dir():
            _download(url, folder, sum(source.num_bytes for source in sources), download)
    return folder


def _listing(url: str, options: Options, index: str) -> Sequence[Source]:
    try:
        sources = storage.contents(url, options)
    except StoreMissing as error:
        raise ModelNotFound(f"model {error}") from error
    if not any(source.url.endswith(f"/{index}") for source in sources):
        raise ModelNotFound(f"model {url}: no {index} there, so no saved diffusers model")
    return sources


def _download(url: str, folder: Path, num_bytes: int, download: Callable[[Path], None]) -> None:
    # Whoever holds the lock is alone, so what lies there half done was left by the dead.
    for left in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.partial-"))
    try:
        download(partial)
        arrived = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if arrived < num_bytes:
            raise ModelError(
                f"model {url}: {arrived:,} of {num_bytes:,} bytes arrived; did it change meanwhile?"
            )
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _from_hub(repo: str, revision: str | None, spec: ModelSpec) -> Path:
    """The files of a hub model that diffusers would load, in the hub's cache."""
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    name = f"{repo}@{revision}" if revision else repo
    try:
        folder = DiffusionPipeline.download(
            repo,
            revision=revision,
            variant=spec.variant,
            use_safetensors=None if spec.allow_pickle else True,
        )
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError) as error:
        raise hub_error(name, error) from error
    return Path(folder)


def hub_error(name: str, error: Exception, kind: str = "model") -> ModelError:
    """What a failure of the hub's library means, in one line."""
    from huggingface_hub import errors

    causes = _causes(error)
    text = " ".join(str(error).split())
    if "safetensors" in text and not any(isinstance(c, errors.HfHubHTTPError) for c in causes):
        return UnsafeWeights(
            f"{kind} {name!r} has no safetensors for every component; say "
            "`model.allow_pickle: true` if you trust its pickles"
        )
    told = {
        errors.GatedRepoError: "its owner grants access one by one; accept the terms and log in",
        errors.RepositoryNotFoundError: f"no folder here, and the hub has no such {kind} "
        "or keeps it private",
        errors.RevisionNotFoundError: "the hub has the model but not that revision",
    }
    for fault, reason in told.items():
        if any(isinstance(cause, fault) for cause in causes):
            return ModelNotFound(f"{kind} {name!r}: {reason}")
    return ModelNotFound(
        f"{kind} {name!r}: no folder here, nothing in the hub's cache on this machine, and the hub "
        f"cannot be reached ({text[:200]})"
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def absolute_source(source: str) -> str:
    """A source that lies on this machine by its full path: those who load it stand elsewhere."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def component_folder(
    source: str, options: Options | None = None, cache: Path | None = None
) -> Path:
    """The folder of one saved network on this machine.

    `source` is a folder, the URL of one, or a part of the built-in model: `builtin/text_encoder`.

    Raises:
        ModelNotFound: there is no such folder.
        StoreError: the store behind a URL refused.
    """
    if storage.is_url(source) and not storage.is_local(source):
        return _mirror(source, options or {}, cache or cache_folder() / "models", "config.json")
    model, _, part = source.partition("/")
    folder = _builtin() / part if model == "builtin" and part else local_path(source)
    if not folder.is_dir():
        raise ModelNotFound(f"{source}: no such folder")
    return folder
