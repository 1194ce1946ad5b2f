"""What one start of a run leaves behind besides images: its log, its metrics, and who was told.

The holder of the lease records; nothing here makes the run wait, and no failure here fails it.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from nightpress.diffusion_core.errors import NightpressError, one_line
from nightpress.jobs.dispatch.config import Budget
from nightpress.jobs.errors import (
    OK,
    SOME_FAILED,
    STOPPED,
    exit_code,
)
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.progress.log_lines import log_line
from nightpress.jobs.progress.tally import Tally
from nightpress.jobs.runs.shared import OnEvent, failures_as_run_stopped
from nightpress.jobs.runs.webhooks import Ended, missing_urls, not_told, notify
from nightpress.pipelines.errors import LeaseLost, SpecError, StoreError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.cost_section import Cost, money
from nightpress.pipelines.job.notify_section import Ending
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.lease import FreeLease, Lease, held
from nightpress.pipelines.run_directory.log import RunLog, Start, cost_of, now_text, read_starts
from nightpress.pipelines.run_directory.reader import RunProgress
from nightpress.pipelines.storage import QUICK, Store

if TYPE_CHECKING:  # they import Ray, which a start that finds nothing to make does not need
    from nightpress.jobs.dispatch.actor_pool import ActorPool
    from nightpress.jobs.dispatch.metrics import RunGauges


@dataclass(frozen=True)
class StartOptions:
    """How a start was asked for."""

    command: str
    """`run`, `retry`, `verify` or `again`."""
    deadline_at: float | None = None
    """Seconds since the epoch."""
    budget: float | None = None
    """What all starts of the run together may cost, in the job's currency."""
    ok_codes: tuple[int, ...] = ()
    """Exit codes that the command line turns into 0."""

    @property
    def has_limit(self) -> bool:
        """Whether the start may stop early although nothing is wrong."""
        return self.deadline_at is not None or self.budget is not None


@dataclass(frozen=True)
class Counts:
    """The images of a run."""

    num_images: int
    num_done: int
    num_failed: int


class StartLog:
    """Records one start.

    Args:
        options: how it was asked for.
        spec: the job.
        on_event: called with every event that is shown, in addition to recording it.
    """

    def __init__(self, options: StartOptions, spec: RunSpec, on_event: OnEvent) -> None:
        self.tally = Tally()
        self.options = options
        self.has_made_nothing = False
        """Whether the run was complete already."""
        self._spec, self._on_event = spec, on_event
        self._gpus_per_actor = 0.0
        self._actor_s: Callable[[], float] = lambda: 0.0
        self._gauges: RunGauges | None = None
        self._counts: Counts | None = None
        """The images of the run, once they are known for certain."""
        self._exit_code = OK
        """Of a start that ends well."""
        self._started_at = now_text()
        self._earlier: list[Start] = []
        self._lease = 0
        self._log: RunLog | None = None
        self._early: list[tuple[str, dict[str, Any]]] = []
        """Lines from before the lease."""
        self._is_log_failing = False
        """Whether it has been said that the log cannot be written."""
        self._num_retries = self._num_lost = 0
        self._cause: BaseException | None = None
        """What `on_event` raised: the run is then closed without hearing of it."""

    def show(self, event: Event) -> None:
        """Count an event, record it if it is worth a line, and pass it on."""
        self.tally.add(event)
        line = log_line(event)
        if line is not None:
            self._num_retries += line[0] == "shard_retried"
            self._num_lost += line[0] == "actor_lost"
            self._add(*line)
        try:
            self._on_event(event)
        except BaseException as error:
            self._cause = error
            raise

    def read_earlier(self, store: Store) -> None:
        """Read what earlier starts cost; does nothing if the job has no `cost`.

        Raises:
            SpecError: they were paid for in another currency, or there is a budget and no price.
            StoreError: there is a budget, and the log cannot be read.
        """
        cost = self._spec.cost
        if cost is None:
            if self.options.budget is not None:
                raise SpecError(
                    "--budget: the job has no price; add cost: {currency: EUR, per_gpu_hour: 2.50} "
                    "with yours"
                )
            return
        try:
            self._earlier = read_starts(store)
        except StoreError as error:
            if self.options.budget is not None:
                raise
            self._warn(f"the log cannot be read, so costs are those of this start alone: {error}")
        for start in self._earlier:
            if start.currency not in (None, cost.currency):
                raise SpecError(
                    f"cost.currency: {cost.currency}, but earlier starts of this run were counted "
                    f"in {start.currency}; keep that, or give this job another name"
                )

    def require_budget(self) -> None:
        """Check that earlier starts have not spent the budget.

        Raises:
            SpecError: they have, so this command will never go on.
        """
        budget, cost = self.options.budget, self._spec.cost
        if budget is None or cost is None or self._spent_before() < budget:
            return
        spent = money(self._spent_before(), cost.currency)
        raise SpecError(
            f"--budget: {money(budget, cost.currency)} is spent: "
            f"{plural(len(self._earlier), 'start')} of this run cost {spent}; it takes a larger "
            "--budget to resume"
        )

    def budget(self, gpus_per_actor: float) -> Budget | None:
        """What is left of the budget for the actors of this start."""
        budget, cost = self.options.budget, self._spec.cost
        if budget is None or cost is None:
            return None
        left = max(0.0, budget - self._spent_before())
        return Budget(left / cost.per_actor_s(gpus_per_actor), money(budget, cost.currency))

    def watch(self, pool: "ActorPool", gpus_per_actor: float) -> None:
        """Count the seconds of these actors, and export the gauges of the run."""
        from nightpress.jobs.dispatch.metrics import RunGauges

        self._gpus_per_actor = gpus_per_actor
        self._actor_s = pool.actor_s
        if self.options.command == "run":
            self._gauges = RunGauges(self._spec.name, self.options.deadline_at)

    def finish(self, progress: RunProgress, num_failed: int | None = None) -> None:
        """Note how the run stands at the end of a start that ends well.

        Args:
            progress: of the run.
            num_failed: how many rows of this start failed; those of the run if None.
        """
        self._counts = Counts(
            progress.num_images, progress.num_ok + progress.num_failed, progress.num_failed
        )
        failed = progress.num_failed if num_failed is None else num_failed
        self._exit_code = SOME_FAILED if failed else OK

    def cost(self, num_images: int) -> Cost | None:
        """What the whole run has cost by now; None without a price."""
        this = self._progress()
        return cost_of([*self._earlier, self._start_of(this)], num_images)

    def store_now(self) -> None:
        """Store the log before its readers look at it; a failure is left to the next time."""
        if self._log is not None:
            try:
                self._log.flush()
            except StoreError as error:
                self._warn_of_log(error)

    @contextmanager
    def recorded(self, store: Store, lease: Lease) -> Iterator[None]:
        """Record what happens inside, and at the end tell those who want to know."""
        self._lease = lease.number
        log = self._log = RunLog(store, lease.number, self._progress)
        log.add("started", self._start_values(lease))
        for event, values in self._early:
            log.add(event, values)
        try:
            self.store_now()  # the first sign of this start, and of a store that refuses the log
            self._warn_of_receivers()
            yield
        except LeaseLost:
            log.discard()
            raise
        except BaseException as error:
            self._end(store, lease, error)
            raise
        else:
            self._end(store, lease, None)

    def _add(self, event: str, values: dict[str, Any]) -> None:
        if self._log is None:
            self._early.append((event, {"time": now_text()} | values))
        else:
            self._log.add(event, values)

    def _warn(self, text: str) -> None:
        """Say and record a warning, unless whoever listens has failed."""
        if self._cause is None:
            self.show(Message(text, warning=True))

    def _warn_of_log(self, error: StoreError) -> None:
        """Say once in a start that the store does not take its log."""
        if not self._is_log_failing:
            self._is_log_failing = True
            self._warn(f"the log cannot be written; the run goes on: {error}")

    def _warn_of_receivers(self) -> None:
        if self.options.command == "run":
            for line in missing_urls(self._spec.notify):
                self._warn(line)

    def _spent_before(self) -> float:
        cost = self._spec.cost
        assert cost is not None  # noqa: S101 - callers have checked
        return sum(
            start.cost
            if start.cost is not None
            else start.actor_s * cost.per_actor_s(start.gpus_per_actor)
            for start in self._earlier
        )

    def _start_values(self, lease: Lease) -> dict[str, Any]:
        try:
            own_version = version("nightpress")
        except PackageNotFoundError:  # it was shipped with the job as source
            own_version = "source"
        options = asdict(self.options)
        price = {} if self._spec.cost is None else self._spec.cost.model_dump()
        place = {"host": platform.node(), "version": own_version}
        return {"lease": lease.number, "run": self._spec.name} | place | options | price

    def _progress(self) -> dict[str, Any]:
        """What the start has done so far; a thread asks for it every few seconds."""
        tally, cost = self.tally, self._spec.cost
        counts = self._counts or Counts(tally.num_images, tally.num_done, tally.num_failed)
        if self._gauges is not None:
            self._gauges.update(tally)
        actor_s = self._actor_s()
        amount = None if cost is None else actor_s * cost.per_actor_s(self._gpus_per_actor)
        return {
            "lease": self._lease,
            "command": self.options.command,
            "started_at": self._started_at,
            "elapsed_s": round(tally.elapsed_s, 1),
            **asdict(counts),
            "num_made": tally.num_made,
            "num_actors": tally.num_actors,
            "num_retries": self._num_retries,
            "num_actors_lost": self._num_lost,
            "actor_s": round(actor_s, 3),
            "gpus_per_actor": self._gpus_per_actor,
            "gpu_s": round(actor_s * self._gpus_per_actor, 3),
            "cost": amount,
            "currency": None if cost is None else cost.currency,
        }

    def _start_of(self, progress: dict[str, Any]) -> Start:
        return Start.from_values({"time": now_text()} | progress)

    def _end(self, store: Store, lease: Lease, error: BaseException | None) -> None:
        """Write how the start ended, and tell the receivers."""
        log = self._log
        assert log is not None  # noqa: S101 - set by the caller
        try:
            lease.require()
        except LeaseLost:
            log.discard()
            return
        ended = self._ended(store, lease, error)
        process_code = OK if ended.exit_code in self.options.ok_codes else ended.exit_code
        codes = {"exit_code": ended.exit_code, "process_exit_code": process_code}
        log.end(self._progress() | {"state": ended.event, **codes, "reason": ended.reason})
        self.store_now()
        try:
            self._notify(store.with_policy(QUICK), ended)
        except StoreError as failure:
            self._warn(f"notify: nobody was told that the run {ended.event}: {failure}")
        try:
            log.close()
        except StoreError as failure:
            self._warn_of_log(failure)

    def _ended(self, store: Store, lease: Lease, error: BaseException | None) -> Ended:
        if isinstance(error, GeneratorExit):
            error = self._cause or KeyboardInterrupt()
        code = self._exit_code if error is None else exit_code(error)
        progress = self._start_of(self._progress())
        return Ended(
            event=_ending(code),
            run=self._spec.name,
            url=store.url,
            lease=lease.number,
            exit_code=code,
            reason=_reason(error),
            ended_at=now_text(),
            num_images=progress.num_images,
            num_done=progress.num_done,
            num_failed=progress.num_failed,
            num_made=progress.num_made,
            elapsed_s=progress.elapsed_s,
            gpu_s=progress.gpu_s,
            cost=self.cost(progress.num_done),
        )

    def _notify(self, store: Store, ended: Ended) -> None:
        receivers = self._spec.notify
        if not receivers or self.options.command != "run":
            return
        if self.has_made_nothing:  # a scheduler looks after a finished night several times
            receivers = not_told(store, receivers, ended.event)
        for answer in notify(store, receivers, ended):
            self._add(
                "notified",
                {
                    "receiver": answer.url_env,
                    "of": answer.event,
                    "ok": answer.ok,
                    "detail": answer.detail,
                },
            )
            if not answer.ok:
                self._warn(answer.warning)


@contextmanager
def held_run(store: Store, free: FreeLease, log: StartLog) -> Iterator[Lease]:
    """Hold a run, and record what happens; as something is written then, no failure says exit 2.

    Raises:
        RunHeld: another process holds the lease.
    """
    with held(store, free) as lease, log.recorded(store, lease), failures_as_run_stopped():
        yield lease


def _ending(code: int) -> Ending:
    if code in (OK, SOME_FAILED):
        return "finished"
    return "stopped" if code == STOPPED else "failed"


def _reason(error: BaseException | None) -> str | None:
    match error:
        case None:
            return None
        case KeyboardInterrupt():
            return "stopped at once by a signal"
        case NightpressError():
            return one_line(error) or type(error).__name__
        case _:  # the message of a KeyError, say, is only the key
            return ": ".join(filter(None, (type(error).__name__, one_line(error))))
