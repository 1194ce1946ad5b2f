"""The precision that `model.dtype: auto` stands for, by device and model.

Importing this module loads no framework.
"""

from pathlib import Path

from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.spec import DType

BFLOAT16_CAPABILITY = (8, 0)
"""The compute capability from which GPUs multiply in bfloat16: that of Ampere. Older ones emulate
it, many times slower than float16."""

SAFE_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")
"""Text encoders whose models were trained and are published in float16."""


def resolve_dtype(dtype: DType, device: str, folder: Path) -> str:
    """The precision of a model's weights; `auto` is decided by the device that samples.

    float32 on a CPU; bfloat16 on a GPU that has it; on an older one float16, or float32 for a model
    with another text encoder than CLIP's: such models were trained in bfloat16, and their values
    overflow in float16.

    Args:
        dtype: `model.dtype`.
        device: torch's name of a device of this machine.
        folder: the model's folder; it is read only where it decides.

    Raises:
        ModelError: the folder is damaged.
    """
    if dtype != "auto":
        return dtype
    if device == "cpu":
        return "float32"
    if has_bfloat16(device):
        return "bfloat16"
    return "float16" if _is_safe_in_float16(PipelineFolder.read(folder)) else "float32"


def usual_dtype(dtype: DType, device: str) -> str:
    """As `resolve_dtype`, for the usual GPU: where no process has looked at the real one."""
    if dtype != "auto":
        return dtype
    return "float32" if device == "cpu" else "bfloat16"


def trainable_dtype(dtype: DType, device: str) -> DType:
    """As `resolve_dtype` for a frozen model that something is trained for: never float16."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device != "cpu" and has_bfloat16(device) else "float32"


def has_bfloat16(device: str) -> bool:
    """Whether a GPU multiplies in bfloat16; all that ROCm supports count as if they did.

    So does one that torch does not see: loading the model onto it fails in words.
    """
    import torch

    if torch.version.hip is not None or not torch.cuda.is_available():
        return True
    return torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY


def _is_safe_in_float16(model: PipelineFolder) -> bool:
    names = {kind for name, kind in model.components.items() if name.startswith("text_encoder")}
    return bool(names) and names <= set(SAFE_ENCODERS)
