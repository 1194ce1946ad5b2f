"""Typed records: planned images, the facts of an image, and how each image ended.

This module defines the Arrow schemas of `plan/` and `metadata/`.
"""

from collections.abc import Callable
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
"""One row per planned image, in sampling order; carried columns follow."""

LORA_TYPE = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("scale", pa.float64(), nullable=False),
    ]
)
"""A LoRA that an image was made with."""

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
        pa.field("prompt_cut", pa.string()),
        pa.field("negative_prompt_cut", pa.string()),
    ]
)
"""One row per finished image; carried columns follow.

The image is the object `file`. In a pack, it is the member `member`: `num_bytes` bytes of `file`
from `member_offset` on.
"""

RESERVED_COLUMNS = frozenset(PLAN_SCHEMA.names) | frozenset(METADATA_SCHEMA.names)
"""Names that a carried column may not have; see `carried_name`."""


def carried_name(name: str) -> str:
    """The name in plan and metadata of a column that is carried through from the manifest."""
    if not name:
        return "unnamed"
    return f"manifest_{name}" if name in RESERVED_COLUMNS else name


OPTIONAL_FACTS = ("speed", "prompt_cut", "negative_prompt_cut")
"""Facts that most images do not have; their files say nothing about them."""


def python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as Python values; a column that has no such values has its times as text.

    Python has no time beyond the year 9999, and without pandas none with nanoseconds.
    """
    columns = [python_values(column) for column in table.columns]
    names = table.column_names
    rows = zip(*columns, strict=True) if columns else [()] * table.num_rows
    return [dict(zip(names, row, strict=True)) for row in rows]


def nanoseconds_as_text(table: pa.Table) -> pa.Table:
    """The table with text in place of times in nanoseconds, whether pandas is there or not."""
    for index, field in enumerate(table.schema):
        type_ = with_types(field.type, lambda inner: pa.string() if _is_in_ns(inner) else inner)
        if type_ != field.type:
            texts = table.column(index).cast(type_)
            table = table.set_column(index, field.with_type(type_), texts)
    return table


def with_types(type_: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A type with other types in the lists, structs and maps inside it, at any depth."""

    def changed(field: pa.Field) -> pa.Field:
        return field.with_type(with_types(field.type, change))

    if pa.types.is_fixed_size_list(type_):
        return pa.list_(changed(type_.value_field), type_.list_size)
    if pa.types.is_list(type_):
        return pa.list_(changed(type_.value_field))
    if pa.types.is_struct(type_):
        return pa.struct([changed(field) for field in type_])
    if pa.types.is_map(type_):
        return pa.map_(changed(type_.key_field), changed(type_.item_field))
    return change(type_)


def python_values(column: pa.ChunkedArray) -> list[Any]:
    """The values of one column; see `python_rows`."""
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        texts = with_types(
            column.type, lambda type_: pa.string() if pa.types.is_temporal(type_) else type_
        )
        values = column.cast(texts).to_pylist()
    return values


def _is_in_ns(type_: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(type_) and getattr(type_, "unit", "") == "ns")


@dataclass(frozen=True)
class ImageFacts:
    """What determines one image. It is the same in every attempt, and so are the image's bytes.

    The facts are embedded in the image file, and are columns of its metadata row.
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
    """How the model was accelerated, as `SpeedSpec.as_text`; None if it was not."""
    prompt_cut: str | None = None
    """The end of the prompt that no text encoder saw; None if nothing was cut."""
    negative_prompt_cut: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON-ready values in a fixed order; of `OPTIONAL_FACTS` only what is set."""
        values = {**asdict(self), "loras": [asdict(lora) for lora in self.loras]}
        left_out = [name for name in OPTIONAL_FACTS if values[name] is None]
        return {name: value for name, value in values.items() if name not in left_out}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`; other keys are ignored."""
        loras = tuple(LoraInfo(**lora) for lora in values["loras"])
        optional = {name: values.get(name) for name in OPTIONAL_FACTS}
        known = {n: values[n] for n in cls.__dataclass_fields__ if n not in OPTIONAL_FACTS}
        return cls(**known | optional | {"loras": loras})


class FailureType(StrEnum):
    """Why an image failed: `error_type` in its metadata row."""

    NON_FINITE = "NonFinite"
    """The model's output was not finite, also in float32."""
    BLANK = "Blank"
    """Every pixel has the same colour."""
    FLAGGED = "Flagged"
    """The model's safety checker refused the image."""
    SAMPLING = "SamplingError"
    """The model raised an error for this image, also when it was sampled alone."""
    OUT_OF_MEMORY = "OutOfMemory"
    """The image does not fit into memory, even alone."""
    TIMEOUT = "Timeout"
    """The image was not finished when the watchdog ended its process."""
    WORKER_KILLED = "WorkerKilled"
    """Its process died each time the image was tried alone."""
    ENCODING = "EncodingError"
    """The pixels could not be encoded as a file."""
    NAME_TAKEN = "NameTaken"
    """Another file has the image's name."""


@dataclass(frozen=True)
class ImageRecord:
    """How one planned image ended: its metadata row without the carried columns."""

    facts: ImageFacts
    status: Literal["ok", "failed"]
    attempts: int
    worker: str
    started_at: float
    """Seconds since the epoch, UTC."""
    file: str | None = None
    """Relative to the run directory, `images/...`; None if the image failed."""
    member: str | None = None
    """The image's name in the pack `file`; None if `file` is not a pack."""
    member_offset: int | None = None
    """Offset of the image in the pack."""
    sha256: str | None = None
    num_bytes: int | None = None
    sampling_s: float | None = None
    """This image's share of its batch's sampling time; None if it was found in the store."""
    error_type: FailureType | None = None
    error: str | None = None
