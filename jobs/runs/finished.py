"""Whether a run has nothing left to make, without Ray and without a model; and its totals."""

from dataclasses import replace

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import fingerprint_of
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.jobs.errors import IncompleteRun
from nightpress.jobs.runs.local_models import are_here
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.run_directory.commit import committed_shards
from nightpress.pipelines.run_directory.reader import Run, RunProgress
from nightpress.pipelines.run_directory.record import RunRecord, refuse_changes
from nightpress.pipelines.storage import Store


def nothing_is_left(spec: RunSpec, store: Store, record: RunRecord) -> bool:
    """Whether every shard is committed, the plan is complete, and the model is the same.

    False if that cannot be decided here, such as for a model that only the nodes of a cluster have.

    Args:
        spec: the job, whose own keys and manifest are already known to be those of the run.
        store, record: of the run.

    Raises:
        ChangedRunError: the model, or the device that the job asks for, is not that of the run.
        StoreError: the store fails.
    """
    layout = record.layout
    if len(committed_shards(store) & set(range(layout.num_shards))) < layout.num_shards:
        return False
    if not {part.path for part in layout.parts} <= set(store.list("plan")):
        return False
    infos = _models_of(spec, record)
    if infos is None:
        return False
    refuse_changes(store, record.changes(spec, infos, device_of(spec, record)))
    return True


def _models_of(spec: RunSpec, record: RunRecord) -> ModelInfos | None:
    """The job's models, as far as their weights go; None if this machine does not have them."""
    known = {each.model_name: each.model for each in record.each_model}
    if not {*spec.model_names} <= known.keys():  # the changes of the job will say so
        return None
    try:
        if not are_here(spec):
            return None
        if not spec.models:
            return _model_of(spec, known[None])
        models = ((each.name, spec.for_model(each.name)) for each in spec.models)
        return {name: _model_of(alone, known[name]) for name, alone in models}
    except ModelError:
        return None


def _model_of(spec: RunSpec, known: ModelInfo) -> ModelInfo:
    """The only model of a job, as far as its weights go."""
    if spec.model.added_sources:
        return ModelFiles.locate(spec.model, spec.storage).describe(spec.model, elsewhere=True)
    folder = locate(spec.model, spec.storage)  # much faster than to describe all of it
    return replace(known, fingerprint=fingerprint_of(PipelineFolder.read(folder), spec.model, ()))


def device_of(spec: RunSpec, record: RunRecord) -> str:
    """The device that the job asks for; the run's own for `auto`, as nothing will be sampled."""
    match spec.cluster.gpus_per_actor:
        case "auto":
            return record.device
        case gpus:
            return "cuda" if gpus else "cpu"


def require_complete(store: Store, record: RunRecord) -> RunProgress:
    """The totals of a run whose shards should all be committed.

    Raises:
        IncompleteRun: one is not, or the images do not add up to those of the plan.
    """
    run = Run(store, record)
    committed = run.committed
    missing = set(range(record.layout.num_shards)) - set(committed)
    if missing:
        raise IncompleteRun(
            f"{store.url}: {plural(len(missing), 'shard')} without a commit; the first is shard "
            f"{min(missing)}"
        )
    progress = run.progress(committed)
    if progress.num_ok + progress.num_failed != record.layout.num_images:
        raise IncompleteRun(
            f"{store.url}: {progress.num_ok:,} ok and {progress.num_failed:,} failed images do not "
            f"add up to the {record.layout.num_images:,} images of the plan"
        )
    return progress
