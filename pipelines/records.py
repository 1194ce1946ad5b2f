"""The rows that cross boundaries: what is planned, what is inside an image, what was done.

Owns the Arrow schemas of `plan/` and `metadata/`. Knows nothing of storage or models.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal, Self

import pyarrow as pa

from nightpress.diffusion_core.models.lora_files import LoraInfo

PLAN_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("variant", pa.int32(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("negative_prompt", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("num_inference_steps", pa.int32(), nullable=False),
        pa.field("guidance_scale", pa.float64(), nullable=False),
        pa.field("scheduler", pa.string(), nullable=False),
        pa.field("lora", pa.string()),
        pa.field("lora_scale", pa.float64()),
    ]
)
"""One planned image a row, in sampling order; carried columns follow these."""

LORA_TYPE = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("scale", pa.float64(), nullable=False),
    ]
)
"""One LoRA that an image was made with."""

METADATA_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("variant", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("file", pa.string()),
        pa.field("member", pa.string()),
        pa.field("member_offset", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("num_bytes", pa.int64()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("negative_prompt", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("scheduler", pa.string(), nullable=False),
        pa.field("num_inference_steps", pa.int32(), nullable=False),
        pa.field("guidance_scale", pa.float64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_fingerprint", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("batch_size", pa.int32(), nullable=False),
        pa.field("loras", pa.list_(LORA_TYPE), nullable=False),
        pa.field("worker", pa.string(), nullable=False),
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("sampling_s", pa.float64()),
        pa.field("speed", pa.string()),
    ]
)
"""One finished image a row; carried columns follow these.

The image is the object `file`; where that is a pack, it is `num_bytes` of it from `member_offset`
on, and has the name `member` in there.
"""

RESERVED_COLUMNS = frozenset(PLAN_SCHEMA.names) | frozenset(METADATA_SCHEMA.names)
"""Names that a carried column may not take; see `carried_name`."""


def carried_name(name: str) -> str:
    """What a column of the manifest is called in the plan and the metadata."""
    if not name:
        return "unnamed"
    return f"manifest_{name}" if name in RESERVED_COLUMNS else name


@dataclass(frozen=True)
class ImageFacts:
    """What made one image: the same for every attempt, so the image's bytes are too.

    Written into the image file and, column for column, into its metadata row.
    """

    image_id: str
    id: str
    variant: int
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    model: str
    model_fingerprint: str
    dtype: str
    batch_size: int
    loras: tuple[LoraInfo, ...] = ()
    speed: str | None = None
    """How the model was made faster: `SpeedSpec.as_text`; None where it was not."""

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON-ready values, in a fixed order; `speed` only where there is one."""
        values = {**asdict(self), "loras": [asdict(lora) for lora in self.loras]}
        return values if self.speed is not None else {k: values[k] for k in values if k != "speed"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`; keys it does not know are left out."""
        loras = tuple(LoraInfo(**lora) for lora in values["loras"])
        known = {name: values[name] for name in cls.__dataclass_fields__ if name != "speed"}
        return cls(**known | {"loras": loras, "speed": values.get("speed")})


class FailureType(StrEnum):
    """Why an image could not be made: `error_type` of its metadata row."""

    NON_FINITE = "NonFinite"
    """The model gave values that are no numbers, in float32 too."""
    BLANK = "Blank"
    """Every pixel has the same colour."""
    FLAGGED = "Flagged"
    """The model's own safety checker refused the image."""
    SAMPLING = "SamplingError"
    """The model raised an error on this image alone."""
    OUT_OF_MEMORY = "OutOfMemory"
    """It does not fit into memory even alone."""
    TIMEOUT = "Timeout"
    """It was still not done when the watchdog ended its process."""
    WORKER_KILLED = "WorkerKilled"
    """It ended its process whenever it was tried alone."""
    ENCODING = "EncodingError"
    """Its pixels could not be made a file."""
    NAME_TAKEN = "NameTaken"
    """Its name holds another file."""


@dataclass(frozen=True)
class ImageRecord:
    """How one planned image ended: the metadata row, less the carried columns."""

    facts: ImageFacts
    status: Literal["ok", "failed"]
    attempts: int
    worker: str
    started_at: float
    """Seconds since the epoch, UTC."""
    file: str | None = None
    """Relative to the run directory, `images/...`; None when failed."""
    member: str | None = None
    """Its name in the pack that `file` is; None when it is no pack."""
    member_offset: int | None = None
    """Where in the pack its bytes begin."""
    sha256: str | None = None
    num_bytes: int | None = None
    sampling_s: float | None = None
    """This image's share of its batch's sampling time; None when it was found in the store."""
    error_type: FailureType | None = None
    error: str | None = None
