"""The section `models` of a job: several models in one run, of which each row names one."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.job.sections import SamplingDefaults, SamplingSpec

MODEL = "model"
"""The setting that names the model of a row, in a job with several."""

MODEL_NAME = "model_name"
"""The column of the plan and the metadata that holds this name."""

OPTIONAL_KEYS = (
    *("config", "speed", "prompts"),
    *("row_loras", "controlnets", "references", "embeddings"),
)
"""Keys of a model that join a job's identity only if they are used."""


class ModelSampling(SamplingDefaults):
    """Defaults of one model; a setting that is null is left to the job's `sampling`."""

    negative_prompt: Annotated[
        str | None,
        Field(description="Negative prompt for rows of this model that have none of their own."),
    ] = None

    def over(self, job: SamplingSpec) -> SamplingSpec:
        """The job's defaults, with those that this model sets."""
        return job.model_copy(update=self.model_dump(exclude_none=True))


class NamedModel(ModelSpec):
    """One of several models of a job."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            json_schema_extra={
                "patternErrorMessage": "must begin with a letter from a to z or A to Z or a digit, "
                "and go on with up to 63 such letters, digits, dots, underscores and hyphens"
            },
            description="What rows call the model in their column `model`.",
        ),
    ]
    default: Annotated[
        bool, Field(description="Whether rows that name no model take this one; at most one does.")
    ] = False
    sampling: Annotated[
        ModelSampling,
        Field(description="Defaults for the rows of this model, before those of the job."),
    ] = ModelSampling()

    @property
    def alone(self) -> ModelSpec:
        """The model as the only one of a job."""
        return ModelSpec(**{name: getattr(self, name) for name in ModelSpec.model_fields})


def require_distinct(models: Sequence[NamedModel]) -> None:
    """Check that rows can tell the models apart.

    Raises:
        ValueError: two have names that are equal but for letter case, or several are the default.
    """
    names: dict[str, str] = {}
    for each in models:
        other = names.get(each.name.lower())
        names[each.name.lower()] = each.name
        if other is not None:
            how = "" if other == each.name else f", as {other!r} but for letter case"
            raise ValueError(f"two are called {each.name!r}{how}; give each a name of its own")
    defaults = [each.name for each in models if each.default]
    if len(defaults) > 1:
        raise ValueError(
            f"default: only one model can be the default, not {' and '.join(defaults)}"
        )


def require_one_key(values: Mapping[str, Any]) -> None:
    """Refuse a job with both `model` and `models`.

    Raises:
        ValueError: it has both.
    """
    if values.get("model") is not None and values.get("models"):
        raise ValueError(
            "model and models are both given; use one of the two: each entry of models takes every "
            "key of model"
        )


def default_model(models: Sequence[NamedModel]) -> int | None:
    """The index of the model of rows that name none; None if such rows are refused."""
    if len(models) == 1:
        return 0
    return next((index for index, each in enumerate(models) if each.default), None)


def model_identity(model: ModelSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a model decides pixels, as JSON values.

    Args:
        model: the model.
        values: its keys as JSON values.
    """
    found = dict(values) | {"speed": model.ways.chosen(), "prompts": model.prompts.chosen()}
    omitted = [key for key in OPTIONAL_KEYS if not found[key]]
    omitted.append("memory")  # decides where weights lie, and no pixel
    return {key: value for key, value in found.items() if key not in omitted}


def models_identity(models: Sequence[NamedModel]) -> dict[str, Any]:
    """What of several models decides pixels, by name; their order decides none."""
    found = {}
    for each in models:
        values = each.model_dump(mode="json", exclude={"name", "default", "sampling"})
        found[each.name] = model_identity(each, values)
        if own := each.sampling.model_dump(mode="json", exclude_none=True):
            found[each.name]["sampling"] = own
        if each.default:
            found[each.name]["default"] = True
    return found
