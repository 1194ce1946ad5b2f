"""Which ways of sampling faster a job may choose, and how the choice is written down.

Owns `SpeedSpec`. `apply.py` says how each is done, and what a model can take.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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
"""diffusers' own names, less those that fetch code from the hub, and those of other devices."""

Quantization = Literal[
    "int8_weight_only",
    "int8_dynamic_activation_int8_weight",
    "float8_weight_only",
    "float8_dynamic_activation_float8_weight",
]
"""torchao's configurations, as it names them."""

Fraction = Annotated[float, Field(gt=0, le=1)]


class Choice(BaseModel):
    """One choice with its own settings: immutable, and closed to keys nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DeepFeaturesSpec(Choice):
    """Reuse of a U-Net's deep features between steps: `diffusion_core.acceleration.deepcache`."""

    interval: Annotated[int, Field(ge=2, description="Computed whole on one step in so many.")]
    branch: Annotated[
        int, Field(ge=0, description="Skip from which on the others compute; more reuses less.")
    ] = 0


class FirstBlockCacheSpec(Choice):
    """A step whose first block says nothing new takes the rest from the step before."""

    threshold: Annotated[
        Fraction, Field(description="Relative change of the first block's residual below which.")
    ] = 0.05


class PyramidAttentionBroadcastSpec(Choice):
    """Attention is computed on one step in so many, and its output used on those after it."""

    spatial_attention_block_skip_range: Annotated[int, Field(ge=2)] = 2
    spatial_attention_timestep_skip_range: Annotated[
        tuple[int, int],
        Field(strict=False, description="Between these timesteps, of 1000, and not outside."),
    ] = (100, 800)


class TaylorSeerCacheSpec(Choice):
    """Attention is computed on one step in so many, and extrapolated on those after it."""

    cache_interval: Annotated[int, Field(ge=2)] = 5
    disable_cache_before_step: Annotated[int, Field(ge=1)] = 3
    max_order: Annotated[int, Field(ge=0, le=3, description="Of the Taylor series.")] = 1


CACHES = ("first_block_cache", "pyramid_attention_broadcast", "taylorseer_cache")
"""What diffusers hooks into a transformer, of which one at a time."""


class SpeedSpec(Choice):
    """Ways of sampling faster, none of which is on unless it is asked for.

    Each may change the last bits of an image, and some more than that, so all of them are part of
    what a run is, and of what its images say of themselves.
    """

    attention_backend: Annotated[
        AttentionBackend | None,
        Field(description="By diffusers' name; torch's own choice unless set."),
    ] = None
    channels_last: Annotated[
        bool, Field(description="Convolutions of a U-Net and its VAE keep channels last.")
    ] = False
    compile: Annotated[
        Literal["regional", "full"] | None,
        Field(
            description="torch.compile: of the repeated blocks, or of the whole denoiser and the "
            "VAE's decoder."
        ),
    ] = None
    fuse_qkv_projections: Annotated[
        bool, Field(description="Queries, keys and values in one matrix product.")
    ] = False
    vae_batch_size: Annotated[
        int | None,
        Field(ge=1, description="Images decoded at once, to save memory; the batch unless set."),
    ] = None
    force_upcast: Annotated[
        Literal[False] | None,
        Field(
            description="false: SDXL's VAE stays in float16, and only what is not finite there is "
            "decoded again in float32."
        ),
    ] = None
    quantization: Annotated[
        Quantization | None,
        Field(description="Of the denoiser's matrix products, by torchao; needs compile."),
    ] = None
    deep_features: Annotated[
        DeepFeaturesSpec | None, Field(description="Reuse those of a U-Net; lossy.")
    ] = None
    first_block_cache: Annotated[
        FirstBlockCacheSpec | None,
        Field(description="Of a transformer; lossy. Decides for a whole batch: batch.size 1."),
    ] = None
    pyramid_attention_broadcast: Annotated[
        PyramidAttentionBroadcastSpec | None, Field(description="Of a transformer; lossy.")
    ] = None
    taylorseer_cache: Annotated[
        TaylorSeerCacheSpec | None, Field(description="Of a transformer; lossy.")
    ] = None

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        caches = self.caches
        if self.quantization and not self.compile:
            raise ValueError("quantization without compile is slower than none; set compile too")
        if len(caches) > 1:
            raise ValueError(f"{' and '.join(caches)}: one cache at a time")
        if self.compile and caches:
            raise ValueError(f"{caches[0]} decides anew at each step, and cannot be compiled")
        if self.compile == "full" and self.deep_features:
            raise ValueError("deep_features go with compile: regional, not with full")
        return self

    @property
    def caches(self) -> tuple[str, ...]:
        """The names of the transformer caches that are chosen."""
        return tuple(name for name in CACHES if getattr(self, name) is not None)

    def chosen(self) -> dict[str, Any]:
        """What is not as it would be by itself, as JSON-ready values; each choice is whole."""
        fields = type(self).model_fields
        values = self.model_dump(mode="json")
        return {n: v for n, v in values.items() if getattr(self, n) != fields[n].default}

    def as_text(self) -> str | None:
        """`chosen` as JSON on one line, keys sorted; None where nothing is."""
        chosen = self.chosen()
        return json.dumps(chosen, sort_keys=True, separators=(",", ":")) if chosen else None

    @classmethod
    def from_text(cls, text: str | None) -> Self:
        """The inverse of `as_text`.

        Raises:
            ValueError: it is no such text; in one line.
        """
        try:
            return cls.model_validate_json(text) if text is not None else cls()
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"speed: {place}: {first['msg']}") from error
