"""The job file of `nightpress train`: the keys of each recipe, and which may change on resume.

Validation does not look at the data or at model folders.
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

from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.errors import Change, SpecError
from nightpress.pipelines.job.characters import texts_of
from nightpress.pipelines.job.credentials import ADVICE, has_credentials
from nightpress.pipelines.job.night import PLACEHOLDER
from nightpress.pipelines.job.reader import (
    apply_overrides,
    read_yaml,
    refuse_what_is_not_text,
)
from nightpress.pipelines.job.sections import NO_OPTIONS, JobName, Section, StorageOptions, Url
from nightpress.pipelines.job.spec import MAX_SEED, differences, flatten, nested_copy
from nightpress.pipelines.job.validation_messages import explain
from nightpress.pipelines.training.data import DataSpec
from nightpress.pipelines.training.sections import (
    AutoencoderLosses,
    AutoencoderModel,
    ControlNetScheduleSpec,
    ControlNetSettingsSpec,
    DenoiserModel,
    LoraScheduleSpec,
    LoraSettingsSpec,
    OptimizationSpec,
    SamplesSpec,
    ScheduleSpec,
    TrainClusterSpec,
)


class TrainSpec(Section):
    """The keys of every training job; each recipe adds its own sections."""

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
                raise ValueError(f"the {key} URL contains credentials; {ADVICE}")
        return self

    @property
    def url(self) -> str:
        """The run directory: `<output>/<name>`."""
        return f"{self.output.rstrip('/')}/{self.name}"

    def require_even_shares(self, num_workers: int) -> None:
        """Check that the workers can split a batch into equal shares of equal parts.

        Raises:
            SpecError: they cannot.
        """
        if not self.shares_evenly(num_workers):
            size, num_parts = self.training.train_batch_size, self._num_parts
            divisor = f"{num_workers} workers"
            if num_parts > 1:
                divisor += f" with {num_parts} gradient_accumulation_steps each"
            raise SpecError(
                f"training.train_batch_size {size} cannot be split evenly among {divisor}; it must "
                f"be a multiple of {num_workers * num_parts}"
            )

    def shares_evenly(self, num_workers: int) -> bool:
        """Whether this number of workers can split a batch into equal shares of equal parts."""
        return self.training.train_batch_size % (num_workers * self._num_parts) == 0

    @property
    def _num_parts(self) -> int:
        return self.training.gradient_accumulation_steps

    def as_dict(self) -> dict[str, Any]:
        """The whole job as JSON-compatible values, defaults included."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """The values that determine the weights at a given step, as a flat mapping."""
        values = flatten({k: v for k, v in self.as_dict().items() if k not in NOT_IDENTITY})
        kept = ((key, value) for key, value in values if key not in MAY_CHANGE_ON_RESUME)
        return {
            key: "a folder" if self._is_weight_source(key, value) else value for key, value in kept
        }

    @property
    def inputs(self) -> list[str]:
        """The URLs and paths of everything that the job reads."""
        values = flatten(self.as_dict())
        weights = [value for key, value in values if self._is_weight_source(key, value)]
        return [*self.data.sources, *self.data.roots, *weights]

    def _is_weight_source(self, key: str, value: Any) -> bool:
        """Whether the value locates weights, which are compared by fingerprint instead."""
        return key in WEIGHT_SOURCES and isinstance(value, str)

    def changes(self, other: "TrainSpec") -> list[Change]:
        """Differences to `other` in the values that determine the weights at a given step."""
        return differences(self.identity(), other.identity())


NOT_IDENTITY = ("name", "data", "output", "storage", "cluster", "samples")
"""Keys that do not affect the weights; the data is compared by its fingerprint instead."""

WEIGHT_SOURCES = frozenset(
    f"model.{key}" for key in ("source", "autoencoder", "denoiser", "text_encoder", "tokenizer")
)

MAY_CHANGE_ON_RESUME = frozenset(
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
"""Keys that a job may change when it resumes: duration, learning rate, memory and logging."""


class AutoencoderSpec(TrainSpec):
    """Recipe `autoencoder`: train an autoencoder between pixels and latents."""

    recipe: Literal["autoencoder"]
    model: AutoencoderModel
    losses: AutoencoderLosses = AutoencoderLosses()
    crop: Annotated[
        PositiveInt | None,
        Field(
            description="Pixels per side of the random windows to train on; default: whole images."
        ),
    ] = None

    needs_captions: ClassVar[bool] = False

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop is not None and self.crop > self.training.resolution:
            raise ValueError(
                f"crop {self.crop} is larger than training.resolution {self.training.resolution}"
            )
        return self


class DenoiserSpec(TrainSpec):
    """Recipe `denoiser`: train a text-to-image latent diffusion model."""

    recipe: Literal["denoiser"]
    model: DenoiserModel
    schedule: ScheduleSpec = ScheduleSpec()
    cache_latents: Annotated[
        bool,
        Field(description="Encode each image once, and store the latents in the run directory."),
    ] = True

    @model_validator(mode="after")
    def _flips_need_fresh_latents(self) -> Self:
        if self.cache_latents and self.training.random_flip:
            raise ValueError(
                "training.random_flip requires cache_latents: false, because cached latents cannot "
                "be mirrored"
            )
        return self


class FrozenBaseSpec(TrainSpec):
    """What the recipes share that train something for a model whose own weights stay frozen."""

    model: ModelSpec
    schedule: LoraScheduleSpec = LoraScheduleSpec()

    @field_validator("model", mode="before", json_schema_input_type=str | ModelSpec)
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    def as_dict(self) -> dict[str, Any]:
        """The whole job as JSON-compatible values, defaults included.

        All but `model.prompts`, which the recipe refuses, unless the job sets it. `model.speed` can
        only be `auto` or `exact`, which here are the same.
        """
        values = super().as_dict()
        values["model"]["speed"] = self.model.ways.model_dump(mode="json")
        if "prompts" not in self.model.model_fields_set:
            del values["model"]["prompts"]
        return values

    def identity(self) -> dict[str, Any]:
        """The values that determine the weights at a given step, as a flat mapping."""
        values = super().identity()  # records of older versions have model.prompts
        return {key: value for key, value in values.items() if not key.startswith("model.prompts.")}


class LoraTrainSpec(FrozenBaseSpec):
    """Recipe `lora`: train a LoRA for a model whose own weights stay frozen."""

    recipe: Literal["lora"]
    lora: LoraSettingsSpec = LoraSettingsSpec()


class ControlNetTrainSpec(FrozenBaseSpec):
    """Recipe `controlnet`: train a ControlNet for a model whose own weights stay frozen."""

    recipe: Literal["controlnet"]
    controlnet: ControlNetSettingsSpec = ControlNetSettingsSpec()
    schedule: ControlNetScheduleSpec = ControlNetScheduleSpec()

    @model_validator(mode="after")
    def _control_pictures_fit(self) -> Self:
        if self.training.random_flip:
            raise ValueError("training.random_flip: control pictures cannot be mirrored")
        patches, resolution = self.controlnet.patches, self.training.resolution
        if patches > resolution:
            raise ValueError(
                f"controlnet.patches {patches} is larger than training.resolution {resolution}"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The values that determine the weights at a given step, as a flat mapping."""
        places = ("controlnet.source", "controlnet.image")  # compared by fingerprint, like the data
        return {key: value for key, value in super().identity().items() if key not in places}

    @property
    def inputs(self) -> list[str]:
        """The URLs and paths of everything that the job reads."""
        source = self.controlnet.source or []
        return [*super().inputs, *([source] if isinstance(source, str) else source)]


RECIPES: Mapping[str, type[TrainSpec]] = {
    "autoencoder": AutoencoderSpec,
    "denoiser": DenoiserSpec,
    "lora": LoraTrainSpec,
    "controlnet": ControlNetTrainSpec,
}


def read_train_spec(path: str | Path, overrides: Sequence[str] = ()) -> TrainSpec:
    """Read a training job from a YAML file; `overrides` are `a.b=value` strings.

    Raises:
        SpecError: the file is missing, is not YAML, or is not a valid job; it may be a job that
            makes images.
    """
    path = Path(path)
    values = read_yaml(path)
    if "manifest" in values and not values.keys() & {"recipe", "data"}:
        raise SpecError(
            f"{path}: this is a job that makes images, as its key manifest says, not a training "
            "job, which has a recipe; use nightpress run"
        )
    values.setdefault("name", path.name.removesuffix(path.suffix))
    _refuse_night(values, overrides, str(path))
    return train_spec(values, overrides, where=str(path))


def _refuse_night(values: Mapping[str, Any], overrides: Sequence[str], where: str) -> None:
    """Refuse `{night}`: a training goes on for as long as it takes."""
    texts = [*texts_of(values), *(((override,), override) for override in overrides)]
    for keys, text in texts:
        if PLACEHOLDER in text:
            raise SpecError(
                f"{where}: {'.'.join(keys)}: {text!r}: {PLACEHOLDER} is allowed only in jobs that "
                "make images"
            )


def train_spec(
    values: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "job"
) -> TrainSpec:
    """Validate a training job given as a mapping; see `read_train_spec`."""
    values = nested_copy(values)
    apply_overrides(values, overrides)
    refuse_what_is_not_text(values, where)
    recipe = values.get("recipe")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        problem = "missing" if recipe is None else f"{recipe!r} is not a recipe"
        raise SpecError(f"{where}: recipe: {problem}; allowed are {', '.join(RECIPES)}")
    kind = RECIPES[recipe]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"{where}: {line}" for line in explain(error, kind, values)]
        raise SpecError("\n".join(lines)) from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a training job file, in which `name` is optional."""
    recipes = TypeAdapter(AutoencoderSpec | DenoiserSpec | LoraTrainSpec | ControlNetTrainSpec)
    schema = recipes.json_schema()
    for definition in schema["$defs"].values():
        if "recipe" in definition.get("properties", {}):
            definition["required"].remove("name")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
