"""The sections of a job file: how each looks, and what is allowed in it.

Knows nothing of how they make a job, or of the file they stand in.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.pipelines.job.credentials import ADVICE, secret_option
from nightpress.pipelines.storage.pacing import request_limit

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4_000
"""Of what lies on a disk."""


def fits_a_disk(source: str) -> str:
    """The source, unless it is a path that no file system takes.

    Raises:
        ValueError: a name or the whole is too long.
    """
    if "://" in source:
        return source
    longest = max(len(name.encode()) for name in source.split("/"))
    if longest > MAX_NAME_BYTES or len(source.encode()) > MAX_PATH_BYTES:
        raise ValueError(
            f"no path: a name may have {MAX_NAME_BYTES} bytes, and the whole {MAX_PATH_BYTES:,}"
        )
    return source


Url = Annotated[
    str, StringConstraints(min_length=1, strip_whitespace=True), AfterValidator(fits_a_disk)
]
Auto = Literal["auto"]
Percent = Annotated[str, StringConstraints(pattern=r"^\d{1,2}(\.\d+)?%$")]


JobName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="Of the run's folder under output; the job file's own name unless set.",
    ),
]


def _no_credentials(storage: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    found = secret_option(storage)
    if found is not None:
        raise ValueError(f"{found} looks like a credential; {ADVICE}")
    return storage


def _check_request_limits(
    storage: Mapping[str, Mapping[str, Any]],
) -> Mapping[str, Mapping[str, Any]]:
    for protocol, options in storage.items():
        try:
            request_limit(options)
        except ValueError as error:
            raise ValueError(f"{protocol}.{error}") from error
    return storage


StorageOptions = Annotated[
    Mapping[str, Mapping[str, Any]],
    Field(
        description="fsspec options by protocol: {s3: {endpoint_url: ...}}; no credentials. "
        "requests_per_s, beside them: what each actor and the driver may ask in a second."
    ),
    AfterValidator(_no_credentials),
    AfterValidator(_check_request_limits),
]
NO_OPTIONS: Mapping[str, Mapping[str, Any]] = {}


class Section(BaseModel):
    """A mapping in the job file: immutable, and closed to keys nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ColumnMap(Section):
    """Where a setting is read from, when the manifest has other names or codes for it."""

    column: Annotated[
        str, Field(min_length=1, description="The manifest's own name of the column.")
    ]
    values: Annotated[
        Mapping[str, str | int | float],
        Field(description="Codes of the manifest and what they mean: {1: ddim, 3: euler}."),
    ] = {}

    @field_validator("values", mode="before")
    @classmethod
    def _codes_as_text(cls, values: Any) -> Any:
        return {str(k): v for k, v in values.items()} if isinstance(values, Mapping) else values


class SamplingSpec(Section):
    """Sampling defaults for rows that do not say otherwise, under diffusers' argument names.

    None leaves the choice to the model.
    """

    width: Annotated[PositiveInt | None, Field(description="Pixels.")] = None
    height: Annotated[PositiveInt | None, Field(description="Pixels.")] = None
    num_inference_steps: Annotated[int | None, Field(ge=1, le=10_000)] = None
    guidance_scale: NonNegativeFloat | None = None
    scheduler: Annotated[str | None, Field(description=f"One of: {', '.join(SAMPLER_NAMES)}.")] = (
        None
    )
    negative_prompt: str = ""
    num_images: Annotated[
        int, Field(ge=1, le=100_000, description="Images for each row of the manifest.")
    ] = 1

    @field_validator("scheduler")
    @classmethod
    def _known_sampler(cls, name: str | None) -> str | None:
        if name is not None and name not in SAMPLER_NAMES:
            raise ValueError(f"no such sampler; one of: {', '.join(SAMPLER_NAMES)}")
        return name


class ImagesSpec(Section):
    """How the image files look and what they are called."""

    format: Literal["png", "webp", "jpeg"] = "png"
    quality: Annotated[
        int | None,
        Field(ge=1, le=100, description="jpeg: 95 unless set. webp: lossless unless set."),
    ] = None
    file_name: Annotated[
        str | None,
        Field(
            min_length=1,
            description="A template over the columns, such as {category}/{image_id}.png; "
            "{image_id} and the format's suffix unless set. {spread}/ in front parts the rows "
            "of a large run into 256 folders.",
        ),
    ] = None
    packing: Annotated[
        Literal["none", "webdataset", "parquet"],
        Field(
            description="webdataset, parquet: all images of a shard in one object, which is made "
            "again from its start when it is interrupted. none: an object for each image."
        ),
    ] = "none"

    @property
    def suffix(self) -> str:
        """The file suffix without its dot."""
        return {"png": "png", "webp": "webp", "jpeg": "jpg"}[self.format]

    @property
    def is_packed(self) -> bool:
        """Whether the images of a shard share an object."""
        return self.packing != "none"

    @property
    def template(self) -> str:
        """The file-name template in force."""
        return self.file_name or f"{{image_id}}.{self.suffix}"

    @model_validator(mode="after")
    def _matching_suffix(self) -> Self:
        allowed = ("jpg", "jpeg") if self.format == "jpeg" else (self.suffix,)
        if not self.template.lower().endswith(tuple(f".{suffix}" for suffix in allowed)):
            raise ValueError(
                f"file_name {self.template!r} must end in .{' or .'.join(allowed)}, "
                f"because format is {self.format}"
            )
        if self.format == "png" and self.quality is not None:
            raise ValueError("quality is for jpeg and webp; png loses nothing")
        return self


class BatchSpec(Section):
    """How much is sampled at once, and how much is committed at once."""

    size: Annotated[
        PositiveInt | Auto,
        Field(
            description="Images in one batch; part of what decides the last bits of a pixel. auto: "
            "measured before a run of 20,000 denoising steps or more; in others 4 on a CPU, 8 on a "
            "GPU."
        ),
    ] = "auto"
    shard_size: Annotated[
        PositiveInt | Auto,
        Field(description="Images in one shard, the unit that is handed out and committed."),
    ] = "auto"


class ActorRange(Section):
    """How many actors a run may hold."""

    min: PositiveInt = 1
    max: PositiveInt | Auto = "auto"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if isinstance(self.max, int) and self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


class ClusterSpec(Section):
    """Where a run runs. Changing it never changes the run's name; see `RunSpec.changes`."""

    address: Annotated[
        str | None,
        Field(description="Of a Ray cluster, as in ray.init; RAY_ADDRESS, else a local Ray."),
    ] = None
    actors: Annotated[
        PositiveInt | Auto | ActorRange,
        Field(
            description="Each holds one loaded model. auto: as many as the cluster has room for."
        ),
    ] = "auto"
    gpus_per_actor: Annotated[
        NonNegativeFloat | Auto, Field(description="auto: 1 where the cluster has GPUs, else 0.")
    ] = "auto"
    cpus_per_actor: Annotated[
        PositiveInt, Field(description="Also the threads of a model that runs on the CPU.")
    ] = 1
    max_attempts: Annotated[
        PositiveInt, Field(description="How often a shard may kill its worker before it fails.")
    ] = 3
    max_failures: Annotated[
        NonNegativeInt | Percent | None,
        Field(
            description="Failed images at which a start stops early: a number, or a share of all "
            "that are done, such as 5%."
        ),
    ] = None
    watchdog_s: Annotated[
        PositiveFloat | None,
        Field(
            description="Seconds of silence after which an actor is taken to hang; by default many "
            "times what its slowest batch took."
        ),
    ] = None
    load_timeout_s: Annotated[
        PositiveFloat,
        Field(
            description="Seconds that an actor, once it has its place, may take to find and load "
            "its model before another is started in its stead."
        ),
    ] = 1800.0
    drain_s: Annotated[
        PositiveFloat,
        Field(description="Seconds that the batches in hand may take when a run is to stop."),
    ] = 60.0
    ship_package: Annotated[
        bool,
        Field(description="Send nightpress itself along; false where the nodes have it installed."),
    ] = True

    @property
    def min_actors(self) -> int:
        """The fewest actors to ask for."""
        match self.actors:
            case ActorRange(min=fewest):
                return fewest
            case int(number):
                return number
            case _:
                return 1

    @property
    def max_actors(self) -> int | None:
        """The most actors to hold; None for as many as fit."""
        match self.actors:
            case ActorRange(max=int(most)):
                return most
            case int(number):
                return number
            case _:
                return None
