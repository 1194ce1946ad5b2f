"""The weights of a GGUF file, as diffusers takes them: quantised in linear layers, plain elsewhere.

A linear layer dequantises its own weights whenever it works, so an image does not depend on others.
Read against diffusers 0.42.1. Relies on `GGUFParameter` and `dequantize_gguf_tensor`, and on
`GGUFQuantizationConfig` making layers of a state dict that holds such parameters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import ModelError, UnsupportedModel
from nightpress.diffusion_core.models.single_file.gguf_header import DEQUANTIZED
from nightpress.diffusion_core.models.single_file.reading import SingleFile
from nightpress.diffusion_core.models.tensor_headers import TensorHeader, listed

UTILS = "diffusers.quantizers.gguf.utils"
READ = "read the quantised weights of a GGUF file"

Tensors = dict[str, Any]


def require_known_types(file: SingleFile) -> None:
    """Refuse quantised types that diffusers does not read.

    Raises:
        UnsupportedModel: the message names the types, and those that it reads.
    """
    found = [
        name
        for name, header in file.headers.items()
        if header.is_quantized and header.dtype not in DEQUANTIZED
    ]
    if found:
        types = ", ".join(sorted({file.headers[name].dtype for name in found}))
        raise UnsupportedModel(
            f"{file.name}: {len(found)} of its {len(file.headers)} tensors are quantised as "
            f"{types}, which diffusers does not read: {listed(found)}; it reads "
            f"{', '.join(sorted(DEQUANTIZED))}"
        )


def types_in_words(file: SingleFile) -> str:
    """How many tensors have each type, such as `304 in Q4_K, 10 in F32`."""
    names = sorted({header.dtype for header in file.headers.values()})
    numbers = {n: sum(h.dtype == n for h in file.headers.values()) for n in names}
    ordered = sorted(numbers, key=lambda name: -numbers[name])
    return ", ".join(f"{numbers[name]} in {name}" for name in ordered)


def read_tensors(path: Path, headers: Mapping[str, TensorHeader]) -> Tensors:
    """Tensors of a GGUF file: `GGUFParameter`s where they are quantised, else plain ones.

    What ComfyUI-GGUF has flattened gets its shape again, and is dequantised for that.
    """
    import torch
    from gguf import GGUFReader

    wrap = patching.require(UTILS, "GGUFParameter", READ)
    placed: Tensors = {}
    for tensor in GGUFReader(path).tensors:
        if (header := headers.get(tensor.name)) is None:
            continue
        # numpy aligns its memory to few bytes, which rounds products differently from run to run.
        values = torch.from_numpy(tensor.data.copy()).clone()
        if header.is_quantized:
            values = wrap(values, quant_type=tensor.tensor_type)
            is_matrix = tuple(values.quant_shape) == header.shape and len(header.shape) == 2
            values = values if is_matrix else dequantized(values).reshape(header.shape)
        else:
            values = values.view(torch.bfloat16) if header.dtype == "BF16" else values
            values = values.reshape(header.shape)
        placed[tensor.name] = values
    return placed


def fit(placed: Tensors, network: Any, kind: str, keep: bool) -> Tensors:
    """The tensors of a network, quantised only where a linear layer has its weights.

    Args:
        placed: tensors by their names in the network.
        network: without weights.
        kind: its class, as errors call it.
        keep: leave the weights of linear layers quantised.

    Raises:
        ModelError: diffusers' converter has divided the blocks of a quantised tensor.
    """
    from torch import nn

    wrap = patching.require(UTILS, "GGUFParameter", READ)
    linear = {f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Linear)}
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    made = {}
    for name, value in placed.items():
        if isinstance(value, wrap):
            if tuple(value.quant_shape) != shapes.get(name, tuple(value.quant_shape)):
                raise ModelError(
                    f"diffusers' converter of a {kind} divides the quantised blocks of {name}; use "
                    "a safetensors file"
                )
            made[name] = value if keep and name in linear else dequantized(value)
        else:
            made[name] = value
    return made


def dequantized(value: Any) -> Any:
    """A `GGUFParameter` as a plain tensor."""
    plain: Any = patching.require(UTILS, "dequantize_gguf_tensor", READ)(value)
    return plain


def loading_arguments(tensors: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Arguments of `from_single_file` for a state dict; none if nothing in it is quantised."""
    wrap = patching.require(UTILS, "GGUFParameter", READ)
    if not any(isinstance(value, wrap) for value in tensors.values()):
        return {}
    from diffusers import GGUFQuantizationConfig

    return {"quantization_config": GGUFQuantizationConfig(compute_dtype=dtype)}
