"""Random LoRAs of the tiny models, saved by plain diffusers and peft."""

from pathlib import Path
from typing import Any

import torch
from support.slow_cases import slow_except

FAMILIES = ("sd", "lcm", "sdxl", "sd3", "flux", "sana")
"""The tiny models whose pipelines support LoRAs."""

ONE_OF_A_KIND = slow_except(FAMILIES, "sd", "sdxl", "flux")
"""The families as parameters; by default a U-Net, one with two encoders, and a transformer."""

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]


def save(pipeline: Any, folder: Path, seed: int = 0, with_text: bool = False) -> Path:
    """Add adapters with random weights to a pipeline and save them as a LoRA folder."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    parts = {part: ATTENTION}
    if with_text:
        parts["text_encoder"] = ["q_proj", "v_proj"]
    arguments = {}
    for name, targets in parts.items():
        module = getattr(pipeline, name)
        module.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets))
        layers = get_peft_model_state_dict(module, adapter_name="default")
        if name == "text_encoder":
            layers = convert_state_dict_to_diffusers(layers)
        arguments[f"{name}_lora_layers"] = _random(layers, seed)
    type(pipeline).save_lora_weights(folder, **arguments)
    return folder


def _random(layers: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in layers.items()}
