"""`convert`: a model in one file, written once as a diffusers folder."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.conversion import WrittenNetwork
from nightpress.diffusion_core.models.spec import DType, ModelSpec
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.models.single_files import is_single_file
from nightpress.pipelines.storage import Options, is_local, is_url
from nightpress.pipelines.storage.urls import local_path


@dataclass(frozen=True)
class ConvertedModel:
    """A diffusers folder that was made of a model in one file."""

    folder: str
    source: str
    family: str
    """Such as SDXL."""
    pipeline: str
    """Name of the class of diffusers in its `model_index.json`."""
    networks: tuple[WrittenNetwork, ...]
    num_bytes: int
    """Of all files."""
    notes: tuple[str, ...]
    """What is not used of the file, or comes from elsewhere."""


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    config: str | Path | None = None,
    dtype: DType = "auto",
    allow_pickle: bool = False,
    storage: Options | None = None,
) -> ConvertedModel:
    """Write a model in one file as a diffusers folder, complete or not at all.

    A run with the folder makes the images of a run with the file. Weights that a GGUF file has
    quantised are dequantised.

    Args:
        source: the file, or its URL.
        folder: the folder to write, on this machine; it must not exist.
        config: a folder with configurations and tokenizers, as the job's `model.config`.
        dtype: type of the weights; auto keeps that of the file, network by network, and is the
            widest of it, usually float32, where they are quantised.
        allow_pickle: whether the file may be a pickle; unpickling runs code.
        storage: fsspec options by protocol.

    Raises:
        ModelError: the folder exists or cannot be written, or the file is not a complete model.
        StoreError: the store behind a URL refuses or fails.
    """
    spec = ModelSpec(
        source=str(source),
        config=None if config is None else str(config),
        dtype=dtype,
        allow_pickle=allow_pickle,
    )
    target = _target(str(folder))
    if not is_single_file(spec.source):
        raise ModelError(f"{spec.source} is not a file; only a model in one file is converted")
    return _write_once(locate(spec, storage), spec, target)


def _write_once(made: Path, spec: ModelSpec, target: Path) -> ConvertedModel:
    """Write the folder under another name first, so that it is never seen half written."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        return _write(made, spec, partial, target)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(made: Path, spec: ModelSpec, partial: Path, target: Path) -> ConvertedModel:
    from nightpress.diffusion_core.models.conversion import write_folder
    from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder

    partial.mkdir(parents=True)
    written = write_folder(made, spec, partial)
    num_bytes = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    _refuse_existing(target)
    partial.rename(target)
    model = PipelineFolder.read(made)
    return ConvertedModel(
        folder=str(target),
        source=spec.source,
        family=str(model.facts["family"]),
        pipeline=model.class_name,
        networks=tuple(written),
        num_bytes=num_bytes,
        notes=tuple(model.facts["notes"]),
    )


def _target(folder: str) -> Path:
    if is_url(folder) and not is_local(folder):
        raise ModelError(
            f"{folder}: the folder must be on this machine; copy it to the store afterwards"
        )
    target = local_path(folder)
    _refuse_existing(target)
    return target


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise ModelError(f"{target}: it exists already; name a folder that does not")
