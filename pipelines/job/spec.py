"""`RunSpec`: a job file, validated once, with errors that name the key and the value.

Also how a job is read, overridden and compared with another.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, tzinfo
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from nightpress.diffusion_core.conditioning.passes import PassSpec
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.errors import Change, SpecError
from nightpress.pipelines.job.batch_section import BatchSpec
from nightpress.pipelines.job.cost_section import CostSpec
from nightpress.pipelines.job.credentials import ADVICE, has_credentials
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.job.identity import job_identity
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.job.models_section import (
    MODEL,
    NamedModel,
    require_distinct,
    require_one_key,
)
from nightpress.pipelines.job.night import with_night
from nightpress.pipelines.job.notify_section import NotifySpec
from nightpress.pipelines.job.provenance_section import ProvenanceSpec
from nightpress.pipelines.job.reader import (
    apply_overrides,
    read_yaml,
    refuse_what_is_not_text,
)
from nightpress.pipelines.job.review_section import ReviewSpec
from nightpress.pipelines.job.scores_section import (
    MEASURED,
    NO_SCORERS,
    ScorerSpecs,
    beside,
)
from nightpress.pipelines.job.sections import (
    NO_OPTIONS,
    ClusterSpec,
    ColumnMap,
    JobName,
    SamplingSpec,
    Section,
    StorageOptions,
    Url,
    check_path_length,
)
from nightpress.pipelines.job.settings import SETTING_COLUMNS, is_setting
from nightpress.pipelines.job.validation_messages import explain

MAX_SEED = 2**53 - 1
"""The largest seed: JSON readers and spreadsheets keep integers exact up to here."""


class RunSpec(Section):
    """One job: a manifest, a model, and where the images go."""

    name: Annotated[
        JobName,
        Field(
            description="Name of the run's folder under output; default: the job file's name. "
            "{night} becomes the date of the night."
        ),
    ]
    manifest: Annotated[
        Url | list[Url],
        Field(
            default_factory=list,
            description="Parquet, CSV, TSV, JSONL or text files: a URL, a folder, a glob, or a "
            "list of these. {night} becomes the date of the night.",
        ),
    ]
    output: Annotated[
        Url,
        Field(
            description="URL of the folder that holds runs. {night} becomes the date of the night."
        ),
    ]
    columns: Annotated[
        Mapping[str, str | ColumnMap | None],
        Field(
            description="Which manifest column holds a setting, such as {prompt: caption}; null if "
            "a column of the setting's name is not that setting."
        ),
    ] = {}
    model: ModelSpec = ModelSpec()
    models: Annotated[
        tuple[NamedModel, ...],
        Field(
            strict=False,
            min_length=1,
            max_length=64,
            description="Several models instead of `model`, of which each row names one: a list of "
            "{name, source, sampling, ...} with every key of `model`.",
        ),
    ] = ()
    seed: Annotated[
        int, Field(ge=0, le=MAX_SEED, description="Seed from which images' seeds are derived.")
    ] = 0
    sampling: SamplingSpec = SamplingSpec()
    inputs: InputsSpec = InputsSpec()
    passes: Annotated[
        tuple[PassSpec, ...],
        Field(
            strict=False,
            max_length=8,
            description="Each image is sampled again, larger, from its own pixels: a list of "
            "{scale, strength, num_inference_steps}.",
        ),
    ] = ()
    scores: ScorerSpecs = NO_SCORERS
    images: ImagesSpec = ImagesSpec()
    gates: Annotated[
        GatesSpec | None,
        Field(
            description="What an image must be to be taken; others are drawn again with other "
            "seeds: {require: [sharpness > 40], max_draws: 16}."
        ),
    ] = None
    provenance: ProvenanceSpec = ProvenanceSpec()
    review: ReviewSpec = ReviewSpec()
    batch: BatchSpec = BatchSpec()
    cluster: ClusterSpec = ClusterSpec()
    storage: StorageOptions = NO_OPTIONS
    cost: Annotated[
        CostSpec | None,
        Field(description="Price of the GPUs: {currency: EUR, per_gpu_hour: 2.50}."),
    ] = None
    notify: Annotated[
        tuple[NotifySpec, ...],
        Field(
            strict=False,
            max_length=16,
            description="Webhooks that are told how a start ended: a list of {url_env, on, "
            "format}.",
        ),
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _one_model_or_several(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            require_one_key(values)
        return values

    @field_validator("models")
    @classmethod
    def _models_have_distinct_names(cls, models: tuple[NamedModel, ...]) -> tuple[NamedModel, ...]:
        require_distinct(models)
        return models

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _rows_can_name_models(self) -> Self:
        if MODEL in self.columns and not self.models:
            raise ValueError(f"columns: {MODEL!r} is a setting only of a job with `models`")
        return self

    @model_validator(mode="after")
    def _sources_fit_a_disk(self) -> Self:
        for source in self.model_sources:
            check_path_length(source)
        return self

    @field_validator("columns")
    @classmethod
    def _known_settings(
        cls, columns: Mapping[str, str | ColumnMap | None]
    ) -> Mapping[str, str | ColumnMap | None]:
        unknown = sorted(name for name in columns if not (is_setting(name) or name == MODEL))
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is not a setting; the mapping is setting -> manifest column, "
                f"and the settings are: {', '.join(SETTING_COLUMNS)}"
            )
        return columns

    @model_validator(mode="after")
    def _no_credentials_in_urls(self) -> Self:
        for key, url in (
            ("output", self.output),
            *(pair for model in self.every_model for pair in model.labelled_sources),
            *(("manifest", url) for url in self._manifests),
            ("inputs.root", self.inputs.root or ""),
            ("provenance.sign.certificate", self.provenance.certificate_url or ""),
        ):
            if has_credentials(url):
                raise ValueError(f"the {key} URL contains credentials; {ADVICE}")
        return self

    @model_validator(mode="after")
    def _first_block_cache_needs_single_images(self) -> Self:
        speeds = (model.ways for model in self.every_model)
        if any(speed.first_block_cache for speed in speeds) and self.batch.size != 1:
            raise ValueError(
                "model.speed.first_block_cache decides for a whole batch, but an image must not "
                f"depend on the others in it: batch.size must be 1, not {self.batch.size}"
            )
        return self

    @model_validator(mode="after")
    def _gates_judge_by_scores_that_there_are(self) -> Self:
        names = (*MEASURED, *self.scores)
        for name in () if self.gates is None else self.gates.scores:
            if name.partition(".")[0] not in names:
                raise ValueError(
                    f"gates: there is no score {name!r}; it is the name of a scorer under scores, "
                    f"with .label where it gives several, or one of {', '.join(MEASURED)}"
                )
        return self

    @property
    def url(self) -> str:
        """The run directory: `<output>/<name>`."""
        return f"{self.output.rstrip('/')}/{self.name}"

    @property
    def manifests(self) -> list[str]:
        """The manifest's URLs as a list.

        Raises:
            SpecError: the job names none.
        """
        if not self._manifests:
            raise SpecError(
                "job: manifest: missing; name its files, or pass a table as the argument `manifest`"
            )
        return self._manifests

    @property
    def _manifests(self) -> list[str]:
        return [self.manifest] if isinstance(self.manifest, str) else list(self.manifest)

    @property
    def sources(self) -> list[str]:
        """The URLs and paths of everything that the job reads, but for the pictures of its rows."""
        scorers = (source for each in self.scores.values() for source in each.sources)
        return [*self._manifests, *self.model_sources, *scorers]

    @property
    def every_model(self) -> tuple[ModelSpec, ...]:
        """The model, or the several."""
        return self.models or (self.model,)

    @property
    def model_sources(self) -> list[str]:
        """Where the models and all that is added to them come from."""
        pairs = ((model.source, *model.added_sources) for model in self.every_model)
        return [source for sources in pairs for source in sources]

    def for_model(self, name: str | None) -> Self:
        """The job as if one of its models were its only one; the job itself if it has only one.

        Args:
            name: of `models`; None for a job with `model`.

        Raises:
            LookupError: the job has no model of this name.
        """
        if not self.models and name is None:
            return self
        chosen = next((each for each in self.models if each.name == name), None)
        if chosen is None:
            known = ", ".join(each.name for each in self.models) or "one without a name"
            raise LookupError(f"the job has no model {name!r}; it has {known}")
        sampling = chosen.sampling.over(self.sampling)
        update = {"model": chosen.alone, "models": (), "sampling": sampling}
        return self.model_copy(update=update)

    @property
    def model_names(self) -> tuple[str | None, ...]:
        """The names of its models; a job with `model` has one without a name."""
        return tuple(each.name for each in self.models) or (None,)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        overrides: Sequence[str] = (),
        *,
        night: date | None = None,
        zone: tzinfo | None = None,
    ) -> Self:
        """Read a YAML job file.

        Args:
            path: the file.
            overrides: `a.b=value` strings that replace its keys.
            night: the date that `{night}` stands for in `name`, `manifest` and `output`; by default
                the date that the clock showed twelve hours ago.
            zone: the time zone of that clock; by default that of TZ, or else the machine's.

        Raises:
            SpecError: the file cannot be read, is not YAML, or is not a valid job; it may be a
                training job.
        """
        path = Path(path)
        values = read_yaml(path)
        if "recipe" in values and "manifest" not in values:
            raise SpecError(
                f"{path}: this is a training job, as its key recipe says; use nightpress train"
            )
        values.setdefault("name", path.name.removesuffix(path.suffix))
        spec = cls.from_dict(values, overrides, str(path), night=night, zone=zone)
        spec = spec.model_copy(update={"scores": beside(spec.scores, path.parent)})
        if not spec.manifest:
            raise SpecError(f"{path}: manifest: missing")
        return spec

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, Any],
        overrides: Sequence[str] = (),
        where: str = "job",
        *,
        night: date | None = None,
        zone: tzinfo | None = None,
    ) -> Self:
        """Validate a job given as a mapping; see `from_file`."""
        values = nested_copy(values)
        apply_overrides(values, overrides)
        refuse_what_is_not_text(values, where)
        return cls.from_record(with_night(values, night, zone, where), where)

    @classmethod
    def from_record(cls, values: Mapping[str, Any], where: str) -> Self:
        """Validate a job as a run has recorded it, in which every name is final."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"{where}: {line}" for line in explain(error, cls, values)]
            raise SpecError("\n".join(lines)) from error

    def as_dict(self) -> dict[str, Any]:
        """The whole job as JSON values, with defaults filled in."""
        values = self.model_dump(mode="json")
        del values["model" if self.models else "models"]
        return values

    def changes(self, other: "RunSpec") -> list[Change]:
        """How `other` differs in what decides names and pixels.

        Where the job runs, how the store is reached and how the manifest's URL is spelled may
        change between starts of a run; the manifest's content is compared by `planning`.
        """
        return differences(dict(flatten(self.identity())), dict(flatten(other.identity())))

    def identity(self) -> dict[str, Any]:
        """The part of the job that decides names and pixels, as JSON values."""
        models = self.model, self.models
        return job_identity(
            self.as_dict(), *models, self.scores, self.gates, self.provenance.identity
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The fields in which two flat mappings differ, in alphabetical order."""
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
    """A copy whose mappings can be modified at every depth."""
    return {k: nested_copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def canonical_json(values: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
