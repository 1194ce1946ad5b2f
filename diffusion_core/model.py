"""A model: how a job names it, what can be known before loading it, and the loaded thing."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

DType = Literal["auto", "float32", "bfloat16", "float16"]


class ModelSpec(BaseModel):
    """Which model, in which precision."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[
        str,
        Field(min_length=1, description="`builtin`, a folder, a hub id (`@revision`), or a URL."),
    ] = "builtin"
    revision: Annotated[str | None, Field(description="Of a hub id: branch, tag or commit.")] = None
    variant: Annotated[str | None, Field(description="Of the weight files, such as fp16.")] = None
    dtype: Annotated[
        DType, Field(description="auto: float32 on a CPU, bfloat16 on an accelerator.")
    ] = "auto"
    allow_pickle: Annotated[
        bool, Field(description="Load weights that are not safetensors. Unpickling runs code.")
    ] = False


@dataclass(frozen=True)
class ModelInfo:
    """What can be said of a model from its folder, without loading it."""

    source: str
    fingerprint: str
    """sha256 over every weight and configuration file that decides a pixel."""
    pipeline: str
    """Name of the diffusers pipeline class."""
    size_multiple: int
    """Widths and heights must be multiples of this many pixels."""
    width: int | None
    """Pixels, the model's own size; None when its configuration does not say."""
    height: int | None
    num_inference_steps: int
    """What the pipeline uses when nobody says otherwise."""
    guidance_scale: float
    samplers: tuple[str, ...]
    """The sampler names that fit what the model predicts."""
    takes_negative_prompt: bool

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(**{**values, "samplers": tuple(values["samplers"])})
