"""Ways of sampling faster that are worth a try, and what is against them on a model and a machine.

A way is a choice of `model.dtype` and `model.speed`. `diffusion_core.acceleration`
applies it and `benchmark.py` times it. Importing this loads no framework.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import ValidationError

from nightpress.diffusion_core.acceleration.spec import Quantization, SpeedSpec
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.loading import DType, ModelSpec


@dataclass(frozen=True)
class TuningConfig:
    """Choices that are taken together; what it leaves open stays as it is."""

    dtype: DType | None = None
    speed: SpeedSpec = field(default_factory=SpeedSpec)

    @classmethod
    def of(cls, dtype: DType | None = None, **speed: Any) -> Self:
        """With the keys of `model.speed` as arguments.

        Raises:
            ValidationError: they do not go together.
        """
        return cls(dtype, SpeedSpec.model_validate(speed))

    @property
    def values(self) -> dict[str, Any]:
        """What it says, JSON-ready and under the keys of a job's `model`, defaults left out."""
        speed = self.speed.model_dump(mode="json", exclude_defaults=True)
        dtype = {"dtype": self.dtype} if self.dtype is not None else {}
        return dtype | ({"speed": speed} if speed else {})

    @property
    def fields(self) -> frozenset[str]:
        """The names of what it decides."""
        dtype = {"dtype"} if self.dtype is not None else set()
        return frozenset(dtype | self.speed.chosen().keys())

    @property
    def name(self) -> str:
        """`bfloat16, deep_features interval 3`; of no choice at all, `nothing chosen`."""
        dtype = [self.dtype] if self.dtype is not None else []
        speed = [_words(key, value) for key, value in self.values.get("speed", {}).items()]
        return ", ".join([*dtype, *speed]) or "nothing chosen"

    def beside(self, other: "TuningConfig") -> "TuningConfig | None":
        """Both at once; None where they decide the same thing, or do not go together."""
        if self.fields & other.fields:
            return None
        try:
            speed = SpeedSpec.model_validate(self.speed.chosen() | other.speed.chosen())
        except ValidationError:
            return None
        return TuningConfig(self.dtype or other.dtype, speed)

    def onto(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a job's `model` with this in the place of what was chosen for its speed."""
        return {**model, **self.values, "speed": self.speed.chosen()}


def _words(key: str, value: Any) -> str:
    if value is True:
        return key
    if isinstance(value, Mapping):
        return " ".join([key, *(f"{name} {part}" for name, part in value.items())])
    return f"{key} {'false' if value is False else value}"


ATTENTION: dict[str, tuple[str, ...]] = {
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
"""By device: the backends that may be faster than what torch takes by itself."""

HALVES: dict[str, tuple[DType, ...]] = {"cpu": ("bfloat16",), "cuda": ("bfloat16", "float16")}


def candidates(device: str, dtype: str, batch_size: int, compiles: bool) -> list[TuningConfig]:
    """What to try on a device, each by itself; some of it may not be for the model.

    Args:
        device: `cpu` or `cuda`.
        dtype: what is sampled in anyhow, such as `float32`.
        batch_size: images at once.
        compiles: whether those that compile are wanted, each of which takes minutes.
    """
    parts = [TuningConfig.of(vae_batch_size=1)] if batch_size > 1 else []
    return [
        *_halves(device, dtype),
        *(TuningConfig.of(attention_backend=name) for name in ATTENTION[device]),
        TuningConfig.of(channels_last=True),
        TuningConfig.of(fuse_qkv_projections=True),
        *parts,
        *(TuningConfig.of(deep_features={"interval": interval}) for interval in (2, 3, 5)),
        TuningConfig.of(deep_features={"interval": 3, "branch": 2}),
        TuningConfig.of(taylorseer_cache={}),
        TuningConfig.of(pyramid_attention_broadcast={}),
        TuningConfig.of(first_block_cache={}),
        *(_compiled() if compiles else ()),
    ]


def _halves(device: str, dtype: str) -> list[TuningConfig]:
    """Half precision, and the decoder that diffusers would rather leave in float32 there."""
    ways = [TuningConfig(half) for half in HALVES[device] if half != dtype]
    if "float16" in HALVES[device]:
        ways.append(TuningConfig.of(None if dtype == "float16" else "float16", force_upcast=False))
    return ways


def _compiled() -> list[TuningConfig]:
    quantized = [
        TuningConfig.of(compile="full", quantization=name) for name in get_args(Quantization)
    ]
    return [TuningConfig.of(compile="regional"), TuningConfig.of(compile="full"), *quantized]


def refusal(folder: Path, spec: ModelSpec, device: str) -> str | None:
    """Why a model cannot be sampled so on this machine; None where nothing is known against it.

    No weight is read.

    Args:
        folder: of the pipeline.
        spec: the model, sampled in that way.
        device: `cpu` or `cuda`.

    Raises:
        ModelError: the folder holds no pipeline that can be driven.
    """
    from nightpress.diffusion_core.models import loading, pipeline_folder

    if spec.dtype == "bfloat16" and not _has_bfloat16(device):
        return f"model.dtype: this {_noun(device)} has no bfloat16 of its own, and emulates it"
    if not spec.speed.chosen():
        return None
    model = pipeline_folder.PipelineFolder.read(folder)
    owner = pipeline_folder.text_to_image_class(model)
    try:
        loading.check_speed(model, owner, spec)
    except ModelError as error:
        return str(error)
    return None


def _noun(device: str) -> str:
    return "processor" if device == "cpu" else "GPU"


def _has_bfloat16(device: str) -> bool:
    """Whether there are instructions for it: AVX-512, AMX or Arm's on a CPU."""
    import torch

    if device != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    told: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(told.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
