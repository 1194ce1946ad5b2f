"""Speed configurations worth trying, and why a model or a machine cannot use some of them.

A configuration is a choice of `model.dtype` and `model.speed`. `diffusion_core.acceleration`
applies it and `benchmark.py` times it. Importing this module loads no framework.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import ValidationError

from nightpress.diffusion_core.acceleration.spec import Quantization, SpeedSpec
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.spec import DType, ModelSpec


@dataclass(frozen=True)
class TuningConfig:
    """Speed settings that are used together; fields that it does not set keep their values."""

    dtype: DType | None = None
    speed: SpeedSpec = field(default_factory=SpeedSpec)

    @classmethod
    def of(cls, dtype: DType | None = None, **speed: Any) -> Self:
        """A configuration from a dtype and the keys of `model.speed`.

        Raises:
            ValidationError: the keys cannot be combined.
        """
        return cls(dtype, SpeedSpec.model_validate(speed))

    @property
    def values(self) -> dict[str, Any]:
        """Its settings under the keys of a job's `model`, JSON-ready, without defaults."""
        speed = self.speed.model_dump(mode="json", exclude_defaults=True)
        dtype = {"dtype": self.dtype} if self.dtype is not None else {}
        return dtype | ({"speed": speed} if speed else {})

    @property
    def fields(self) -> frozenset[str]:
        """Names of the settings that it sets."""
        dtype = {"dtype"} if self.dtype is not None else set()
        return frozenset(dtype | self.speed.chosen().keys())

    @property
    def name(self) -> str:
        """`bfloat16, deep_features interval 3`, or `nothing chosen` if it sets nothing."""
        dtype = [self.dtype] if self.dtype is not None else []
        speed = [_label(key, value) for key, value in self.values.get("speed", {}).items()]
        return ", ".join([*dtype, *speed]) or "nothing chosen"

    def combined_with(self, other: "TuningConfig") -> "TuningConfig | None":
        """Both together; None if they set the same field or are incompatible."""
        if self.fields & other.fields:
            return None
        try:
            speed = SpeedSpec.model_validate(self.speed.chosen() | other.speed.chosen())
        except ValidationError:
            return None
        return TuningConfig(self.dtype or other.dtype, speed)

    def applied_to(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """A job's `model` values with this configuration in place of its speed settings."""
        return {**model, **self.values, "speed": self.speed.chosen()}


def _label(key: str, value: Any) -> str:
    if value is True:
        return key
    if isinstance(value, Mapping):
        return " ".join([key, *(f"{name} {part}" for name, part in value.items())])
    return f"{key} {'false' if value is False else value}"


ATTENTION_BACKENDS: dict[str, tuple[str, ...]] = {
    "cpu": ("_native_math", "_native_flash"),
    "cuda": (
        "_native_flash",
        "_native_cudnn",
        "_native_efficient",
        "flash",
        "_flash_3",
        "sage",
        "xformers",
    ),
}
"""By device: backends that may be faster than the one torch selects by itself."""

HALF_PRECISION: dict[str, tuple[DType, ...]] = {
    "cpu": ("bfloat16",),
    "cuda": ("bfloat16", "float16"),
}


def candidates(device: str, dtype: str, batch_size: int, compiles: bool) -> list[TuningConfig]:
    """Configurations to try one by one on a device; a model may not support all of them.

    Args:
        device: `cpu` or `cuda`.
        dtype: the reference's precision, such as `float32`; it is not tried again.
        batch_size: images sampled at once.
        compiles: whether to include configurations that compile, each of which takes minutes.
    """
    decode_singly = [TuningConfig.of(vae_batch_size=1)] if batch_size > 1 else []
    return [
        *_half_precision(device, dtype),
        *(TuningConfig.of(attention_backend=name) for name in ATTENTION_BACKENDS[device]),
        TuningConfig.of(channels_last=True),
        TuningConfig.of(fuse_qkv_projections=True),
        *decode_singly,
        *(TuningConfig.of(deep_features={"interval": interval}) for interval in (2, 3, 5)),
        TuningConfig.of(deep_features={"interval": 3, "branch": 2}),
        TuningConfig.of(taylorseer_cache={}),
        TuningConfig.of(pyramid_attention_broadcast={}),
        TuningConfig.of(first_block_cache={}),
        *(_compiled() if compiles else ()),
    ]


def last_bit_candidates() -> list[TuningConfig]:
    """Configurations that compute the same in another order: they change the last bits at most.

    Those that take no time to compile come first.
    """
    return [
        TuningConfig.of(channels_last=True),
        TuningConfig.of(fuse_qkv_projections=True),
        TuningConfig.of(compile="regional"),
        TuningConfig.of(compile="full"),
    ]


def _half_precision(device: str, dtype: str) -> list[TuningConfig]:
    """Half precision, also with a float16 decoder, which diffusers would run in float32."""
    configs = [TuningConfig(half) for half in HALF_PRECISION[device] if half != dtype]
    if "float16" in HALF_PRECISION[device]:
        half: DType | None = None if dtype == "float16" else "float16"
        configs.append(TuningConfig.of(half, force_upcast=False))
    return configs


def _compiled() -> list[TuningConfig]:
    quantized = [
        TuningConfig.of(compile="full", quantization=name) for name in get_args(Quantization)
    ]
    return [TuningConfig.of(compile="regional"), TuningConfig.of(compile="full"), *quantized]


def unsupported_reason(folder: Path, spec: ModelSpec, device: str) -> str | None:
    """Why this machine cannot sample a model with these settings; None if no reason is known.

    Reads no weights.

    Args:
        folder: the pipeline's folder.
        spec: the model with the settings to check.
        device: `cpu` or `cuda`.

    Raises:
        ModelError: the folder holds no supported pipeline.
    """
    from nightpress.diffusion_core.models import model_speed, pipeline_folder

    if spec.dtype == "bfloat16" and not _has_bfloat16(device):
        processor = "CPU" if device == "cpu" else "GPU"
        return f"model.dtype: this {processor} has no bfloat16 instructions and would emulate them"
    if not spec.ways.chosen():
        return None
    model = pipeline_folder.PipelineFolder.read(folder)
    owner = pipeline_folder.text_to_image_class(model)
    try:
        model_speed.check_speed(model, owner, spec, device=device)
    except ModelError as error:
        return str(error)
    return None


def _has_bfloat16(device: str) -> bool:
    """Whether the device has bfloat16 instructions: on a CPU those of AVX-512, AMX or Arm.

    `torch.cpu.get_capabilities` was read in torch 2.13 and is missing from older releases; without
    it bfloat16 counts as emulated.
    """
    import torch

    if device != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
