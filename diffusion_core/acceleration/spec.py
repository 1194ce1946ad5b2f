"""The ways to sample faster that a job may choose as `model.speed`, and their JSON form.

`apply.py` applies them, and checks which of them a model supports.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightpress.diffusion_core.acceleration import recorded_choice

AttentionBackend = Literal[
    "native",
    "_native_math",
    "_native_flash",
    "_native_efficient",
    "_native_cudnn",
    "flash",
    "_flash_3",
    "sage",
    "xformers",
]
"""diffusers' own names, without those that fetch code from the hub or need other devices."""

Quantization = Literal[
    "int8_weight_only",
    "int8_dynamic_activation_int8_weight",
    "float8_weight_only",
    "float8_dynamic_activation_float8_weight",
]
"""torchao's names of its configurations."""

Fraction = Annotated[float, Field(gt=0, le=1)]


class SpeedOption(BaseModel):
    """One way to sample faster, with its settings; immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DeepFeaturesSpec(SpeedOption):
    """Reuse a U-Net's deep features between steps: `diffusion_core.acceleration.deepcache`."""

    interval: Annotated[
        int, Field(ge=2, description="Compute the whole U-Net on one step in this many.")
    ]
    branch: Annotated[
        int, Field(ge=0, description="Skip at which the other steps turn around; more reuses less.")
    ] = 0


class FirstBlockCacheSpec(SpeedOption):
    """Reuse the last step's output of all blocks but the first, if the first has changed little."""

    threshold: Annotated[
        Fraction,
        Field(description="Reuse below this relative change of the first block's residual."),
    ] = 0.05


class PyramidAttentionBroadcastSpec(SpeedOption):
    """Compute attention on some steps, and reuse its output on those after them."""

    spatial_attention_block_skip_range: Annotated[int, Field(ge=2)] = 2
    spatial_attention_timestep_skip_range: Annotated[
        tuple[int, int],
        Field(strict=False, description="Reuse only between these timesteps, of 1000."),
    ] = (100, 800)


class TaylorSeerCacheSpec(SpeedOption):
    """Compute attention on some steps, and extrapolate its output on those after them."""

    cache_interval: Annotated[int, Field(ge=2)] = 5
    disable_cache_before_step: Annotated[int, Field(ge=1)] = 3
    max_order: Annotated[int, Field(ge=0, le=3, description="Order of the Taylor series.")] = 1


CACHES = ("first_block_cache", "pyramid_attention_broadcast", "taylorseer_cache")
"""The caches that diffusers hooks into a transformer; only one can be on."""


class SpeedSpec(SpeedOption):
    """Ways to sample faster; none is on unless it is chosen.

    Each may change the last bits of an image, and some change more, so the choice is part of a
    run's identity and of an image's embedded metadata.
    """

    attention_backend: Annotated[
        AttentionBackend | None,
        Field(description="diffusers' name of an attention kernel; torch chooses unless set."),
    ] = None
    channels_last: Annotated[
        bool, Field(description="Keep channels last in the convolutions of a U-Net and its VAE.")
    ] = False
    compile: Annotated[
        Literal["regional", "full"] | None,
        Field(
            description="torch.compile: `regional` for the repeated blocks, `full` for the whole "
            "denoiser and the VAE's decoder."
        ),
    ] = None
    fuse_qkv_projections: Annotated[
        bool, Field(description="Compute queries, keys and values in one matrix product.")
    ] = False
    vae_batch_size: Annotated[
        int | None,
        Field(
            ge=1,
            description="Decode this many images at once, to save memory; the batch unless set.",
        ),
    ] = None
    force_upcast: Annotated[
        Literal[False] | None,
        Field(
            description="false: keep SDXL's VAE in float16, and decode again in float32 only the "
            "images that are not finite."
        ),
    ] = None
    quantization: Annotated[
        Quantization | None,
        Field(description="Quantise the denoiser's matrix products with torchao; needs compile."),
    ] = None
    deep_features: Annotated[
        DeepFeaturesSpec | None, Field(description="Reuse a U-Net's deep features; lossy.")
    ] = None
    first_block_cache: Annotated[
        FirstBlockCacheSpec | None,
        Field(description="Cache of a transformer; lossy. Needs batch.size 1."),
    ] = None
    pyramid_attention_broadcast: Annotated[
        PyramidAttentionBroadcastSpec | None, Field(description="Cache of a transformer; lossy.")
    ] = None
    taylorseer_cache: Annotated[
        TaylorSeerCacheSpec | None, Field(description="Cache of a transformer; lossy.")
    ] = None

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        caches = self.caches
        if self.quantization and not self.compile:
            raise ValueError("quantization makes uncompiled models slower; set compile too")
        if len(caches) > 1:
            raise ValueError(f"{' and '.join(caches)}: only one cache can be on")
        if self.compile and caches:
            raise ValueError(f"{caches[0]} decides at each step, so compile cannot be used with it")
        if self.compile == "full" and self.deep_features:
            raise ValueError("deep_features work with compile: regional, not with full")
        return self

    @property
    def caches(self) -> tuple[str, ...]:
        """The names of the chosen transformer caches."""
        return tuple(name for name in CACHES if getattr(self, name) is not None)

    def chosen(self) -> dict[str, Any]:
        """The choices that differ from the defaults, JSON-ready, each with all its settings."""
        fields = type(self).model_fields
        values = self.model_dump(mode="json")
        return {n: v for n, v in values.items() if getattr(self, n) != fields[n].default}

    def as_text(self) -> str | None:
        """`chosen` as JSON on one line with sorted keys; None if nothing is chosen."""
        return recorded_choice.as_text(self.chosen())

    @classmethod
    def from_text(cls, text: str | None) -> Self:
        """The inverse of `as_text`.

        Raises:
            ValueError: the text is not valid; the message is one line.
        """
        return recorded_choice.from_text(cls, "speed", text)
