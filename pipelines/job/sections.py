"""The sections of a job file, and what is allowed in each."""

import os
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
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from nightpress.diffusion_core.models.sampler_spellings import read_sampler
from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.pipelines.job.credentials import ADVICE, secret_option
from nightpress.pipelines.storage.options import check_protocols
from nightpress.pipelines.storage.pacing import request_limit

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4_000
"""The longest file name and path that common file systems accept."""


MAX_FRAMES = 2_048
"""Frames of the longest clip."""

MAX_PIXELS = 89_478_485
"""Pixels of the largest image that Pillow opens without a warning: its MAX_IMAGE_PIXELS."""


def check_path_length(source: str) -> str:
    """Return a URL or path unchanged, after checking that a path is not too long.

    Raises:
        ValueError: one name in the path, or the whole path, is too long.
    """
    if "://" in source:
        return source
    longest = max(len(name.encode()) for name in source.split("/"))
    if longest > MAX_NAME_BYTES or len(source.encode()) > MAX_PATH_BYTES:
        raise ValueError(
            f"the path is too long: at most {MAX_NAME_BYTES} bytes are allowed for one name and "
            f"{MAX_PATH_BYTES:,} for the whole path"
        )
    return source


def existing_or_stripped(url: str) -> str:
    """The URL without spaces around it, unless a file has exactly this name."""
    if "\0" in url:
        raise ValueError("a path cannot contain a NUL character")
    url = url if os.path.lexists(url) else url.strip()
    if not url:
        raise ValueError("must not be empty")
    return url


Url = Annotated[
    str,
    StringConstraints(min_length=1),
    AfterValidator(existing_or_stripped),
    AfterValidator(check_path_length),
]
Auto = Literal["auto"]
Percent = Annotated[str, StringConstraints(pattern=r"^\d{1,2}(\.\d+)?%$")]
FAILURE_LIMIT = "a number of images, such as 100, or a share of them below 100%, such as 5%"
"""What a failure limit may be, as messages say it."""


def _check_failure_limit(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Refuse a wrong failure limit in one sentence instead of one for each form."""
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(f"must be {FAILURE_LIMIT}") from None


FailureLimit = Annotated[NonNegativeInt | Percent | None, WrapValidator(_check_failure_limit)]


JobName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        json_schema_extra={
            "patternErrorMessage": "must begin with a letter from a to z or A to Z or a digit, and "
            "go on with up to 127 such letters, digits, dots, underscores and hyphens"
        },
        description="Name of the run's folder under output; default: the job file's name.",
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
    check_protocols(storage)
    return storage


StorageOptions = Annotated[
    Mapping[str, Mapping[str, Any]],
    Field(
        description="fsspec options by protocol, such as {s3: {endpoint_url: ...}}, without "
        "credentials. The extra option requests_per_s limits how many requests each actor and the "
        "driver send per second."
    ),
    AfterValidator(_no_credentials),
    AfterValidator(_check_request_limits),
]
NO_OPTIONS: Mapping[str, Mapping[str, Any]] = {}


class Section(BaseModel):
    """A mapping in the job file: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ColumnMap(Section):
    """The manifest column that holds a setting, and what its codes mean."""

    column: Annotated[str, Field(min_length=1, description="The column's name in the manifest.")]
    values: Annotated[
        Mapping[str, str | int | float],
        Field(description="What the manifest's codes mean, such as {1: ddim, 3: euler}."),
    ] = {}

    @field_validator("values", mode="before")
    @classmethod
    def _codes_as_text(cls, values: Any) -> Any:
        """Without blanks around them, like the cells of the column."""
        if not isinstance(values, Mapping):
            return values
        codes: dict[str, Any] = {}
        for key, value in values.items():
            code = str(key).strip()
            if code in codes:
                raise ValueError(f"the code {code!r} is given twice; blanks around it do not count")
            codes[code] = value
        return codes


class SamplingDefaults(Section):
    """Defaults for settings that decide how an image is sampled, under diffusers' argument names.

    A setting that is null is left to the model.
    """

    width: Annotated[
        PositiveInt | None, Field(description="Width in pixels; default: the model's.")
    ] = None
    height: Annotated[
        PositiveInt | None, Field(description="Height in pixels; default: the model's.")
    ] = None
    num_inference_steps: Annotated[
        int | None, Field(ge=1, le=10_000, description="Denoising steps; default: the model's.")
    ] = None
    guidance_scale: Annotated[
        NonNegativeFloat | None,
        Field(description="Scale of classifier-free guidance; default: the model's."),
    ] = None
    scheduler: Annotated[
        str | None,
        Field(
            description="Sampler; default: the model's. A1111's and ComfyUI's names are read as "
            f"ours, which are: {', '.join(SAMPLER_NAMES)}."
        ),
    ] = None
    num_frames: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_FRAMES,
            description="Frames of each clip; default: the model's. With a model of still images "
            "only for walks; see nightpress walk.",
        ),
    ] = None

    @field_validator("scheduler")
    @classmethod
    def _known_sampler(cls, name: str | None) -> str | None:
        return None if name is None else read_sampler(name).name


class SamplingSpec(SamplingDefaults):
    """Defaults for settings that manifest rows leave out, under diffusers' argument names.

    A setting that is null is left to the model.
    """

    negative_prompt: Annotated[
        str, Field(description="Negative prompt for rows that have none of their own.")
    ] = ""
    num_images: Annotated[
        int, Field(ge=1, le=100_000, description="Images to make for each row of the manifest.")
    ] = 1


class ActorRange(Section):
    """The fewest and the most actors of a run."""

    min: Annotated[
        PositiveInt,
        Field(description="Fewest actors to request, even if the cluster has no room yet."),
    ] = 1
    max: Annotated[
        PositiveInt | Auto,
        Field(description="Most actors to use. auto: as many as the cluster has room for."),
    ] = "auto"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if isinstance(self.max, int) and self.max < self.min:
            raise ValueError(f"max ({self.max}) must not be below min ({self.min})")
        return self


class ClusterSpec(Section):
    """Where the job runs. These keys may change between starts of a run; see `RunSpec.changes`."""

    address: Annotated[
        str | None,
        Field(
            description="Address of a Ray cluster, as for ray.init. Default: RAY_ADDRESS, or else "
            "a local Ray that is started for the run."
        ),
    ] = None
    actors: Annotated[
        PositiveInt | Auto | ActorRange,
        Field(
            description="Number of actors, each with one loaded model; a number, or a range such "
            "as {min: 2, max: 8}. auto: as many as the cluster has room for."
        ),
    ] = "auto"
    gpus_per_actor: Annotated[
        NonNegativeFloat | Auto,
        Field(description="GPUs per actor. auto: 1 if the cluster has GPUs, otherwise 0."),
    ] = "auto"
    cpus_per_actor: Annotated[
        PositiveInt,
        Field(description="CPUs per actor, and the threads of a model that runs on the CPU."),
    ] = 1
    max_attempts: Annotated[
        PositiveInt,
        Field(
            description="Attempts at a shard that crashes its worker. The last one makes it in "
            "parts, down to single images, and those at fault are recorded as failed. The others, "
            "at least one, make it whole."
        ),
    ] = 3
    max_failures: Annotated[
        FailureLimit,
        Field(
            description="Stop early when more images than this have failed: a number, or a share "
            "of the finished images such as 5%. Default: no limit."
        ),
    ] = None
    watchdog_s: Annotated[
        PositiveFloat | None,
        Field(
            description="Replace an actor that reports nothing for this many seconds. Default: "
            "many times the duration of its slowest batch."
        ),
    ] = None
    load_timeout_s: Annotated[
        PositiveFloat,
        Field(
            description="Seconds that a scheduled actor may take to fetch and load its model "
            "before another replaces it."
        ),
    ] = 1800.0
    drain_s: Annotated[
        PositiveFloat,
        Field(description="Seconds that running batches may take to finish when a run stops."),
    ] = 60.0
    ship_package: Annotated[
        bool,
        Field(
            description="Send the nightpress package to the cluster's nodes; false if it is "
            "installed there."
        ),
    ] = True

    @property
    def min_actors(self) -> int:
        """The fewest actors to request."""
        match self.actors:
            case ActorRange(min=fewest):
                return fewest
            case int(number):
                return number
            case _:
                return 1

    @property
    def max_actors(self) -> int | None:
        """The most actors to use; None for as many as fit."""
        match self.actors:
            case ActorRange(max=int(most)):
                return most
            case int(number):
                return number
            case _:
                return None
