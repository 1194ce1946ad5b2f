"""Writing a model in one file as a diffusers folder."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightpress.diffusion_core.errors import as_model_error
from nightpress.diffusion_core.models import loading, networks, quantized_weights
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.weight_files import (
    CONFIG_SUFFIXES,
    WEIGHT_SUFFIXES,
)
from nightpress.diffusion_core.silence_libraries import errors_only, no_progress_bars


@dataclass(frozen=True)
class WrittenNetwork:
    """A network in the folder."""

    name: str
    """Its folder: unet, vae, ..."""
    dtype: str
    """Type of its weights, such as float16."""
    num_bytes: int
    """Bytes of its weight files."""


def write_folder(folder: Path, spec: ModelSpec, into: Path) -> list[WrittenNetwork]:
    """Write a model with all its weights as a diffusers folder, one network after the other.

    Args:
        folder: of a model in one file, as `single_file.folder.make_folder` makes it.
        spec: the model as the job names it; weights keep their type in the file if `dtype` is auto,
            and those that a GGUF file has quantised are dequantised.
        into: an empty folder.

    Raises:
        ModelError: a network cannot be loaded or is not complete, or a weight is no number.
        OSError: the folder cannot be written.
    """
    model = PipelineFolder.read(folder)
    quantized_weights.check_quantized(model, elsewhere=False)
    loading.check_weights(folder, spec)
    _copy_settings(model, into)
    written = []
    for name in networks.network_names(model):
        network = networks.load_one(
            model, name, spec.variant, spec.allow_pickle, _dtype(spec), dequantize=True
        )
        networks.require_finite_weights(network, f"{model.shown}: {name}")
        broken = f"{model.shown}: {name} cannot be written"
        with as_model_error(broken), no_progress_bars(), errors_only():
            network.save_pretrained(into / name)
        written.append(_written(name, network, into / name))
        del network
    loading.check_weights(into, ModelSpec(source=str(into)))
    return written


def _dtype(spec: ModelSpec) -> Any:
    import torch

    return None if spec.dtype == "auto" else getattr(torch, spec.dtype)


def _copy_settings(model: PipelineFolder, into: Path) -> None:
    """Copy the index, the scheduler and the tokenizers."""
    (into / "model_index.json").write_text(json.dumps(model.index, indent=2), encoding="utf-8")
    advised = model.path / "nightpress.json"
    if advised.is_file():
        shutil.copyfile(advised, into / advised.name)
    for name in model.components:
        (into / name).mkdir()
        for path in (model.path / name).iterdir():
            if path.suffix in CONFIG_SUFFIXES and ".index." not in path.name:
                shutil.copyfile(path, into / name / path.name)


def _written(name: str, network: Any, folder: Path) -> WrittenNetwork:
    files = [path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES]
    types = sorted({str(p.dtype).removeprefix("torch.") for p in network.parameters()})
    return WrittenNetwork(name, ", ".join(types), sum(path.stat().st_size for path in files))
