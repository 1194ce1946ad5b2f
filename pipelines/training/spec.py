"""The job file of `nightpress train`: three recipes, validated once.

Owns the keys of a training job and what may change when it is resumed. Knows nothing of what is in
the data or in a model's folder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from nightpress.diffusion_core.models.loading import ModelSpec
from nightpress.pipelines.errors import Change, SpecError
from nightpress.pipelines.job.credentials import ADVICE, has_credentials
from nightpress.pipelines.job.reader import apply_override, explain, read_yaml
from nightpress.pipelines.job.sections import NO_OPTIONS, JobName, Section, StorageOptions, Url
from nightpress.pipelines.job.spec import MAX_SEED, differences, flatten, nested_copy
from nightpress.pipelines.training.data import DataSpec
from nightpress.pipelines.training.sections import (
    AutoencoderLosses,
    AutoencoderModel,
    DenoiserModel,
    LoraScheduleSpec,
    LoraSettingsSpec,
    OptimizationSpec,
    SamplesSpec,
    ScheduleSpec,
    TrainClusterSpec,
)


class TrainSpec(Section):
    """What every training job has; each recipe adds its own sections."""

    name: JobName
    data: DataSpec
    output: Annotated[Url, Field(description="URL of the folder that holds training runs.")]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    training: OptimizationSpec = OptimizationSpec()
    samples: SamplesSpec = SamplesSpec()
    cluster: TrainClusterSpec = TrainClusterSpec()
    storage: StorageOptions = NO_OPTIONS

    needs_captions: ClassVar[bool] = True

    @model_validator(mode="after")
    def _no_credentials_in_urls(self) -> Self:
        for key, value in flatten(self.model_dump(mode="json", exclude={"storage"})):
            urls = value if isinstance(value, list) else [value]
            if any(isinstance(url, str) and has_credentials(url) for url in urls):
                raise ValueError(f"the {key} URL carries credentials; {ADVICE}")
        return self

    @property
    def url(self) -> str:
        """The run directory: `<output>/<name>`."""
        return f"{self.output.rstrip('/')}/{self.name}"

    def require_even_shares(self, num_workers: int) -> None:
        """Every worker must get as much of a batch, and be able to take it in equal parts.

        Raises:
            SpecError: it cannot.
        """
        if not self.shares_evenly(num_workers):
            size, num_parts = self.training.train_batch_size, self._num_parts
            parts = f", each in {num_parts} parts" if num_parts > 1 else ""
            raise SpecError(
                f"training.train_batch_size {size} cannot be shared evenly by {num_workers} "
                f"workers{parts}; change it, cluster.workers or "
                "training.gradient_accumulation_steps"
            )

    def shares_evenly(self, num_workers: int) -> bool:
        """Whether so many workers get as much of a batch each, in equal parts."""
        return self.training.train_batch_size % (num_workers * self._num_parts) == 0

    @property
    def _num_parts(self) -> int:
        return self.training.gradient_accumulation_steps

    def as_dict(self) -> dict[str, Any]:
        """The whole job as JSON-ready values, defaults included."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """What decides the weights at a given step, as JSON-ready flat values."""
        values = flatten({k: v for k, v in self.as_dict().items() if k not in ELSEWHERE})
        kept = ((key, value) for key, value in values if key not in MAY_CHANGE)
        return {key: "a folder" if self._is_place(key, value) else value for key, value in kept}

    def _is_place(self, key: str, value: Any) -> bool:
        """Whether it says where weights lie, which are known by their fingerprint."""
        return key in WEIGHT_PLACES and isinstance(value, str)

    def changes(self, other: "TrainSpec") -> list[Change]:
        """What `other` says differently, among what decides the weights at a given step."""
        return differences(self.identity(), other.identity())


ELSEWHERE = ("name", "data", "output", "storage", "cluster", "samples")
"""Sections that say where things lie and what is watched; the data is known by its fingerprint."""

WEIGHT_PLACES = frozenset(
    f"model.{key}" for key in ("source", "autoencoder", "denoiser", "text_encoder", "tokenizer")
)

MAY_CHANGE = frozenset(
    f"training.{key}"
    for key in (
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "max_train_steps",
        "learning_rate",
        "lr_scheduler",
        "lr_warmup_steps",
        "lr_decay_steps",
        "max_grad_norm",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "logging_steps",
        "tensorboard",
    )
)
"""What a resumed run may say differently: how long, how fast, and what is kept on the way."""


class AutoencoderSpec(TrainSpec):
    """Recipe `autoencoder`: pixels to latents and back."""

    recipe: Literal["autoencoder"]
    model: AutoencoderModel
    losses: AutoencoderLosses = AutoencoderLosses()
    crop: Annotated[
        PositiveInt | None,
        Field(description="Train on random windows of so many pixels; the resolution unless set."),
    ] = None

    needs_captions: ClassVar[bool] = False

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        if self.crop is not None and self.crop > self.training.resolution:
            raise ValueError(
                f"crop {self.crop} is larger than training.resolution {self.training.resolution}"
            )
        return self


class DenoiserSpec(TrainSpec):
    """Recipe `denoiser`: a text-to-image latent diffusion model."""

    recipe: Literal["denoiser"]
    model: DenoiserModel
    schedule: ScheduleSpec = ScheduleSpec()
    cache_latents: Annotated[
        bool, Field(description="Encode each picture once, and keep the latents in the store.")
    ] = True

    @model_validator(mode="after")
    def _mirrored_latents(self) -> Self:
        if self.cache_latents and self.training.random_flip:
            raise ValueError("random_flip needs cache_latents: false; cached latents do not mirror")
        return self


class LoraTrainSpec(TrainSpec):
    """Recipe `lora`: a small adapter on a model that stays as it is."""

    recipe: Literal["lora"]
    model: ModelSpec
    lora: LoraSettingsSpec = LoraSettingsSpec()
    schedule: LoraScheduleSpec = LoraScheduleSpec()

    @field_validator("model", mode="before", json_schema_input_type=str | ModelSpec)
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


RECIPES: Mapping[str, type[TrainSpec]] = {
    "autoencoder": AutoencoderSpec,
    "denoiser": DenoiserSpec,
    "lora": LoraTrainSpec,
}


def read_train_spec(path: str | Path, overrides: Sequence[str] = ()) -> TrainSpec:
    """Read a YAML job file; `overrides` are `a.b=value` strings that replace its keys.

    Raises:
        SpecError: no such file, no YAML, or a job that cannot be run.
    """
    path = Path(path)
    values = read_yaml(path)
    values.setdefault("name", path.name.removesuffix(path.suffix))
    return train_spec(values, overrides, where=str(path))


def train_spec(
    values: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "job"
) -> TrainSpec:
    """Validate a training job given as a mapping; see `read_train_spec`."""
    values = nested_copy(values)
    for override in overrides:
        apply_override(values, override)
    recipe = values.get("recipe")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        told = "missing" if recipe is None else f"{recipe!r}: no such recipe"
        raise SpecError(f"{where}: recipe: {told}; one of: {', '.join(RECIPES)}")
    kind = RECIPES[recipe]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"{where}: {line}" for line in explain(error, kind, values)]
        raise SpecError("\n".join(lines)) from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a training job file, for editors; `name` may be left out of a file."""
    recipes = TypeAdapter(AutoencoderSpec | DenoiserSpec | LoraTrainSpec)
    schema = recipes.json_schema()
    for definition in schema["$defs"].values():
        if "recipe" in definition.get("properties", {}):
            definition["required"].remove("name")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
