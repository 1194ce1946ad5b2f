"""`runs`: the runs of an output folder, and how each of them stands, from the store alone."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nightpress.diffusion_core.errors import NightpressError, one_line
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.pipelines.errors import RunNotFound
from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.run_directory.lease import last_holder
from nightpress.pipelines.run_directory.log import Start, cost_of, read_starts
from nightpress.pipelines.run_directory.record import RUN_FILE, decode_record
from nightpress.pipelines.run_directory.summary import Summary
from nightpress.pipelines.run_directory.summary_index import read_totals
from nightpress.pipelines.storage import READ_THREADS, Options, Store

SILENT_S = 60.0
"""A start whose log is older than this, and does not say how it ended, was killed."""

RUNNING, KILLED, UNFINISHED, UNREADABLE = "running", "killed", "unfinished", "unreadable"


@dataclass(frozen=True)
class RunSummary:
    """One run of an output folder."""

    name: str
    url: str
    state: str
    """`finished`, `stopped`, `failed`; `running`, or `killed` if it says nothing any more; without
    a log `unfinished`; `unreadable` if `run.json` or the log is."""
    exit_code: int | None
    """Of the last start; None while it runs, and if its end is not in the log."""
    num_images: int | None
    """Images of the plan."""
    num_done: int | None
    num_failed: int | None
    created_at: str | None
    """UTC, ISO 8601."""
    last_at: str | None
    """When the last start was last heard of: UTC, ISO 8601."""
    duration_s: float | None
    """Of all starts together."""
    num_starts: int
    gpu_s: float
    """Seconds of all GPUs together, in all starts."""
    cost: Cost | None
    reason: str | None
    """Why the last start ended early, or why the run cannot be read."""


def list_runs(output: str, *, storage: Options | None = None) -> list[RunSummary]:
    """The runs of images in an output folder, the oldest first.

    Everything is read from the store; no machine that works on a run is contacted.

    Args:
        output: URL of the folder that holds runs, as the job's `output`.
        storage: fsspec options by protocol.

    Raises:
        RunNotFound: there is no run in it, or it is a run itself.
        StoreError: the store does not answer.
    """
    store = Store(output, storage)
    store.require_answer()
    if store.size(RUN_FILE) is not None:
        raise RunNotFound(f"{output}: this is a run; name the folder that it lies in")
    folders = map(store.folder, store.folders())
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = [run for run in pool.map(_summary, folders) if run is not None]
    if not found:
        raise RunNotFound(f"{output}: no runs here")
    return sorted(found, key=lambda run: (run.created_at or "", run.name))


def _summary(store: Store) -> RunSummary | None:
    """The run in this folder; None if there is none."""
    try:
        data = store.read_if_any(RUN_FILE)
        return None if data is None else _read(store, data, datetime.now(UTC))
    except NightpressError as error:
        return _unreadable(store.url, one_line(error))


def _unreadable(url: str, reason: str) -> RunSummary:
    name = url.rstrip("/").rpartition("/")[2]
    unknown: dict[str, Any] = dict.fromkeys(
        ("exit_code", "num_images", "num_done", "num_failed", "created_at", "last_at", "duration_s")
    )
    return RunSummary(
        name, url, UNREADABLE, **unknown, num_starts=0, gpu_s=0.0, cost=None, reason=reason
    )


def _read(store: Store, data: bytes, now: datetime) -> RunSummary:
    """What `run.json`, the log and, where they are needed, the commits say."""
    record = decode_record(store, data)
    num_images = record.layout.num_images
    starts = read_starts(store)
    last = starts[-1] if starts else None
    num_done, num_failed = _counts(store, last)
    state, code = _state(store, starts, num_done == num_images, num_failed, now)
    return RunSummary(
        name=store.url.rstrip("/").rpartition("/")[2],
        url=store.url,
        state=state,
        exit_code=code,
        num_images=num_images,
        num_done=num_done,
        num_failed=num_failed,
        created_at=record.created_at,
        last_at=None if last is None else last.time,
        duration_s=sum(each.elapsed_s for each in starts) if starts else None,
        num_starts=len(starts),
        gpu_s=sum(each.gpu_s for each in starts),
        cost=cost_of(starts, num_done),
        reason=None if last is None or state == RUNNING else last.reason,
    )


def _counts(store: Store, last: Start | None) -> tuple[int, int]:
    """Images that are done and that have failed.

    The log of a start that made the run complete has them; else they are read from the commits.
    """
    if last is not None and last.state == "finished":
        return last.num_done, last.num_failed
    total = Summary.total(each.summary for each in read_totals(store).values())
    return total.num_ok + total.num_failed, total.num_failed


def _state(
    store: Store, starts: list[Start], is_complete: bool, num_failed: int, now: datetime
) -> tuple[str, int | None]:
    """The state of a run, and the exit code that belongs to it."""
    last = starts[-1] if starts else None
    if last is not None and last.state is None and _is_alive(store, last, now):
        return RUNNING, None
    if is_complete:
        return "finished", SOME_FAILED if num_failed else OK
    runs = [each for each in starts if each.command == "run"] or starts
    if not runs:
        return UNFINISHED, None
    return runs[-1].state or KILLED, runs[-1].exit_code


def _is_alive(store: Store, last: Start, now: datetime) -> bool:
    """Whether a start that has not said how it ended may still be going on."""
    holder = last_holder(store)
    if holder is None or holder.is_dead:
        return False
    return (now - datetime.fromisoformat(last.time)).total_seconds() < SILENT_S
