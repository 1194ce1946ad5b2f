"""Actors as the driver sees them: what each one holds, since when, and which have news."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayError

from nightpress.jobs.dispatch.actor import CONTROL, ActorLocation, RemoteActor
from nightpress.jobs.dispatch.timing import ShardTiming
from nightpress.pipelines.shards.events import BatchDone, BatchSampled, ShardBegun
from nightpress.pipelines.shards.timeline import TimeSpent
from nightpress.pipelines.shards.work import ShardWork

ANSWER_S = 5.0
"""How long an actor may take to answer a control call."""

MAX_POLL_SHARE = 0.02
"""The most of the driver's time that goes into polling."""

MAX_PAUSE_S = 0.25
"""The longest pause between two polls while there is news."""


@dataclass
class InFlightShard:
    """Work that was handed to an actor."""

    work: ShardWork
    stream: Any
    """The actor's events, as a Ray generator."""
    is_copy: bool = False
    """Whether another actor has the same work."""
    begun_at: float | None = None
    """When the actor started on it, by the monotonic clock; None while it waits behind others."""
    heard_at: float = 0.0
    """When the actor last reported on it, by the monotonic clock."""
    has_begun: bool = False
    """Whether the actor has found what is stored of it, and makes the rest."""
    num_made: int = 0
    """Images that were sampled, whether they were stored or rejected by gates."""
    unreported_s: float = 0.0
    """Seconds of sampling since its last `BatchDone`."""
    unreported_scoring_s: float = 0.0
    """Seconds of scoring since then."""
    is_done: bool = False
    """Whether its shard is committed, so that only the end of its stream is missing."""
    was_left: bool = False
    """Whether the actor stopped before the end of it, on request."""
    ticket: int = 0
    """Its number among everything its actor was handed."""
    in_hand: tuple[int, ...] = ()
    """The rows of the batch that is being sampled, if its actor names its batches."""

    def note_sampled(self, event: BatchSampled) -> None:
        """Count the work on a batch of which no image is stored yet."""
        self.unreported_s += event.batch_s
        self.unreported_scoring_s += event.scoring_s

    def note_done(self, event: BatchDone) -> BatchDone:
        """Count images; returns the event with the work since the one before."""
        self.num_made += event.num_sampled + (event.num_rejected if self.has_begun else 0)
        told = event.after(self.unreported_s, self.unreported_scoring_s)
        self.unreported_s = self.unreported_scoring_s = 0.0
        return told

    @property
    def made_all(self) -> bool:
        """Whether each of its images was made, so that its time is that of a whole shard.

        An image that gates rejected was: it took more draws than the others.
        """
        return self.num_made == self.work.num_rows

    @property
    def has_news(self) -> bool:
        """Whether its stream has an event, an error or its end to deliver."""
        return bool(ray.wait([self.stream], timeout=0.0, fetch_local=False)[0])

    def reached_the_accelerator(self) -> bool:
        """Whether a lost actor had started to sample it.

        Reads the rest of the stream, in which the images found in the store come before that event.
        """
        while self.has_news:
            try:
                event = ray.get(next(self.stream))
            except (RayError, StopIteration):
                return False
            if isinstance(event, ShardBegun):
                return True
        return False


class Question:
    """Something that an actor was asked; nothing ever waits for the answer.

    Args:
        answer: the reference of the answer.
        about: what it was asked about; another question replaces it if that changes.
    """

    def __init__(self, answer: Any, about: object = None) -> None:
        self.about = about
        self._answer = answer
        self._late_at = time.monotonic() + ANSWER_S

    @property
    def has_answer(self) -> bool:
        """Whether the answer, or an error in its place, has arrived."""
        return bool(ray.wait([self._answer], timeout=0.0, fetch_local=False)[0])

    @property
    def is_late(self) -> bool:
        """Whether the answer has taken longer than `ANSWER_S`."""
        return time.monotonic() >= self._late_at

    def answer(self) -> Any:
        """The answer, which must have arrived; None if the actor is gone."""
        try:
            return ray.get(self._answer)
        except RayError:
            return None


class Startup:
    """How long an actor has been starting, not counting the time it waited to be placed.

    Args:
        handle: of the actor.
        is_placed: whether its process runs already, and the time counts from now on.
    """

    def __init__(self, handle: RemoteActor, is_placed: bool = False) -> None:
        self._placed = handle.__ray_ready__.options(concurrency_group=CONTROL).remote()
        self._since = time.monotonic() if is_placed else None

    @property
    def is_placed(self) -> bool:
        """Whether the actor's process is running."""
        if self._since is None and ray.wait([self._placed], timeout=0.0, fetch_local=False)[0]:
            self._since = time.monotonic()
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Seconds since the process was first seen running."""
        return time.monotonic() - self._since if self.is_placed and self._since else 0.0


@dataclass
class Worker:
    """An actor as the driver sees it."""

    handle: RemoteActor
    pending_begin: Any
    """The reference of the actor's `begin`; None once it has answered. An actor begins again when
    it changes its model."""
    startup: Startup
    model: str | None = None
    """The name of the model that it has, or loads; None if the run has a single one."""
    location: ActorLocation | None = None
    began: float = 0.0
    """When the actor began, by the monotonic clock, once it has a location."""
    held: list[InFlightShard] = field(default_factory=list)
    """The work it was handed, current work first."""
    is_leaving: bool = False
    """Whether it is not given any more work."""
    tickets: Iterator[int] = field(default_factory=count)
    """The numbers of the work it will be handed."""
    _hang_question: Question | None = field(default=None, init=False)
    _time_question: Question | None = field(default=None, init=False)

    @property
    def accepts_work(self) -> bool:
        """Whether it may be given work now."""
        is_shared = not any(in_flight.work.isolated for in_flight in self.held)
        is_ready = self.location is not None and self.pending_begin is None
        return is_shared and is_ready and not self.is_leaving

    @property
    def is_placed(self) -> bool:
        """Whether its process is running."""
        return self.location is not None or self.startup.is_placed

    @property
    def awaited(self) -> Any:
        """The reference or stream that its next news comes from; None if none is expected."""
        if self.pending_begin is not None:
            return self.pending_begin
        return self.current.stream if self.current is not None else None

    @property
    def current(self) -> InFlightShard | None:
        """The work that it is doing, if any."""
        return self.held[0] if self.held else None

    @property
    def uncommitted(self) -> list[InFlightShard]:
        """The work that it holds and has not committed."""
        return [in_flight for in_flight in self.held if not in_flight.is_done]

    def start_next(self) -> None:
        """Note that it now starts on the first work that it holds."""
        if self.current is not None and self.current.begun_at is None:
            self.current.begun_at = self.current.heard_at = time.monotonic()

    def find_culprit(self) -> InFlightShard | None:
        """The work that a lost worker was sampling: the last that had reached the accelerator.

        Work before it was being stored, work after it was waiting. The answer may be one too early
        if the process had no time to send its last event, and one too late if the device was still
        at work on the last batch of the one before.
        """
        if not self.uncommitted:
            return None
        begun = [each for each in self.uncommitted[1:] if each.reached_the_accelerator()]
        return begun[-1] if begun else self.uncommitted[0]

    def drain(self) -> None:
        """Have it finish the current batch; it is not given any more work."""
        self.is_leaving = True
        if self.location is not None:
            self.handle.drain.remote()

    def is_hung(self, scoring_limit_s: float | None = None) -> bool | None:
        """Whether it is stuck in a batch of its current work, rather than waiting for a store.

        Args:
            scoring_limit_s: how long a scorer may take for one image; see `ShardRunner.is_stuck`.

        It is asked, and its answer may come later: until then this is None.
        """
        current = self.held[0]
        about = current.ticket, current.heard_at
        if self._hang_question is None or self._hang_question.about != about:
            answer = self.handle.is_stuck.remote(current.ticket, scoring_limit_s)
            self._hang_question = Question(answer, about)
        question = self._hang_question
        if not question.has_answer:
            return True if question.is_late else None  # so stuck that it cannot even answer
        self._hang_question = None
        return bool(question.answer())  # if it is gone, its stream will say so

    def last_words(self) -> list[TimeSpent] | None:
        """How it spent its time, or nothing if it does not say; None while it may yet answer."""
        if self._time_question is None:
            self._time_question = Question(self.handle.time_spent.remote())
        if self._time_question.has_answer:
            spent = self._time_question.answer()
            return [] if spent is None else [spent]
        return [] if self._time_question.is_late else None


class WorkerPoller:
    """Finds the workers that have news, without spending much of the driver's time on it.

    A poll costs more the more workers there are, so it is followed by a pause in proportion to its
    cost, during which news gathers. News of a single worker arrives at once.
    """

    def __init__(self) -> None:
        self._pause_s = 0.0

    def with_news(self, workers: Sequence[Worker], timeout_s: float) -> list[Worker]:
        """The workers that have news; none if none has any for `timeout_s` after the pause."""
        by_reference = {each.awaited: each for each in workers if each.awaited is not None}
        if not by_reference:
            time.sleep(timeout_s)
            return []
        references = list(by_reference)
        began = time.thread_time()
        ready, _ = ray.wait(
            references, num_returns=len(references), timeout=self._pause_s, fetch_local=False
        )
        self._pause_s = min(MAX_PAUSE_S, (time.thread_time() - began) / MAX_POLL_SHARE)
        if not ready:
            ready, _ = ray.wait(references, num_returns=1, timeout=timeout_s, fetch_local=False)
        return [by_reference[reference] for reference in ready]


def stragglers(workers: Sequence[Worker], timing: ShardTiming) -> Iterator[InFlightShard]:
    """Work that takes too long, and the work that waits behind it."""
    for worker in workers:
        current = worker.current
        if current is None or current.begun_at is None:
            continue
        seconds = time.monotonic() - current.begun_at
        if timing.is_straggling(current.work.num_rows, seconds):
            yield from worker.held


def times_spent(workers: Sequence[Worker]) -> Iterator[TimeSpent]:
    """Ask all workers at once how they spent their time; yields the answers within `ANSWER_S`."""
    answers = [worker.handle.time_spent.remote() for worker in workers]
    ready, _ = ray.wait(answers, num_returns=len(answers), timeout=ANSWER_S)
    for answer in ready:
        with suppress(RayError):  # the actor is gone
            yield ray.get(answer)
