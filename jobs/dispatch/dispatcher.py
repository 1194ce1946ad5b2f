"""Dispatch: shards to actors, bounded in flight, until none is left or it is time to stop.

Actors pull: one that has finished a shard gets the next. What is handed out when, and to whom
again, is decided here; `actor_pool.py` knows who there is, and `shard_queue.py` what a
failure means.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from nightpress.diffusion_core.errors import DeviceError
from nightpress.jobs.cluster.connection import alive_nodes, room
from nightpress.jobs.cluster.ray_errors import is_silence, reason_of
from nightpress.jobs.dispatch.actor import ActorFactory
from nightpress.jobs.dispatch.actor_pool import ActorPool
from nightpress.jobs.dispatch.config import DispatchConfig
from nightpress.jobs.dispatch.shard_queue import Piece, ShardQueue
from nightpress.jobs.dispatch.timing import ShardTiming
from nightpress.jobs.dispatch.workers import InFlightShard, Worker, WorkerWatch
from nightpress.jobs.errors import RunStopped
from nightpress.jobs.progress.events import ActorLost, Event, Message, RowSetAside, ShardRetried
from nightpress.pipelines.errors import LeaseLost, PlanDamaged, StoreError
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.runner import (
    Amendment,
    BatchDone,
    BatchSampled,
    ShardBegun,
    ShardDone,
    ShardEvent,
    ShardLeft,
    ShardWork,
    fail_shard,
)
from nightpress.pipelines.storage import Store

IN_FLIGHT = 2
"""Shards an actor holds: one in hand, and one so that it never waits for the driver."""

POLL_S = 1.0
"""How long one wait for events lasts."""

MOST_AT_ONCE = 8
"""Events that are taken from one actor before others have their turn."""


class Dispatcher:
    """Hands the shards of one run to actors until none is left.

    Args:
        store, record: of the run.
        factory: starts actors.
        terms: what the job asks for.
        reason_to_stop: asked all the time; an answer ends the dispatch in good order.
        mend: writes the plan of a shard again when it is damaged.
        room: how many actors of so many CPUs and GPUs the cluster can hold.
    """

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        factory: ActorFactory,
        terms: DispatchConfig,
        *,
        reason_to_stop: Callable[[], str | None] = lambda: None,
        mend: Callable[[int], None] = lambda shard: None,
        room: Callable[[float, float], int] = room,
    ) -> None:
        self._store = store
        self._record = record
        self._terms = terms
        self._reason_to_stop = reason_to_stop
        self._mend = mend
        self.fleet = ActorPool(store, record, factory, terms, room)
        self._amendments: dict[int, Amendment] = {}
        self._work = ShardQueue([], self._num_rows, terms.max_attempts)
        self._pace = ShardTiming(record.layout.cost_ratio)
        self._copied: set[int] = set()
        self._mended: set[int] = set()
        self._store_failures: dict[int, int] = {}
        self._lookout = WorkerWatch()
        self._next_watch = 0.0
        self._winds_down = False

    def run(
        self, shards: Iterable[int], amendments: Mapping[int, Amendment] | None = None
    ) -> Iterator[Event]:
        """Make the shards; yields what happens.

        Args:
            shards: by number.
            amendments: of shards that are committed, which rows to make again.

        Raises:
            RunStopped: it was asked to stop, or the store or every actor fails for good; what is
                committed stays.
            LeaseLost: another start has taken the run over.
        """
        self._amendments = dict(amendments or {})
        self._work = ShardQueue(shards, self._num_rows, self._terms.max_attempts)
        while not self._work.is_finished:
            reason = self._reason_to_stop() or self._too_late()
            if reason is not None:
                yield from self._wind_down(reason)
            yield from self.fleet.follow_the_cluster(len(self._work))
            self._hand_out()
            yield from self._handle_one_round()
            yield from self._end_the_silent()

    def _num_rows(self, shard: int) -> int:
        """How many rows of a shard are to be made."""
        amends = self._amendments.get(shard)
        return self._record.layout.shard_images(shard) if amends is None else len(amends.rows)

    def close(self) -> None:
        """End every actor."""
        self.fleet.close()

    def _hand_out(self) -> None:
        """Fill the actors evenly: everyone gets a first shard before anyone gets a second.

        Towards the end nobody gets a second, which an idle actor could have made. What is to be
        alone is nobody's second, and has none behind it.
        """
        for depth in range(IN_FLIGHT):
            if not self._work or (depth and len(self._work) < len(self.fleet.workers)):
                break
            for worker in self.fleet.workers:
                if (
                    len(worker.flights) <= depth  # the cheapest question first: most have enough
                    and worker.takes_work
                    and self._work
                    and self._is_in_time(len(worker.flights))
                ):
                    piece = self._work.take_beside() if worker.flights else self._work.take()
                    if piece is not None:
                        self._give(worker, piece)
        if not self._work:
            self._copy_stragglers()

    def _copy_stragglers(self) -> None:
        """Have idle actors try, too, what others take far too long for."""
        if self._store.reads_back:  # two commits of one shard could replace each other there
            return
        idle = [worker for worker in self.fleet.workers if worker.takes_work and not worker.flights]
        for worker, flight in zip(idle, self._stragglers(), strict=False):
            self._copied.add(flight.piece.shard)
            self._give(worker, flight.piece.again(), is_copy=True)

    def _stragglers(self) -> Iterator[InFlightShard]:
        """What takes too long, and what waits behind it.

        What is amended is not copied: two at once would replace each other's work.
        """
        for worker in self.fleet.workers:
            if worker.flights and self._is_straggling(worker.flights[0]):
                for flight in worker.flights:
                    once = flight.piece.shard not in self._copied | self._amendments.keys()
                    if flight.piece.commits and once and not self._work.is_done(flight.piece.shard):
                        yield flight

    def _is_straggling(self, flight: InFlightShard) -> bool:
        if flight.begun_at is None:
            return False
        seconds = time.monotonic() - flight.begun_at
        return self._pace.is_straggling(flight.piece.num_rows, seconds)

    def _give(self, worker: Worker, piece: Piece, is_copy: bool = False) -> None:
        look_first = self._terms.look_first or piece.attempt > 1
        amends = self._amendments.get(piece.shard)
        call = worker.handle.run_piece.options(num_returns="streaming")
        turn = next(worker.turns)
        stream = call.remote(piece, look_first, amends, turn)
        worker.flights.append(InFlightShard(piece, stream, is_copy, turn=turn))
        worker.begin_next()

    def _is_in_time(self, num_before: int) -> bool:
        """Whether a piece can be done before the deadline, after so many others."""
        deadline_at = self._terms.deadline_at
        expected_s = self._pace.expected_s(self._record.layout.shard_size)
        if deadline_at is None or expected_s is None:
            return True
        return time.time() + expected_s * (1 + num_before) < deadline_at

    def _too_late(self) -> str | None:
        """Why nothing more can be done before the deadline, if nothing can."""
        deadline_at = self._terms.deadline_at
        if deadline_at is None:
            return None
        if time.time() + self._terms.drain_s >= deadline_at:
            return "the deadline is near"
        busy = any(worker.flights or worker.ready is not None for worker in self.fleet.workers)
        if self._work and self.fleet.workers and not busy and not self._is_in_time(0):
            return "the next shard would not be done before the deadline"
        return None

    def _wind_down(self, reason: str) -> Iterator[Event]:
        """Let every batch in hand come to its end, and stop."""
        self._winds_down = True
        drain_s = self._terms.drain_s
        # What is to be packed is stored with its whole shard only.
        ending = "ending" if self._record.spec.images.is_packed else "storing"
        yield Message(f"{reason}: {ending} the batches in hand, for at most {drain_s:.0f} s")
        self.fleet.drain()
        end = time.monotonic() + drain_s
        while any(worker.flights for worker in self.fleet.workers) and time.monotonic() < end:
            yield from self._handle_one_round()
        if not self._work.is_finished:
            raise RunStopped(f"stopped: {reason}; the same command goes on from here")

    def _handle_one_round(self) -> Iterator[Event]:
        waiting: dict[Any, Worker] = {}
        for worker in self.fleet.workers:
            if worker.ready is not None:
                waiting[worker.ready] = worker
            elif worker.flights:
                waiting[worker.flights[0].stream] = worker
        if not waiting:
            time.sleep(POLL_S)
            return
        for reference in self._lookout.ready(list(waiting), POLL_S):
            worker = waiting[reference]
            handle = self._on_streams if worker.ready is None else self.fleet.started
            yield from handle(worker)

    def _on_streams(self, worker: Worker) -> Iterator[Event]:
        """Take what the worker has told by now, of one flight after the other."""
        for _ in range(MOST_AT_ONCE):
            goes_on = yield from self._on_stream(worker)
            if not (goes_on and worker.flights and worker.flights[0].has_news):
                return

    def _on_stream(self, worker: Worker) -> Generator[Event, None, bool]:
        """Take one event from what the worker has in hand; whether more may be taken at once."""
        flight = worker.flights[0]
        try:
            event: ShardEvent = ray.get(next(flight.stream))
        except StopIteration:
            self._flight_ended(worker)
        except RayTaskError as error:
            yield from self._raised(worker, error)
            return False
        except RayError as error:
            yield from self._worker_lost(worker, reason_of(error), is_silence(error))
            return False
        else:
            yield from self._heard(flight, event)
        return True

    def _flight_ended(self, worker: Worker) -> None:
        flight = worker.flights.pop(0)
        worker.begin_next()
        if not flight.piece.commits and not flight.was_left:
            self._work.done(flight.piece)

    def _heard(self, flight: InFlightShard, event: ShardEvent) -> Iterator[Event]:
        now = time.monotonic()
        match event:
            case ShardBegun():
                flight.begun_at = now
            case BatchSampled():
                self._pace.batch_done(event.batch_s)
            case BatchDone():
                if event.batch_s:
                    self._pace.batch_done(event.batch_s)
                flight.num_sampled += event.num_sampled
                if not self._work.is_done(event.shard):
                    # What is stored by pieces and copies is counted when the shard is committed.
                    whole = flight.piece.commits and not flight.is_copy
                    yield event if whole else event.only_sampled()
            case ShardLeft():
                flight.was_left = True
                self._work.give_back(flight.piece.again())
                if not self._winds_down:  # what it has stored will be counted again, as found
                    yield event
            case ShardDone():
                flight.is_done = True
                if flight.begun_at is not None and flight.num_sampled == flight.piece.num_rows:
                    self._pace.shard_done(flight.num_sampled, now - flight.begun_at)
                if not self._work.is_done(event.shard):
                    self._work.close(event.shard)
                    yield event
        flight.heard_at = now

    def _raised(self, worker: Worker, error: RayTaskError) -> Iterator[Event]:
        """The shard's code raised; unless the device is to blame, the actor lives.

        What a device fails at says as little about an image as a node that goes away.
        """
        cause = error.cause
        if isinstance(cause, LeaseLost):
            raise cause from None
        if isinstance(cause, DeviceError):
            failed = worker.flights[0]
            yield from self._worker_lost(worker, reason_of(error), silent=True, blamed=failed)
            return
        piece = worker.flights.pop(0).piece
        worker.begin_next()
        if isinstance(cause, PlanDamaged) and piece.shard not in self._mended:
            self._mended.add(piece.shard)
            self._mend(piece.shard)
            self._work.give_back(piece)
        elif isinstance(cause, StoreError):
            yield from self._store_failed(piece, reason_of(error))
        else:
            yield from self._crashed(piece, FailureType.SAMPLING, reason_of(error))

    def _store_failed(self, piece: Piece, reason: str) -> Iterator[Event]:
        failures = self._store_failures.get(piece.shard, 0) + 1
        self._store_failures[piece.shard] = failures
        if failures >= self._terms.max_attempts:
            raise RunStopped(f"the store failed time and again: {reason}")
        self._work.give_back(piece.again())
        yield ShardRetried(piece.shard, piece.attempt, reason)

    def _worker_lost(
        self,
        worker: Worker,
        reason: str,
        silent: bool,
        error_type: FailureType = FailureType.WORKER_KILLED,
        blamed: InFlightShard | None = None,
    ) -> Iterator[Event]:
        """The actor is gone: blame the piece it was sampling, hand out again what it held."""
        self.fleet.drop(worker)
        assert worker.home is not None  # noqa: S101 - only a worker that has begun has shards
        yield ActorLost(worker.home.host, len(self.fleet), reason)
        blamed = blamed or worker.to_blame()
        undone = worker.undone
        for flight in reversed(undone):
            if flight is not blamed and not flight.was_left:
                began = flight is undone[0]
                piece = flight.piece.again() if began else flight.piece
                self._work.give_back(replace(piece, alone=True))
                if began:  # what it has stored will be counted again, as found
                    yield ShardLeft(flight.piece.shard)
        if blamed is None or blamed.was_left:
            return
        piece = blamed.piece
        self._copied.discard(piece.shard)
        if worker.leaving or silent or worker.home.node_id not in alive_nodes():
            goes_on = self._work.lost(piece)
            yield from self._told(piece, goes_on, error_type, reason)
        else:
            yield from self._crashed(piece, error_type, reason)

    def _crashed(self, piece: Piece, error_type: FailureType, reason: str) -> Iterator[Event]:
        aside = self._work.num_set_aside(piece.shard)
        goes_on = self._work.crashed(piece, error_type, reason)
        if self._work.num_set_aside(piece.shard) > aside:
            amends = self._amendments.get(piece.shard)
            row = piece.start if amends is None else amends.rows[piece.start]
            yield RowSetAside(piece.shard, row, reason)
        else:
            yield from self._told(piece, goes_on, error_type, reason)

    def _told(
        self, piece: Piece, goes_on: bool, error_type: FailureType, reason: str
    ) -> Iterator[Event]:
        """Say that a shard is tried again, or give it up."""
        if self._work.is_done(piece.shard):
            return
        if goes_on:
            yield ShardRetried(piece.shard, piece.attempt, reason)
            return
        self._work.close(piece.shard)
        if self._terms.fence is not None:
            self._terms.fence.require(self._store)
        if piece.shard in self._amendments:
            yield ShardDone(piece.shard, num_ok=0, num_failed=self._num_rows(piece.shard))
            return
        rows = read_shard(self._store, self._record.layout, piece.shard)
        work = ShardWork(piece.shard, rows, attempt=piece.attempt)
        yield fail_shard(self._store, self._record, work, error_type, reason)

    def _end_the_silent(self) -> Iterator[Event]:
        """End actors that have been in one batch for so long that they must hang."""
        if time.monotonic() < self._next_watch:
            return
        self._next_watch = time.monotonic() + POLL_S
        limit_s = self._terms.watchdog_s or self._pace.longest_silence_s
        for worker in list(self.fleet.workers):
            flight = worker.flights[0] if worker.flights else None
            if flight is None or time.monotonic() - flight.heard_at < limit_s:
                continue
            if not worker.hangs():
                flight.heard_at = time.monotonic()
                continue
            reason = f"it was in one batch for more than {limit_s:.0f} s"
            yield from self._worker_lost(worker, reason, False, FailureType.TIMEOUT, flight)
