"""Find the folders of a model's ControlNets on this machine, downloading them first if needed.

Only the configuration and the weight files of the chosen variant are downloaded from the hub;
`diffusion_core.models.controlnets` reads the folders.
"""

from pathlib import Path, PurePosixPath

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import ModelError, ModelNotFound, naming
from nightpress.diffusion_core.models import weight_files
from nightpress.diffusion_core.models.controlnet_spec import ControlNetSpec
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines import storage
from nightpress.pipelines.models.location import (
    HUB_ID,
    builtin_adapter,
    component_folder,
    one_revision,
)
from nightpress.pipelines.models.loras import ask_hub, hub_files
from nightpress.pipelines.storage.urls import Options, local_path

CONFIG = "config.json"


def locate_controlnets(
    spec: ModelSpec, options: Options | None = None, cache: Path | None = None
) -> tuple[Path, ...]:
    """The folder of each of the model's ControlNets on this machine, in the job's order.

    Args:
        spec: each ControlNet's `source` is `builtin/controlnet`, a folder, a hub id with an
            optional `@revision`, or the URL of a folder; its `subfolder` is inside that.
        options: fsspec options by protocol, for URLs.
        cache: where remote folders are mirrored, once for all processes of the machine; by default
            the user's cache folder. Files from the hub are kept in the hub's own cache.

    Raises:
        ModelNotFound: there is no such ControlNet, or it has no weights of the variant.
        UnsafeWeights: the hub has only pickles, and `spec.allow_pickle` is off.
        ModelError: the download failed.
        StoreError: the store behind a URL refuses or fails.
    """
    folder = cache or cache_folder() / "models"
    found = []
    for each in spec.controlnets:
        with naming(f"ControlNet {each.label!r}"):
            found.append(_locate(each, spec.allow_pickle, options or {}, folder))
    return tuple(found)


def _locate(net: ControlNetSpec, allow_pickle: bool, options: Options, cache: Path) -> Path:
    path = builtin_adapter(net.source, "controlnet") or local_path(net.source)
    is_remote = storage.is_url(net.source) and not storage.is_local(net.source)
    if net.revision and (is_remote or path.exists()):
        raise ModelError(
            f"{net.source!r}: only hub ids have a `revision`, here {net.revision!r}; remove it"
        )
    if is_remote:
        url = "/".join(filter(None, (net.source.rstrip("/"), net.subfolder)))
        return component_folder(url, options, cache)
    if path.is_dir():
        folder = path / (net.subfolder or "")
        if not folder.is_dir():
            raise ModelNotFound(f"{path} has no folder {net.subfolder!r} (`subfolder`)")
        return folder
    if path.is_file():
        raise ModelNotFound(
            f"{path} is a file; a ControlNet is a folder with a {CONFIG}, as save_pretrained "
            "writes it"
        )
    if hub_id := HUB_ID.fullmatch(net.source):
        named = hub_id["revision"]
        revision = one_revision(repr(net.source), named, "its `revision`", net.revision)
        return _from_hub(net, hub_id["repo"], revision, allow_pickle)
    raise ModelNotFound(
        f"{net.source!r}: no such folder; a ControlNet must be a folder, a hub id such as "
        "owner/name@revision, or a URL"
    )


def _from_hub(net: ControlNetSpec, repo: str, revision: str | None, allow_pickle: bool) -> Path:
    """Download a ControlNet's files from the hub; returns its folder in the hub's cache."""
    from huggingface_hub import hf_hub_download

    inside = PurePosixPath(net.subfolder or "")
    names = [
        PurePosixPath(name)
        for name in hub_files(net.source, repo, revision, "ControlNet")
        if PurePosixPath(name).parent == inside
    ]
    if inside / CONFIG not in names:
        where = f"its folder {net.subfolder!r}" if net.subfolder else "it"
        raise ModelNotFound(f"{net.source!r}: there is no {CONFIG} in {where}; see `subfolder`")
    weights = weight_files.chosen(names, net.variant, allow_pickle, net.source)
    indexes = [name for name in names if ".index." in name.name and name.suffix == ".json"]
    paths = [
        Path(
            ask_hub(
                net.source,
                lambda name=name: str(hf_hub_download(repo, str(name), revision=revision)),  # type: ignore[misc]
                "ControlNet",
            )
        )
        for name in (inside / CONFIG, *indexes, *weights)
    ]
    return paths[0].parent
