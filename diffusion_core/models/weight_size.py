"""How large a model's weights are once loaded, from the headers of their files."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from nightpress.diffusion_core.models.adapter_files import NO_ADAPTERS, AdapterFiles
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.tensor_headers import TensorHeader, read_headers
from nightpress.diffusion_core.models.weight_files import WEIGHT_SUFFIXES, used_files, weight_files

FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a weight by the type that a model is loaded in."""


def weight_bytes(
    folder: Path,
    spec: ModelSpec,
    dtype: str,
    loras: Iterable[Path] = (),
    adapters: AdapterFiles = NO_ADAPTERS,
) -> int:
    """Bytes of all weights of a model in memory, with its LoRAs, ControlNets and IP-Adapters.

    Args:
        folder: of the saved pipeline.
        dtype: the type that the model is loaded in; it may differ from that of the files.
        loras: files of LoRAs.

    Raises:
        ModelError: a file is missing or damaged.
    """
    model = PipelineFolder.read(folder)
    files = used_files(model.path, model.components, spec.variant, spec.allow_pickle)
    files += [*loras, *adapters.embeddings]
    for net, net_folder in zip(spec.controlnets, adapters.controlnets, strict=True):
        files += weight_files(net_folder, net.variant, spec.allow_pickle)
    files += [each.weights for each in adapters.references]
    for each in adapters.references[:1]:  # all of them share its image encoder
        files += weight_files(each.image_encoder, None, False) if each.image_encoder else []
    return sum(_bytes(file, dtype) for file in files if file.suffix in WEIGHT_SUFFIXES)


def _bytes(file: Path, dtype: str) -> int:
    if file.suffix != ".safetensors":  # a pickle is not read only for its size
        return file.stat().st_size
    headers = read_headers(file).values()
    return sum(math.prod(header.shape) * _item_bytes(header, dtype) for header in headers)


def _item_bytes(header: TensorHeader, dtype: str) -> int:
    if header.is_floating:
        return FLOAT_BYTES[dtype]
    bits = re.search(r"\d+", header.dtype)
    return int(bits[0]) // 8 if bits else 1
