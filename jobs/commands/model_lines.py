"""What a plan says about the models of a job."""

from collections.abc import Iterable
from dataclasses import asdict

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.jobs.runs.forecast import planned_actors
from nightpress.jobs.runs.local_models import Weights
from nightpress.jobs.runs.plan import Plan, PlannedModel
from nightpress.jobs.runs.weight_lines import weights_line
from nightpress.pipelines.formatting import duration, plural
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import SettingsCount


def model_lines(spec: RunSpec, planned: Plan) -> list[str]:
    """The model, its notes, weights and modes; of several, each with its images and its time."""
    if not spec.models:
        model = planned.model
        return [
            f"model    {model.source} {model.fingerprint[:12]} ({_kind(model)})",
            *(f"note     model: {note}" for note in model.notes),
            f"weights  {weights_line(planned.weights)}",
            f"modes    {', '.join(model.modes)}",
        ]
    lines = [_line(spec, each) for each in planned.models]
    weights = [f"{each.name}: {weights_line(each.weights, each.name)}" for each in planned.models]
    return [
        *_headed("models", lines),
        *(f"note     {each.name}: {note}" for each in planned.models for note in each.info.notes),
        *_headed("weights", weights),
    ]


def _headed(head: str, lines: Iterable[str]) -> list[str]:
    return [f"{'' if number else head:<8} {line}" for number, line in enumerate(lines)]


def _kind(model: ModelInfo) -> str:
    return model.pipeline if model.family is None else f"{model.family}, {model.pipeline}"


def _line(spec: RunSpec, model: PlannedModel) -> str:
    info = model.info
    what = f"{model.name}: {info.source} {info.fingerprint[:12]} ({_kind(info)})"
    if not model.num_images:
        return f"{what}, no images: no row names it"
    time = "time unknown"
    if model.estimate is not None:
        time = f"about {duration(model.estimate.actor_s / planned_actors(spec))}"
    images, shards = plural(model.num_images, "image"), plural(model.num_shards, "shard")
    return f"{what}, {images} in {shards}, {time}"


def model_values(planned: Plan) -> list[dict[str, object]]:
    """Several models as JSON-ready values; none for a job with a single one."""
    return [
        {
            "name": each.name,
            "model": each.info.as_dict(),
            "weights": weight_values(each.weights),
            "num_images": each.num_images,
            "num_shards": each.num_shards,
            "actor_s": None if each.estimate is None else each.estimate.actor_s,
            "num_bytes": None if each.estimate is None else each.estimate.num_bytes,
        }
        for each in planned.models
        if each.name is not None
    ]


def weight_values(weights: Weights) -> dict[str, object]:
    """How large weights are by dtype, as JSON-ready values."""
    return {dtype: asdict(each) for dtype, each in weights.items()}


def batch_values(each: SettingsCount) -> dict[str, object]:
    """Settings and their images as JSON-ready values, with the model only if there are several."""
    values = {**asdict(each.settings), "num_images": each.num_images}
    return values if each.model is None else values | {"model": each.model}
