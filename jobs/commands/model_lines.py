"""What a plan says about the models of a job."""

from dataclasses import asdict

from nightpress.jobs.runs.forecast import planned_actors
from nightpress.jobs.runs.plan import Plan, PlannedModel
from nightpress.pipelines.formatting import duration, plural
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import SettingsCount


def model_lines(spec: RunSpec, planned: Plan) -> list[str]:
    """The model and its modes; of several, one line each with its images and its time."""
    if not spec.models:
        model = planned.model
        return [
            f"model    {model.source} {model.fingerprint[:12]} ({model.pipeline})",
            f"modes    {', '.join(model.modes)}",
        ]
    lines = [_line(spec, each) for each in planned.models]
    return [f"{'models' if not number else '':<8} {line}" for number, line in enumerate(lines)]


def _line(spec: RunSpec, model: PlannedModel) -> str:
    info = model.info
    what = f"{model.name}: {info.source} {info.fingerprint[:12]} ({info.pipeline})"
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
            "num_images": each.num_images,
            "num_shards": each.num_shards,
            "actor_s": None if each.estimate is None else each.estimate.actor_s,
            "num_bytes": None if each.estimate is None else each.estimate.num_bytes,
        }
        for each in planned.models
        if each.name is not None
    ]


def batch_values(each: SettingsCount) -> dict[str, object]:
    """Settings and their images as JSON-ready values, with the model only if there are several."""
    values = {**asdict(each.settings), "num_images": each.num_images}
    return values if each.model is None else values | {"model": each.model}
