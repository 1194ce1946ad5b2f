"""The identity of a job: what of it decides names and pixels.

A key that is not used is left out, so that a job has the identity that older versions gave it.
"""

from collections.abc import Mapping
from typing import Any

from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.job.scores_section import ScorerSpec

NOT_IN_IDENTITY = ("manifest", "output", "storage", "cluster", "cost", "notify", "review")
"""Keys of a job that say where it runs and where its manifest is stored, what that costs, who is
told and how its images are looked at, not what it makes."""


def job_identity(
    job: Mapping[str, Any],
    speed: Mapping[str, Any] | None,
    prompts: Mapping[str, Any],
    scores: Mapping[str, ScorerSpec],
    gates: GatesSpec | None,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The part of a job that decides names and pixels, as JSON values.

    Args:
        job: the whole job as JSON values, with defaults filled in.
        speed: what the job has chosen of `model.speed`.
        prompts: what it has chosen of `model.prompts` that decides pixels.
        scores, gates: its sections.
        provenance: what its section adds to the identity.
    """
    values = {key: value for key, value in job.items() if key not in NOT_IN_IDENTITY}
    model = values["model"] | {"speed": speed, "prompts": prompts}
    adapters = ("row_loras", "controlnets", "references", "embeddings")
    omitted = [key for key in ("config", "speed", "prompts", *adapters) if not model[key]]
    omitted.append("memory")  # decides where weights lie, and no pixel
    values["model"] = {key: model[key] for key in model if key not in omitted}
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
