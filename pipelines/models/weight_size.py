"""How many bytes a model's weights are, from its files alone."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.weight_files import (
    MODEL_SUFFIXES,
    WEIGHT_SUFFIXES,
    checkpoint_in,
    chosen,
)
from nightpress.pipelines import storage
from nightpress.pipelines.models.location import is_here, locate
from nightpress.pipelines.models.single_files import is_single_file
from nightpress.pipelines.storage import Options


def weight_bytes(spec: ModelSpec, options: Options) -> int | None:
    """Bytes of the weight files of a model, without its LoRAs and adapters.

    Nothing is downloaded: None for a hub model that this machine does not have.

    Raises:
        ModelError: there is no such model, or its weights may not be loaded.
        StoreError: the store behind a URL refuses or fails.
    """
    if is_here(spec, options):
        folder = locate(spec, options)
        checkpoint = checkpoint_in(folder)
        own = 0 if checkpoint is None else checkpoint.stat().st_size
        return own + bytes_of(_files_below(folder), spec)
    if not storage.is_url(spec.source):
        return None
    if is_single_file(spec.source):
        return sum(each.num_bytes for each in storage.find([spec.source], options, MODEL_SUFFIXES))
    root = spec.source.rstrip("/") + "/"
    sizes = {
        each.url.rpartition(root)[2]: each.num_bytes for each in storage.contents(root, options)
    }
    return bytes_of({PurePosixPath(path): num_bytes for path, num_bytes in sizes.items()}, spec)


def _files_below(folder: Path) -> dict[PurePosixPath, int]:
    return {
        PurePosixPath(path.relative_to(folder).as_posix()): path.stat().st_size
        for path in folder.glob("*/*")
        if path.is_file()
    }


def bytes_of(files: Mapping[PurePosixPath, int], spec: ModelSpec) -> int:
    """Bytes of the weight files that diffusers would load.

    Args:
        files: path in the model's folder -> bytes.
        spec: its variant, and whether pickles may be loaded.
    """
    weights = [path for path in files if path.suffix in WEIGHT_SUFFIXES and len(path.parts) == 2]
    components = sorted({path.parts[0] for path in weights})
    return sum(
        files[path]
        for name in components
        for path in chosen(
            [path for path in weights if path.parts[0] == name],
            spec.variant,
            spec.allow_pickle,
            f"{spec.source}/{name}",
        )
    )
