"""The identity of a job: what of it decides names and pixels.

A key that is not used is left out, so that a job has the identity that older versions gave it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.job.models_section import NamedModel, model_identity, models_identity
from nightpress.pipelines.job.scores_section import ScorerSpec

NOT_IN_IDENTITY = ("manifest", "output", "storage", "cluster", "cost", "notify", "review")
"""Keys of a job that say where it runs and where its manifest is stored, what that costs, who is
told and how its images are looked at, not what it makes."""


def job_identity(
    job: Mapping[str, Any],
    model: ModelSpec,
    models: Sequence[NamedModel],
    scores: Mapping[str, ScorerSpec],
    gates: GatesSpec | None,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The part of a job that decides names and pixels, as JSON values.

    Args:
        job: the whole job as JSON values, with defaults filled in.
        model: its only model, unless it has several.
        models: its models if there are several.
        scores, gates: its sections.
        provenance: what its section adds to the identity.
    """
    values = {key: value for key, value in job.items() if key not in NOT_IN_IDENTITY}
    if models:
        values["models"] = models_identity(models)
    else:
        values["model"] = model_identity(model, values["model"])
    defaults: dict[str, Any] = {"packing": "none", "fps": None, "keep": []}
    values["images"] = {k: v for k, v in values["images"].items() if defaults.get(k, k) != v}
    if values["sampling"]["num_frames"] is None:
        values["sampling"] = {k: v for k, v in values["sampling"].items() if k != "num_frames"}
    fit = values["inputs"]["fit"]
    values["inputs"] = {"fit": fit} if fit != InputsSpec().fit else None
    values["scores"] = {name: _scorer_identity(each) for name, each in scores.items()}
    values["gates"] = None if gates is None else gates.identity()
    values["provenance"] = provenance
    if not values["batch"]["order"]:
        values["batch"] = {k: v for k, v in values["batch"].items() if k != "order"}
    left_out = ("inputs", "passes", "scores", "gates", "provenance")
    unused = [key for key in left_out if not values[key]]
    return {key: value for key, value in values.items() if key not in unused}


def _scorer_identity(spec: ScorerSpec) -> dict[str, Any]:
    """The settings of a scorer; the run also records the fingerprint of what it is made of.

    Where its weights or its file lie may change.
    """
    settings = spec.model_dump(mode="json", exclude={"model"})
    return settings | {"scorer": spec.scorer.rpartition("/")[2]}
