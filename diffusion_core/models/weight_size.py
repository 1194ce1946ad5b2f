"""How large a model's weights are once loaded, from the headers of their files."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nightpress.diffusion_core.models.adapter_files import NO_ADAPTERS, AdapterFiles
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.single_file.reading import SingleFile, read_single_file
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.tensor_headers import TensorHeader, read_headers
from nightpress.diffusion_core.models.weight_files import WEIGHT_SUFFIXES, used_files, weight_files

FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a weight by the type that a model is loaded in."""


BLOCK = re.compile(r"^(?:input_blocks|output_blocks|[^.]+\.\d+)")
"""Matches the start of a tensor's name that says in which of a denoiser's blocks it is. A single
file divides the halves of a U-Net more finely than diffusers, so a half counts as one block."""


@dataclass(frozen=True)
class WeightSizes:
    """How large a model's weights are, whole and in the parts that can be moved to a device."""

    total_bytes: int
    largest_network_bytes: int
    """What `model.memory.offload: model` has on the device at a time, at most."""
    largest_block_bytes: int
    """What `offload: group` has there: a block of a denoiser or decoder, or a text encoder."""

    def on_device(self, offload: str) -> int:
        """Bytes on the device at a time, under this `model.memory.offload`."""
        held = {"model": self.largest_network_bytes, "group": self.largest_block_bytes}
        return held.get(offload, self.total_bytes)


def weight_sizes(
    folder: Path,
    spec: ModelSpec,
    dtype: str,
    loras: Iterable[Path] = (),
    adapters: AdapterFiles = NO_ADAPTERS,
) -> WeightSizes:
    """The sizes of a model's weights; the arguments are those of `weight_bytes`.

    LoRAs and adapters are on the device all the time, or with the network that they change.

    Raises:
        ModelError: a file is missing or damaged.
    """
    total = weight_bytes(folder, spec, dtype, loras, adapters)
    model = PipelineFolder.read(folder)
    networks: Counter[str] = Counter()
    blocks: Counter[str] = Counter()
    for network, name, num_bytes in _tensors(model, spec, dtype):
        block = None if network.startswith("text_encoder") else BLOCK.match(name)
        networks[network] += num_bytes
        blocks[f"{network}/{block[0] if block else ''}"] += num_bytes
    added = total - networks.total()
    largest = max(networks.values(), default=0), max(blocks.values(), default=0)
    return WeightSizes(total, largest[0] + added, largest[1] + added)


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
    if model.checkpoint is not None:
        files.remove(model.checkpoint)
    files += [*loras, *adapters.embeddings]
    for net, net_folder in zip(spec.controlnets, adapters.controlnets, strict=True):
        files += weight_files(net_folder, net.variant, spec.allow_pickle)
    files += [each.weights for each in adapters.references]
    for each in adapters.references[:1]:  # all of them share its image encoder
        files += weight_files(each.image_encoder, None, False) if each.image_encoder else []
    return _of_checkpoint(model, dtype) + sum(
        _bytes(file, dtype) for file in files if file.suffix in WEIGHT_SUFFIXES
    )


def _of_checkpoint(model: PipelineFolder, dtype: str) -> int:
    """Bytes of the networks in a single file, without what the file holds beside them."""
    if model.checkpoint is None:
        return 0
    return bytes_of_file(read_single_file(model.checkpoint, model.shown), dtype)


def bytes_of_file(file: SingleFile, dtype: str) -> int:
    """Bytes in memory of the networks in a single file."""
    headers = file.headers.values()
    return sum(math.prod(header.shape) * _item_bytes(header, dtype) for header in headers)


def _tensors(model: PipelineFolder, spec: ModelSpec, dtype: str) -> Iterator[tuple[str, str, int]]:
    """Every tensor of the pipeline: its network, its name in there, and its bytes."""
    for file in used_files(model.path, model.components, spec.variant, spec.allow_pickle):
        if file == model.checkpoint:
            for part, headers in read_single_file(file, model.shown).parts.values():
                for name, header in headers.items():
                    num_bytes = math.prod(header.shape) * _item_bytes(header, dtype)
                    yield part.component, name.removeprefix(part.prefix), num_bytes
        elif file.suffix == ".safetensors":
            for name, header in read_headers(file).items():
                num_bytes = math.prod(header.shape) * _item_bytes(header, dtype)
                yield file.parent.name, name, num_bytes
        elif file.suffix in WEIGHT_SUFFIXES:
            yield file.parent.name, "", file.stat().st_size


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
