"""`plan`: what a job would make, how large it would be, and how long it would take."""

from dataclasses import dataclass

from nightpress.diffusion_core.models.loading import ModelInfo, check_weights, describe
from nightpress.jobs.dispatch.batch_size import resolve_batch_size
from nightpress.jobs.runs.table_manifest import readable_manifest
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.frames import Frame
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.models.loras import locate_loras
from nightpress.pipelines.planning import SettingsCount, check
from nightpress.pipelines.run_directory.estimate import Estimate, estimate, measured_rates


@dataclass(frozen=True)
class Plan:
    """What a job would make."""

    url: str
    """URL of the run directory."""
    num_rows: int
    """Rows of the manifest."""
    num_images: int
    num_shards: int
    shard_size: int
    """Images in a shard, at most."""
    batch_size: int
    model: ModelInfo
    batches: tuple[SettingsCount, ...]
    """The most frequent settings, most images first."""
    estimate: Estimate | None
    """Time and bytes; None if no run under the job's output has measured these settings."""


def plan(spec: RunSpec, *, manifest: Frame | None = None) -> Plan:
    """Check a job and its whole manifest, and say what it would make, without writing anything.

    Ray is not used: `batch.size: auto` is resolved as for a CPU unless `cluster.gpus_per_actor` is
    set, and only `run` checks whether the cluster supports `model.speed`.

    Args:
        spec: the job.
        manifest: a pyarrow Table, or a pandas or polars frame, to plan instead of the job's
            `manifest`; see `run`.

    Returns:
        The counts, the settings, and an estimate from earlier runs.

    Raises:
        SpecError, ManifestError, ModelError: the job, the manifest or the model cannot be used.
        StoreError: the manifest or the model cannot be read.
    """
    with readable_manifest(spec, manifest) as readable:
        model = _describe(spec)
        batch_size = _batch_size(spec)
        layout = check(readable, model, batch_size)
    return Plan(
        url=spec.url,
        num_rows=layout.num_rows,
        num_images=layout.num_images,
        num_shards=layout.num_shards,
        shard_size=layout.shard_size,
        batch_size=batch_size,
        model=model,
        batches=layout.batches,
        estimate=estimate(layout.batches, measured_rates(spec, model.fingerprint)),
    )


def _describe(spec: RunSpec) -> ModelInfo:
    """The job's model, without loading it and without checking what this machine supports."""
    folder = locate(spec.model, spec.storage)
    lora_files = locate_loras(spec.model, spec.storage)
    model = describe(folder, spec.model, lora_files, elsewhere=True)
    check_weights(folder, spec.model)
    return model


def _batch_size(spec: RunSpec) -> int:
    """`batch.size`, with `auto` resolved as far as possible without a cluster."""
    return resolve_batch_size(spec, "cpu" if spec.cluster.gpus_per_actor in ("auto", 0) else "cuda")
