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


@dataclass(frozen=True)
class _Stored:
    """A tensor in a file, or a whole pickle, which is not read only for its size."""

    network: str
    """The component that it is of; empty for what is added to the pipeline."""
    name: str
    num_bytes: int
    """In the file."""
    num_floats: int = 0
    """Its numbers if they are floating-point, which take the type that the model is loaded in."""

    def bytes_in(self, dtype: str) -> int:
        """Bytes once it is loaded."""
        return self.num_floats * FLOAT_BYTES[dtype] if self.num_floats else self.num_bytes


def weight_sizes(
    folder: Path,
    spec: ModelSpec,
    loras: Iterable[Path] = (),
    adapters: AdapterFiles = NO_ADAPTERS,
) -> dict[str, WeightSizes]:
    """The sizes of a model's weights, with its LoRAs, ControlNets and IP-Adapters, by dtype.

    What is added is on the device all the time, or with the network that it changes.

    Args:
        folder: of the saved pipeline.
        loras: files of LoRAs.

    Returns:
        The type that the model is loaded in, which may differ from that of the files -> its sizes.

    Raises:
        ModelError: a file is missing or damaged.
    """
    model = PipelineFolder.read(folder)
    stored = [*_of_pipeline(model, spec), *_of_added(spec, loras, adapters)]
    return {dtype: _sizes_in(dtype, stored) for dtype in FLOAT_BYTES}


def bytes_of_file(file: SingleFile) -> dict[str, int]:
    """Bytes in memory of the networks in a single file, by dtype."""
    stored = [_tensor("", name, header) for name, header in file.headers.items()]
    return {dtype: sum(each.bytes_in(dtype) for each in stored) for dtype in FLOAT_BYTES}


def _sizes_in(dtype: str, stored: Iterable[_Stored]) -> WeightSizes:
    networks: Counter[str] = Counter()
    blocks: Counter[str] = Counter()
    added = 0
    for each in stored:
        num_bytes = each.bytes_in(dtype)
        if not each.network:
            added += num_bytes
            continue
        block = None if each.network.startswith("text_encoder") else BLOCK.match(each.name)
        networks[each.network] += num_bytes
        blocks[f"{each.network}/{block[0] if block else ''}"] += num_bytes
    largest = (max(counts.values(), default=0) + added for counts in (networks, blocks))
    return WeightSizes(networks.total() + added, *largest)


def _of_pipeline(model: PipelineFolder, spec: ModelSpec) -> Iterator[_Stored]:
    for file in used_files(model.path, model.components, spec.variant, spec.allow_pickle):
        if file == model.checkpoint:
            for part, headers in read_single_file(file, model.shown).parts.values():
                for name, header in headers.items():
                    yield _tensor(part.component, name.removeprefix(part.prefix), header)
        elif file.suffix in WEIGHT_SUFFIXES:
            yield from _of_file(file, file.parent.name)


def _of_added(spec: ModelSpec, loras: Iterable[Path], adapters: AdapterFiles) -> Iterator[_Stored]:
    files = [*loras, *adapters.embeddings]
    for net, net_folder in zip(spec.controlnets, adapters.controlnets, strict=True):
        files += weight_files(net_folder, net.variant, spec.allow_pickle)
    files += [each.weights for each in adapters.references]
    for each in adapters.references[:1]:  # all of them share its image encoder
        files += weight_files(each.image_encoder, None, False) if each.image_encoder else []
    for file in files:
        if file.suffix in WEIGHT_SUFFIXES:
            yield from _of_file(file, "")


def _of_file(file: Path, network: str) -> Iterator[_Stored]:
    if file.suffix != ".safetensors":
        yield _Stored(network, "", file.stat().st_size)
        return
    for name, header in read_headers(file).items():
        yield _tensor(network, name, header)


def _tensor(network: str, name: str, header: TensorHeader) -> _Stored:
    number = math.prod(header.shape)
    if header.quantized_bytes is not None and len(header.shape) == 2:
        return _Stored(network, name, header.quantized_bytes)
    if header.is_floating or header.is_quantized:  # layers that diffusers keeps in no blocks
        return _Stored(network, name, 0, number)
    bits = re.search(r"\d+", header.dtype)
    return _Stored(network, name, number * (int(bits[0]) // 8 if bits else 1))
