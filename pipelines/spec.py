"""The job file: what a person asks for, validated once, with errors that name key and value.

Owns `RunSpec` and how it is read, overridden and compared. Knows nothing of what is in the
manifest or the model.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
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
    field_validator,
    model_validator,
)

from diffusion_core.model import ModelSpec
from diffusion_core.schedulers import SAMPLER_NAMES
from pipelines.credentials import ADVICE, has_credentials, secret_option
from pipelines.errors import Change, SpecError
from pipelines.job_file import apply_override, explain, read_yaml

MAX_SEED = 2**53 - 1
"""The largest seed: every JSON reader and every spreadsheet keeps integers up to here."""

Url = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
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


StorageOptions = Annotated[
    Mapping[str, Mapping[str, Any]],
    Field(description="fsspec options by protocol: {s3: {endpoint_url: ...}}; no credentials."),
    AfterValidator(_no_credentials),
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
            "{image_id} and the format's suffix unless set.",
        ),
    ] = None

    @property
    def suffix(self) -> str:
        """The file suffix without its dot."""
        return {"png": "png", "webp": "webp", "jpeg": "jpg"}[self.format]

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
        Field(description="Images in one batch. Part of what decides the last bits of a pixel."),
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


class RunSpec(Section):
    """One job: a manifest, a model, and where the images go."""

    name: JobName
    manifest: Annotated[
        Url | list[Url],
        Field(description="Parquet, CSV, TSV, JSONL or text; a URL, folder, glob or list of them."),
    ]
    output: Annotated[Url, Field(description="URL of the folder that holds runs.")]
    columns: Annotated[
        Mapping[str, str | ColumnMap | None],
        Field(
            description="Setting -> the manifest's column for it: {prompt: caption}; "
            "null for a column that only looks like a setting."
        ),
    ] = {}
    model: ModelSpec = ModelSpec()
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    sampling: SamplingSpec = SamplingSpec()
    images: ImagesSpec = ImagesSpec()
    batch: BatchSpec = BatchSpec()
    cluster: ClusterSpec = ClusterSpec()
    storage: StorageOptions = NO_OPTIONS

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("columns")
    @classmethod
    def _known_settings(
        cls, columns: Mapping[str, str | ColumnMap | None]
    ) -> Mapping[str, str | ColumnMap | None]:
        unknown = sorted(set(columns) - set(SETTING_COLUMNS))
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is no setting; the mapping goes setting -> manifest column, "
                f"and the settings are: {', '.join(SETTING_COLUMNS)}"
            )
        return columns

    @model_validator(mode="after")
    def _no_credentials_in_urls(self) -> Self:
        for key, url in (
            ("output", self.output),
            ("model", self.model.source),
            *(("LoRA", lora.source) for lora in self.model.loras),
            *(("manifest", url) for url in self.manifests),
        ):
            if has_credentials(url):
                raise ValueError(f"the {key} URL carries credentials; {ADVICE}")
        return self

    @property
    def url(self) -> str:
        """The run directory: `<output>/<name>`."""
        return f"{self.output.rstrip('/')}/{self.name}"

    @property
    def manifests(self) -> list[str]:
        """The manifest's URLs as a list."""
        return [self.manifest] if isinstance(self.manifest, str) else list(self.manifest)

    @classmethod
    def from_file(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML job file; `overrides` are `a.b=value` strings that replace its keys.

        Raises:
            SpecError: no such file, no YAML, or a job that cannot be run.
        """
        path = Path(path)
        values = read_yaml(path)
        values.setdefault("name", path.name.removesuffix(path.suffix))
        return cls.from_dict(values, overrides, where=str(path))

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "job"
    ) -> Self:
        """Validate a job given as a mapping; see `from_file`."""
        values = nested_copy(values)
        if isinstance(values.get("model"), str):
            values["model"] = {"source": values["model"]}
        for override in overrides:
            apply_override(values, override)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"{where}: {line}" for line in explain(error, cls, values)]
            raise SpecError("\n".join(lines)) from error

    def as_dict(self) -> dict[str, Any]:
        """The whole job as JSON-ready values, defaults included."""
        return self.model_dump(mode="json")

    def changes(self, other: "RunSpec") -> list[Change]:
        """What `other` says differently, among what decides names and pixels.

        Where it runs, and how the store is reached, may change from one start to the next.
        """
        return differences(dict(flatten(self.identity())), dict(flatten(other.identity())))

    def identity(self) -> dict[str, Any]:
        """The part of the job that decides names and pixels, as JSON-ready values."""
        values = self.as_dict()
        return {key: value for key, value in values.items() if key not in ELSEWHERE}


SETTING_COLUMNS = (
    "prompt",
    "id",
    "negative_prompt",
    "seed",
    "num_images",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
)
"""The manifest columns that decide an image; every other column is carried through."""

CONDITION_COLUMNS = ("strength", "init_image", "mask_image", "control_image", "lora", "lora_scale")
"""Names kept for conditioning images and adapters; a manifest that has one is refused."""


ELSEWHERE = ("output", "storage", "cluster")
"""The keys of a job that say where it happens, not what is made."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a job file, for editors; `name` may be left out of a file."""
    schema = RunSpec.model_json_schema()
    schema["required"] = [key for key in schema["required"] if key != "name"]
    schema["properties"]["model"] = {
        "anyOf": [{"type": "string"}, schema["properties"]["model"]],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The fields of two flat mappings that differ, in alphabetical order."""
    return [
        Change(field, old.get(field), new.get(field))
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    ]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as `("a.b", 1)` pairs."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nested_copy(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose mappings can be changed, at every depth."""
    return {k: nested_copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def canonical_json(values: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
