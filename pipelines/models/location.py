"""Find a model's folder on this machine, downloading or mirroring the model first if needed.

`diffusion_core.models.loading` describes and loads the model; `loras` finds its LoRAs.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import (
    HubUnavailable,
    ModelError,
    ModelNotFound,
    UnsafeWeights,
    one_line,
)
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines import storage
from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.models import single_files
from nightpress.pipelines.models.mirrors import mirror_folder, mirror_once
from nightpress.pipelines.storage import Source
from nightpress.pipelines.storage.faults import error_chain, is_transient
from nightpress.pipelines.storage.urls import Options, local_path

MODEL_INDEX = "model_index.json"
"""The file that makes a folder a saved pipeline of diffusers."""

HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def locate(spec: ModelSpec, options: Options | None = None, cache: Path | None = None) -> Path:
    """The folder of a model on this machine.

    Args:
        spec: `source` is `builtin`, a folder, a hub id with an optional `@revision`, the URL
            of a folder, or a file or its URL; of a file, a folder with its configurations is made.
        options: fsspec options by protocol, for URLs.
        cache: where remote folders are mirrored, once for all processes of the machine; by
            default the user's cache folder. Hub models are kept in the hub's own cache.

    Raises:
        ModelNotFound: there is no such folder, hub id or URL, or it cannot be reached.
        UnsafeWeights: the hub has only pickles, and `spec.allow_pickle` is off.
        ModelError: the download failed.
        StoreError: the store behind a URL refuses or fails.
    """
    source, mirrors = spec.source, cache or cache_folder() / "models"
    if single_files.is_single_file(source):
        return single_files.locate_single_file(spec, options or {}, mirrors)
    if spec.config is not None:
        raise ModelError(
            f"model.config: it is for a model in one file, and {source!r} is not a file; remove it"
        )
    if source == "builtin":
        return _builtin()
    if storage.is_url(source) and not storage.is_local(source):
        return _mirror(source, options or {}, mirrors)
    folder = local_path(source)
    if folder.is_dir():
        return folder
    if hub_id := HUB_ID.fullmatch(source):
        return _from_hub(hub_id["repo"], _revision(spec, hub_id["revision"]), spec)
    raise ModelNotFound(
        f"model {source!r}: no such folder; a model must be `builtin`, a folder, a hub id such as "
        "owner/name@revision, a safetensors or GGUF file, or a URL"
    )


def is_here(spec: ModelSpec, options: Options | None = None, cache: Path | None = None) -> bool:
    """Whether this machine has the model already, so that `locate` downloads nothing.

    A hub model counts as here once its revision is in the hub's cache; files that the hub has
    changed since then are still downloaded.

    Raises:
        ModelNotFound, StoreError: as `locate` raises them for URLs.
    """
    source = spec.source
    if single_files.is_single_file(source):
        return single_files.is_file_here(source, options or {}, cache or cache_folder() / "models")
    if storage.is_url(source) and not storage.is_local(source):
        sources = _listing(source, options or {}, MODEL_INDEX)
        return mirror_folder(source, sources, cache or cache_folder() / "models").is_dir()
    if source == "builtin" or local_path(source).is_dir():
        return True
    hub_id = HUB_ID.fullmatch(source)
    return hub_id is not None and _is_in_hub_cache(
        hub_id["repo"], _revision(spec, hub_id["revision"])
    )


def _is_in_hub_cache(repo: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repo, MODEL_INDEX, revision=revision), str)
    except HFValidationError:
        return False


def _builtin() -> Path:
    from nightpress.diffusion_core import builtin

    return builtin.folder()


def _revision(spec: ModelSpec, named: str | None) -> str | None:
    return one_revision(f"model {spec.source!r}", named, "model.revision", spec.revision)


def one_revision(what: str, named: str | None, key: str, given: str | None) -> str | None:
    """The revision of a hub id; None for its main branch.

    Args:
        what: the hub id, as errors call it.
        named: the revision in the hub id itself, after its `@`.
        key: the job file's key for it, as errors call it.
        given: the value of that key.

    Raises:
        ModelError: the two are different.
    """
    if named and given and named != given:
        raise ModelError(
            f"{what} names a revision other than {key}, {given!r}; remove one of the two"
        )
    return named or given


def _mirror(url: str, options: Options, cache: Path, index: str = MODEL_INDEX) -> Path:
    """A local copy of a remote folder that must contain the file `index`."""
    sources = _listing(url, options, index)
    return mirror_once(
        url, sources, cache, lambda into: storage.download_folder(url, into, options)
    )


def _listing(url: str, options: Options, index: str) -> Sequence[Source]:
    try:
        sources = storage.contents(url, options)
    except StoreMissing as error:
        raise ModelNotFound(f"model {error}") from error
    if not any(source.url.endswith(f"/{index}") for source in sources):
        kind = "diffusers model" if index == MODEL_INDEX else "network"
        raise ModelNotFound(f"model {url}: not a saved {kind}: {index} is missing")
    return sources


def _from_hub(repo: str, revision: str | None, spec: ModelSpec) -> Path:
    """Download the files of a hub model that diffusers loads; returns the folder in its cache."""
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
    """The error for a failure of the hub's library, in one line."""
    from huggingface_hub import errors

    causes = list(error_chain(error))
    text = one_line(error, None)
    if "safetensors" in text and not any(isinstance(c, errors.HfHubHTTPError) for c in causes):
        return UnsafeWeights(
            f"{kind} {name!r} lacks safetensors for some component; set `model.allow_pickle: true` "
            "if you trust its pickles"
        )
    reasons = {
        errors.GatedRepoError: "access is restricted; accept its terms on the hub and log in",
        errors.RepositoryNotFoundError: f"no such local folder, and the hub has no such {kind} or "
        "keeps it private",
        errors.RevisionNotFoundError: f"the hub has this {kind} but not that revision",
    }
    for fault, reason in reasons.items():
        if any(isinstance(cause, fault) for cause in causes):
            return ModelNotFound(f"{kind} {name!r}: {reason}")
    faults = (cause for cause in causes if isinstance(cause, errors.HfHubHTTPError))
    if any(map(is_transient, faults)):
        return HubUnavailable(f"{kind} {name!r}: the hub keeps failing ({text[:200]})")
    return ModelNotFound(
        f"{kind} {name!r}: no such local folder, not in the hub's cache on this machine, and the "
        f"hub cannot be reached ({text[:200]})"
    )


def builtin_adapter(source: str, kind: str) -> Path | None:
    """The folder of an adapter that comes with the built-in model; None for any other source.

    Args:
        source: `builtin/controlnet` or `builtin/loras/duotone`.
        kind: `controlnet` or `loras`, the first part of the name that is allowed.

    Raises:
        ModelNotFound: the package has no such adapter of this kind.
    """
    from nightpress.diffusion_core import builtin

    if source.partition("/")[0] != "builtin":
        return None
    folders = {
        "builtin/controlnet": builtin.controlnet_folder(),
        "builtin/loras/duotone": builtin.lora_folder(),
    }
    names = [name for name in folders if name.split("/")[1] == kind]
    if source not in names:
        raise ModelNotFound(f"{source!r}: no such part of the built-in model; it has {names[0]!r}")
    return folders[source]


def absolute_source(source: str) -> str:
    """A local source as an absolute path, for workers with another working folder.

    `builtin` and what follows it after a `/` always mean the package, never a folder of that name.
    """
    if source.partition("/")[0] == "builtin":
        return source
    path = Path(source) if os.path.lexists(source) else Path(os.path.expanduser(source))
    return str(path.resolve()) if path.exists() else source


def is_path(source: str) -> bool:
    """Whether a source is a path of this machine: one that is there, or that begins as one."""
    if source.partition("/")[0] == "builtin":
        return False
    if storage.is_url(source):
        return storage.is_local(source)
    return source.startswith(("/", ".", "~")) or Path(source).exists()


def component_folder(
    source: str, options: Options | None = None, cache: Path | None = None
) -> Path:
    """The folder of one saved network on this machine.

    `source` is a folder, the URL of one, or a part of the built-in model: `builtin/text_encoder`.

    Raises:
        ModelNotFound: there is no such folder.
        StoreError: the store behind a URL refuses or fails.
    """
    if storage.is_url(source) and not storage.is_local(source):
        return _mirror(source, options or {}, cache or cache_folder() / "models", "config.json")
    model, _, part = source.partition("/")
    folder = _builtin() / part if model == "builtin" and part else local_path(source)
    if not folder.is_dir():
        raise ModelNotFound(f"{source}: no such folder")
    return folder
