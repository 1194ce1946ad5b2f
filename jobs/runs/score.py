"""`score`: scores of a run's images made later, in parts of their own."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nightpress.jobs.cluster.capacity import most_memory_bytes, require_room
from nightpress.jobs.cluster.connection import cluster, resolved_gpus, room
from nightpress.jobs.cluster.preflight import require_readable_on_every_node
from nightpress.jobs.dispatch.footprint import OVERHEAD_BYTES
from nightpress.jobs.dispatch.scoring_pool import ScoringFactory, ScoringPool
from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.repair_spec import repair_spec
from nightpress.jobs.runs.scorers import ScorerNotes
from nightpress.jobs.runs.shared import OnEvent, create_only_store, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.scores_section import ScorerSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.run_directory.late_scores import require_free_name, require_same_scorer
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.scoring.job_scorers import JobScorers
from nightpress.pipelines.scoring.loading import check_templates
from nightpress.pipelines.scoring.scorer import ScorerInfo
from nightpress.pipelines.shards.late_scoring import ShardScored
from nightpress.pipelines.shards.shard_scores import PROMPTS
from nightpress.pipelines.storage import Options

TOLD_EVERY_S = 10.0


@dataclass(frozen=True)
class ScoreResult:
    """What scoring a run found and did."""

    url: str
    scorers: tuple[str, ...]
    """The names of the scorers."""
    num_shards: int
    """Shards that are committed; the others have no scores yet."""
    num_uncommitted: int
    num_images: int
    """Images that are ok."""
    num_scored: int
    """Images that were read and scored now; the others had their scores."""
    num_missing: int
    """Images without one of the scores, because a scorer failed on them."""
    unreadable: tuple[str, ...]
    """Images that are missing or damaged; their shards were left alone."""

    @property
    def is_complete(self) -> bool:
        """Whether every image of the run's commits has every score."""
        return not self.num_missing and not self.unreadable


def score(
    target: ImageTarget,
    on_event: OnEvent = ignore,
    *,
    scores: Mapping[str, Any] | None = None,
    address: str | None = None,
    allow_pickle: bool = False,
    storage: Options | None = None,
) -> ScoreResult:
    """Score the images of a run that lack a score, in parts beside its commits.

    Images are read and never changed, and so are commits. What is scored is kept when this stops,
    and the same call goes on. The run may be in progress; shards that it has not committed yet are
    left out.

    Args:
        target, on_event, address, storage: as for `verify`.
        scores: the scorers, as in the key `scores` of a job; by default those of the job or run.
            Without any, images are only measured that an older version made.
        allow_pickle: run the Python files that only the run itself names.

    Raises:
        SpecError: a name stands for the scores of another scorer in this run.
        ScorerError: a scorer cannot be used.
        RunNotFound, UntrustedRun, ClusterError, StoreError: as for `verify`.
    """
    run = open_images(target, storage)
    asked = None if scores is None else _specs(scores)
    spec = repair_spec(run, target, address, allow_pickle=allow_pickle or asked is not None)
    specs = spec.scores if asked is None else asked
    scorers = JobScorers.of(specs, {**run.spec.storage, **run.store.options})
    _check_columns(run, specs)
    infos = scorers.describe()
    _require_names(run, infos)
    run = Run(create_only_store(run.store, on_event), run.record)
    with cluster(spec.cluster):
        require_readable_on_every_node(run.store, RUN_FILE)
        shards = run.committed
        scored = _scored(run, spec, scorers, infos, shards)
        return _result(run, specs, list(_told(scored, len(shards), on_event)))


def _result(run: Run, specs: Collection[str], found: Sequence[ShardScored]) -> ScoreResult:
    return ScoreResult(
        url=run.url,
        scorers=tuple(specs),
        num_shards=len(found),
        num_uncommitted=run.record.layout.num_shards - len(found),
        num_images=sum(each.num_images for each in found),
        num_scored=sum(each.num_scored for each in found),
        num_missing=sum(each.num_missing for each in found),
        unreadable=tuple(name for each in found for name in each.unreadable),
    )


def _specs(scores: Mapping[str, Any]) -> Mapping[str, ScorerSpec]:
    """Scorers as a job would have them."""
    job = {"name": "run", "output": "none"}  # the rest of a job, which is not read
    return RunSpec.from_dict({**job, "scores": dict(scores)}, where="scores").scores


def _check_columns(run: Run, specs: Mapping[str, ScorerSpec]) -> None:
    """Check that the texts of scorers use only columns that the images of the run have."""
    if specs:
        carried = set(run.metadata.schema.names).difference(METADATA_SCHEMA.names)
        check_templates(specs, [*PROMPTS, *sorted(carried)])


def _require_names(run: Run, infos: Mapping[str, ScorerInfo]) -> None:
    """Check that no name stands for the scores of another scorer."""
    for name, info in infos.items():
        taken = run.record.scorers.get(name)
        if taken is not None:
            require_same_scorer(run.store, name, taken, info.fingerprint)
        require_free_name(run.store, name, info.fingerprint)


def _scored(
    run: Run,
    spec: RunSpec,
    scorers: JobScorers,
    infos: Mapping[str, ScorerInfo],
    shards: Sequence[int],
) -> Iterator[ShardScored]:
    cpus, gpus = spec.cluster.cpus_per_actor, resolved_gpus(spec.cluster.gpus_per_actor)
    keys = "cluster.gpus_per_actor" if gpus else "cluster.cpus_per_actor"
    require_room(keys, cpus, gpus, "an actor")
    needed = OVERHEAD_BYTES + sum(info.weight_bytes for info in infos.values())
    memory = min(needed, most_memory_bytes())
    factory = ScoringFactory(run.store, run.record, scorers, cpus, gpus, memory)
    most = max(1, room(cpus, gpus, memory))
    if spec.cluster.max_actors is not None:
        most = min(most, spec.cluster.max_actors)
    yield from ScoringPool(factory.start, most).score(shards)


def _told(
    found: Iterator[ShardScored], num_shards: int, on_event: OnEvent
) -> Iterator[ShardScored]:
    """Pass results on, and say now and then how far it is, and what scorers had to say."""
    counts, next_at, num_images = ScorerNotes(), time.monotonic() + TOLD_EVERY_S, 0
    for number, each in enumerate(found, start=1):
        num_images += each.num_scored
        for message in counts.add(each.notes):
            on_event(message)
        if time.monotonic() >= next_at and number < num_shards:
            next_at = time.monotonic() + TOLD_EVERY_S
            shards = f"{number:,} of {plural(num_shards, 'shard')}"
            on_event(Message(f"{shards}: {plural(num_images, 'image')} scored"))
        yield each
    for message in counts.lines():
        on_event(message)
