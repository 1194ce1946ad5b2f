"""Actors that score the images of committed shards, and handing the shards to them."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from nightpress.diffusion_core.acceleration.numerics import fix_numerics
from nightpress.diffusion_core.silence_libraries import log_to_stderr, silence_process
from nightpress.jobs.cluster.ray_errors import reason_of
from nightpress.jobs.errors import ClusterError
from nightpress.pipelines.run_directory.late_scores import register_scorer
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.scoring.job_scorers import JobScorers
from nightpress.pipelines.scoring.scorer import LoadedScorer
from nightpress.pipelines.shards.late_scoring import LateScorer, ShardScored
from nightpress.pipelines.storage import Store

MAX_LOSSES = 3
"""How many actors in a row may be lost, or over one shard, before the scoring stops."""

POLL_S = 1.0


class ScoringActor:
    """Holds the scorers of a job, and scores shards with them.

    Args:
        store, record: of the run.
        scorers: of the job.
        device: `cpu` or `cuda`.
        threads: torch threads on a CPU.
    """

    def __init__(
        self, store: Store, record: RunRecord, scorers: JobScorers, device: str, threads: int
    ) -> None:
        silence_process()
        log_to_stderr()
        fix_numerics(threads)
        self._loaded: dict[str, LoadedScorer] = dict(scorers.load(device))
        self._scorer = LateScorer(Run(store, record), self._loaded)
        self._store, self._specs = store, scorers.specs
        self._has_names = False

    def score(self, shard: int) -> ShardScored:
        """Score the images of a shard; see `LateScorer.score`.

        Raises:
            SpecError: a name stands for the scores of another scorer.
        """
        if not self._has_names:
            self._take_names()
        return self._scorer.score(shard)

    def _take_names(self) -> None:
        """Take the names of the scorers, now that they are loaded: a name is taken for good."""
        for name, each in self._loaded.items():
            settings = self._specs[name].model_dump(mode="json")
            register_scorer(self._store, name, each.scorer.fingerprint, settings)
        self._has_names = True


@dataclass(frozen=True)
class ScoringFactory:
    """Starts actors of one size."""

    store: Store
    record: RunRecord
    scorers: JobScorers
    cpus: int
    gpus: float
    memory_bytes: int = 0
    """Memory that each actor reserves on its node; 0 for none."""

    def start(self) -> Any:
        """Start an actor; it is placed when the cluster has room for it."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0}
        if self.memory_bytes:
            options["memory"] = self.memory_bytes
        device = "cuda" if self.gpus else "cpu"
        actor = ray.remote(**options)(ScoringActor)
        return actor.remote(self.store, self.record, self.scorers, device, self.cpus)


class ScoringPool:
    """Hands shards to actors; a shard whose actor is lost is given to another one.

    Args:
        start: starts an actor.
        num_actors: how many work at the same time.
    """

    def __init__(self, start: Callable[[], Any], num_actors: int) -> None:
        self._start, self._num_actors = start, num_actors
        self._busy: dict[Any, tuple[Any, int]] = {}
        """The answer that is awaited -> its actor and its shard."""
        self._idle: list[Any] = []
        self._waiting: deque[int] = deque()
        self._losses: Counter[int] = Counter()
        self._in_a_row = 0

    def score(self, shards: Sequence[int]) -> Iterator[ShardScored]:
        """Score committed shards; yields what became of each, in any order.

        Raises:
            ClusterError: several actors in a row, or over one shard, were lost.
            ScorerError, SpecError, StoreError, Damaged: as an actor raised them.
        """
        self._waiting.extend(shards)
        self._idle = [self._start() for _ in range(min(self._num_actors, len(shards)))]
        try:
            while self._waiting or self._busy:
                while self._idle and self._waiting:
                    actor, shard = self._idle.pop(), self._waiting.popleft()
                    self._busy[actor.score.remote(shard)] = actor, shard
                ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=POLL_S)
                for answer in ready:
                    yield from self._take(answer)
        finally:
            for actor in [*self._idle, *(each for each, _ in self._busy.values())]:
                ray.kill(actor)

    def _take(self, answer: Any) -> Iterator[ShardScored]:
        """Take an answer, or start another actor for one that was lost."""
        actor, shard = self._busy.pop(answer)
        try:
            scored: ShardScored = ray.get(answer)
        except RayTaskError as error:
            self._idle.append(actor)
            raise error.cause from None
        except RayError as error:
            self._in_a_row, self._losses[shard] = self._in_a_row + 1, self._losses[shard] + 1
            if MAX_LOSSES in (self._in_a_row, self._losses[shard]):
                raise ClusterError(
                    f"{MAX_LOSSES} actors were lost over the scores of shard {shard}: "
                    f"{reason_of(error)}"
                ) from error
            self._waiting.appendleft(shard)
            self._idle.append(self._start())
        else:
            self._in_a_row = 0
            self._idle.append(actor)
            yield scored
