"""The dispatcher: hands shards to actors until none is left or it is time to stop.

It decides which actor gets which shard and when, and handles what the actors report.
`actor_pool.py` starts and drops actors, `shard_queue.py` decides what a failure means for a shard.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace

import ray
from ray.exceptions import RayError, RayTaskError

from nightpress.diffusion_core.errors import DeviceError
from nightpress.jobs.cluster.connection import alive_nodes, room
from nightpress.jobs.cluster.ray_errors import may_be_node_loss, reason_of
from nightpress.jobs.dispatch.actor import ActorFactory
from nightpress.jobs.dispatch.actor_pool import ActorPool
from nightpress.jobs.dispatch.assignment import copies, is_near_the_end, next_model, queue_of
from nightpress.jobs.dispatch.config import GO_ON, DispatchConfig
from nightpress.jobs.dispatch.giving_up import give_up
from nightpress.jobs.dispatch.limits import Limits, StopReason
from nightpress.jobs.dispatch.timing import ModelTimings
from nightpress.jobs.dispatch.workers import InFlightShard, Worker, WorkerPoller
from nightpress.jobs.errors import KEPT, RunBlocked, RunStopped
from nightpress.jobs.progress.events import ActorLost, Event, Message, RowSetAside, ShardRetried
from nightpress.pipelines.errors import Damaged, LeaseLost, PlanDamaged, StoreError
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.events import (
    BatchBegun,
    BatchDone,
    BatchSampled,
    BatchSplit,
    DrawsJudged,
    ShardBegun,
    ShardDone,
    ShardEvent,
    ShardLeft,
)
from nightpress.pipelines.shards.work import Amendment, ShardWork
from nightpress.pipelines.storage import Store

MAX_HELD = 2
"""How many shards an actor holds: the current one, and the next so that it has no gap."""

POLL_S = 1.0
"""Seconds that one wait for news lasts at most."""

MAX_EVENTS = 8
"""How many events are taken from one worker before the other workers get their turn."""


class Dispatcher:
    """Hands the shards of one run to actors until none is left.

    Args:
        store, record: of the run.
        factory: starts actors.
        config: number of actors, attempts, timeouts and deadline.
        reason_to_stop: called repeatedly; if it returns a reason, the dispatch stops cleanly.
        repair_plan: called with a shard whose plan is damaged, to write that plan again.
        room: returns how many actors that need these CPUs, GPUs and bytes the cluster can hold.
    """

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        factory: ActorFactory,
        config: DispatchConfig,
        *,
        reason_to_stop: Callable[[], StopReason | str | None] = lambda: None,
        repair_plan: Callable[[int], None] = lambda shard: None,
        room: Callable[[float, float, int], int] = room,
    ) -> None:
        self._store = store
        self._record = record
        self._config = config
        self._reason_to_stop = reason_to_stop
        self._repair_plan = repair_plan
        self.pool = ActorPool(
            store, record, factory, config, room, next_model=self._model_of_new_actor
        )
        self._queue = queue_of(record, config, [])
        ratios = {model: record.layout.of_model(model).cost_ratio for model in record.layout.models}
        self._timings = ModelTimings(ratios)
        self._limits = Limits(config, self.pool, self._timings, record.layout.shard_size)
        self._copied: set[int] = set()
        self._repaired: set[int] = set()
        self._store_failures: dict[int, int] = {}
        self._poller = WorkerPoller()
        self._next_hang_check = 0.0
        self._is_draining = False

    def run(
        self, shards: Iterable[int], amendments: Mapping[int, Amendment] | None = None
    ) -> Iterator[Event]:
        """Make shards; yields events.

        Args:
            shards: the shard numbers.
            amendments: shard -> the rows to make again, for shards that are already committed.

        Raises:
            RunStopped: the store keeps failing, or nodes keep being lost; what is committed stays.
            StoppedOnRequest: it was asked to stop, or the deadline is near; likewise.
            RunBlocked: too many rows failed, an object is damaged, or no actor starts; likewise.
            LeaseLost: another process has taken the run over.
        """
        self._queue = queue_of(self._record, self._config, shards, amendments or {})
        while not self._queue.is_finished:
            reason = self._reason_to_stop() or self._limits.reason(len(self._queue))
            if reason is not None:
                yield from self._drain(reason)
            yield from self.pool.scale_to_cluster(len(self._queue))
            self._assign_work()
            yield from self._handle_news()
            yield from self._drop_hung_workers()

    def close(self) -> None:
        """Kill every actor."""
        self.pool.close()

    def _assign_work(self) -> None:
        """Fill the actors evenly: every actor gets its first shard before any gets its second.

        Towards the end no actor gets a second shard, which an idle actor could make instead.
        Isolated work is never second, and has nothing behind it.
        """
        for depth in range(MAX_HELD):
            if not self._queue:
                break
            models = self._queue.models if depth else ()
            ending = {m for m in models if is_near_the_end(self._queue, self.pool.workers, m)}
            for worker in self.pool.workers:
                if (
                    len(worker.held) <= depth  # the cheapest check first: most hold enough
                    and worker.accepts_work
                    and self._queue
                    and worker.model not in ending
                    and self._limits.fits(len(worker.held))
                ):
                    work = self._work_for(worker)
                    if work is not None:
                        self._assign(worker, work)
        if not self._queue:
            self._copy_stragglers()

    def _work_for(self, worker: Worker) -> ShardWork | None:
        """The next work for an actor; None if it gets none, or has to change its model first."""
        if worker.held:
            return self._queue.take_shared(worker.model)
        if self._queue.waiting(worker.model):
            return self._queue.take(worker.model)
        model = next_model(self._queue, self.pool.workers)
        if self._queue.waiting(model):
            self.pool.switch(worker, model)
        return None

    def _model_of_new_actor(self) -> str | None:
        return next_model(self._queue, self.pool.workers, is_new=True)

    def _assign(self, worker: Worker, work: ShardWork, is_copy: bool = False) -> None:
        ticket = next(worker.tickets)
        call = worker.handle.run_shard.options(num_returns="streaming")
        worker.held.append(InFlightShard(work, call.remote(work, ticket), is_copy, ticket=ticket))
        worker.start_next()

    def _copy_stragglers(self) -> None:
        """Have idle actors also try the work that takes other actors far too long."""
        if self._store.reads_back:  # on such a store two commits of a shard could overwrite another
            return
        found = copies(self.pool.workers, self._timings, self._may_copy)
        for worker, straggler in list(found):
            self._copied.add(straggler.work.shard)
            self._assign(worker, straggler.work.next_attempt(), is_copy=True)

    def _may_copy(self, in_flight: InFlightShard) -> bool:
        """Not an amendment: two of the same shard would overwrite each other's images."""
        work = in_flight.work
        is_new = work.shard not in self._copied and not self._queue.is_done(work.shard)
        return is_new and work.commits and work.amends is None

    def _drain(self, reason: StopReason | str) -> Iterator[Event]:
        """Let the current batches finish, then stop.

        Args:
            reason: text if it is trouble, which the same command would meet again.

        Raises:
            RunStopped, RunBlocked: always, unless that finished the run.
        """
        text = reason if isinstance(reason, str) else reason.text
        self._is_draining = True
        drain_s = self._config.drain_s
        # Packed images are only stored with their whole shard.
        ending = "finishing" if self._record.spec.images.is_packed else "storing"
        yield Message(f"{text}: {ending} the current batches, for at most {drain_s:.0f} s")
        self.pool.drain()
        end = time.monotonic() + drain_s
        while any(worker.held for worker in self.pool.workers) and time.monotonic() < end:
            yield from self._handle_news()
        if not self._queue.is_finished:
            if isinstance(reason, StopReason):
                raise reason.as_error()
            raise RunBlocked(f"stopped: {text} ({KEPT})")

    def _handle_news(self) -> Iterator[Event]:
        """Wait for news from the workers, and handle it."""
        for worker in self._poller.with_news(self.pool.workers, POLL_S):
            if worker.pending_begin is not None:
                yield from self.pool.on_started(worker)
            else:
                yield from self._take_events(worker)

    def _take_events(self, worker: Worker) -> Iterator[Event]:
        """Take the events that a worker has sent by now, in the order of its work."""
        for _ in range(MAX_EVENTS):
            is_alive = yield from self._take_event(worker)
            if not (is_alive and worker.held and worker.held[0].has_news):
                return

    def _take_event(self, worker: Worker) -> Generator[Event, None, bool]:
        """Take one event of a worker's current work; returns whether to go on with the worker."""
        in_flight = worker.held[0]
        try:
            event: ShardEvent = ray.get(next(in_flight.stream))
        except StopIteration:
            self._on_end(worker)
        except RayTaskError as error:
            yield from self._on_error(worker, error)
            return False
        except RayError as error:
            yield from self._on_lost(worker, reason_of(error), may_be_node_loss(error))
            return False
        else:
            yield from self._on_event(in_flight, event)
        return True

    def _on_end(self, worker: Worker) -> None:
        """Handle the end of a worker's current work."""
        ended = worker.held.pop(0)
        worker.start_next()
        if not ended.work.commits and not ended.was_left:
            self._queue.complete(ended.work)

    def _on_event(self, in_flight: InFlightShard, event: ShardEvent) -> Iterator[Event]:
        now = time.monotonic()
        timing = self._timings.of(self._record.layout.model_of(event.shard))
        match event:
            case ShardBegun():
                in_flight.begun_at, in_flight.has_begun = now, True
            case BatchBegun():
                in_flight.in_hand = event.rows
            case BatchSampled():
                in_flight.in_hand = ()
                if event.batch_s:
                    timing.add_batch(event.batch_s)
                in_flight.note_sampled(event)
            case BatchSplit():
                yield event
            case DrawsJudged():
                if not in_flight.is_copy:
                    yield event
            case BatchDone():
                if event.batch_s:
                    timing.add_batch(event.batch_s)
                    in_flight.in_hand = ()
                event = in_flight.note_done(event)
                if not self._queue.is_done(event.shard):
                    # Images stored by parts and copies are counted when the shard is committed.
                    counts_now = in_flight.work.commits and not in_flight.is_copy
                    yield event if counts_now else event.only_sampled()
            case ShardLeft():
                in_flight.was_left = True
                self._queue.requeue(in_flight.work.next_attempt())
                if not self._is_draining:  # the stored images will be counted again, as found
                    yield event
            case ShardDone():
                in_flight.is_done = True
                if in_flight.begun_at is not None and in_flight.made_all:
                    timing.add_shard(in_flight.num_made, now - in_flight.begun_at)
                if not self._queue.is_done(event.shard):
                    self._queue.close(event.shard)
                    yield event
        in_flight.heard_at = now

    def _on_error(self, worker: Worker, error: RayTaskError) -> Iterator[Event]:
        """Handle an error that a worker's current work raised.

        The actor stays in use unless its device failed, which says as little about the images as a
        lost node does.
        """
        cause = error.cause
        if isinstance(cause, LeaseLost):
            raise cause from None
        if isinstance(cause, DeviceError):
            yield from self._on_lost(worker, reason_of(error), True, culprit=worker.held[0])
            return
        work = worker.held.pop(0).work
        worker.start_next()
        if isinstance(cause, PlanDamaged) and work.shard not in self._repaired:
            self._repaired.add(work.shard)
            self._repair_plan(work.shard)
            self._queue.requeue(work)
        elif isinstance(cause, StoreError):
            yield from self._on_store_error(work, cause)
        else:
            yield from self._on_crash(work, FailureType.SAMPLING, reason_of(error), ())

    def _on_store_error(self, work: ShardWork, error: StoreError) -> Iterator[Event]:
        reason = reason_of(error)
        failures = self._store_failures.get(work.shard, 0) + 1
        self._store_failures[work.shard] = failures
        if failures >= self._config.max_attempts:
            if isinstance(error, Damaged):
                raise error
            raise RunStopped(f"the store keeps failing: {reason}; {GO_ON}")
        self._queue.requeue(work.next_attempt())
        yield ShardRetried(work.shard, work.attempt, reason)

    def _on_lost(
        self,
        worker: Worker,
        reason: str,
        node_suspected: bool,
        error_type: FailureType = FailureType.WORKER_KILLED,
        culprit: InFlightShard | None = None,
    ) -> Iterator[Event]:
        """Handle the loss of a worker: blame what it was sampling, and retry all that it held.

        Args:
            node_suspected: whether the node or device may be at fault rather than the work.
            culprit: the work to blame, if known.
        """
        self.pool.drop(worker)
        assert worker.location is not None  # noqa: S101 - only a worker that has begun holds work
        yield ActorLost(worker.location.host, len(self.pool), reason)
        culprit = culprit or worker.find_culprit()
        uncommitted = worker.uncommitted
        for in_flight in reversed(uncommitted):
            if in_flight is not culprit and not in_flight.was_left:
                began, work = in_flight is uncommitted[0], in_flight.work
                self._queue.requeue(replace(work.next_attempt() if began else work, isolated=True))
                if began:  # the stored images will be counted again, as found
                    yield ShardLeft(work.shard)
        if culprit is None or culprit.was_left:
            return
        work = culprit.work
        self._copied.discard(work.shard)
        if worker.is_leaving or node_suspected or worker.location.node_id not in alive_nodes():
            goes_on = self._queue.record_loss(work)
            yield from self._retry_or_fail(work, goes_on, error_type, reason)
        else:
            yield from self._on_crash(work, error_type, reason, culprit.in_hand)

    def _on_crash(
        self, work: ShardWork, error_type: FailureType, reason: str, in_hand: tuple[int, ...]
    ) -> Iterator[Event]:
        num_before = self._queue.num_set_aside(work.shard)
        goes_on = self._queue.record_crash(work, error_type, reason, in_hand)
        num_new = self._queue.num_set_aside(work.shard) - num_before
        if num_new and not self._queue.is_given_up(work.shard):
            row = work.rows[0] if work.amends is None else work.amends.rows[work.rows[0]]
            yield RowSetAside(work.shard, row, reason)
        else:
            yield from self._retry_or_fail(work, goes_on, error_type, reason)

    def _retry_or_fail(
        self, work: ShardWork, goes_on: bool, error_type: FailureType, reason: str
    ) -> Iterator[Event]:
        """Report that a shard is tried again, or commit it as failed."""
        if self._queue.is_done(work.shard):
            return
        if goes_on:
            is_given_up = self._queue.is_given_up(work.shard)
            yield ShardRetried(work.shard, work.attempt, reason, is_given_up)
            return
        self._queue.close(work.shard)
        cause = error_type, reason
        yield from give_up(self._store, self._record, self._config, work, cause)

    def _drop_hung_workers(self) -> Iterator[Event]:
        """Drop the workers that have been in one batch for so long that they must be hung."""
        if time.monotonic() < self._next_hang_check:
            return
        self._next_hang_check = time.monotonic() + POLL_S
        for worker in list(self.pool.workers):
            hang_s = self._timings.of(worker.model).hang_timeout_s
            limit_s = self._config.watchdog_s or hang_s
            current = worker.current
            if current is None or time.monotonic() - current.heard_at < limit_s:
                continue
            hung = worker.is_hung(self._config.watchdog_s)  # None while it may yet answer
            if hung:
                reason = f"it was in one batch for more than {limit_s:.0f} s"
                yield from self._on_lost(worker, reason, False, FailureType.TIMEOUT, current)
            elif hung is False:
                current.heard_at = time.monotonic()
