"""The log of a run: what happened in each start, in `log/<lease>-<n>.jsonl`.

The holder of a lease writes the log of its start, a line of JSON for each event. A thread stores
the lines every few seconds: the current part is written again with more lines until it is full, and
then a new part begins. Its last line is always the progress of the start, so a process that is
killed loses a few seconds of its log, and the newest part of each start says what the start did.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter

from nightpress.pipelines.errors import StoreError, StoreMissing
from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.job.notify_section import Ending
from nightpress.pipelines.run_directory.json_files import checked_time
from nightpress.pipelines.storage import QUICK, Store

LOG_FOLDER = "log"

FLUSH_S = 5.0
"""Seconds between two writes of the log."""

PART_BYTES = 64 * 2**10
"""A part that is larger is not written again; the next lines go to another."""

CLOSE_S = 15.0
"""The longest that the end of a log waits for a write that is under way."""

PROGRESS, ENDED = "progress", "ended"

_PART = re.compile(r"log/(\d{5,})-(\d{5,})\.jsonl")

Values = Mapping[str, Any]

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Time = Annotated[str, AfterValidator(checked_time)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


def part_path(lease: int, part: int) -> str:
    """`log/00003-00000.jsonl`."""
    return f"{LOG_FOLDER}/{lease:05d}-{part:05d}.jsonl"


def now_text() -> str:
    """The time as the log has it: UTC, ISO 8601, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def line_of(event: str, values: Values) -> str:
    """One line of the log."""
    return json.dumps({"time": now_text(), "event": event} | dict(values), default=str) + "\n"


class RunLog:
    """The log of one start, written by a thread; adding to it never waits for the store.

    Args:
        store: the run directory.
        lease: the number of the lease that this process holds.
        progress: returns what the start has done so far; called by the thread.
        flush_s: seconds between two writes.
        part_bytes: the size at which a part is full.
    """

    def __init__(
        self,
        store: Store,
        lease: int,
        progress: Callable[[], Values],
        flush_s: float = FLUSH_S,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._store, self._lease, self._progress = store.with_policy(QUICK), lease, progress
        self._flush_s, self._part_bytes = flush_s, part_bytes
        self._lines: list[str] = []
        """The lines of the current part, written or not."""
        self._part = 0
        self._has_ended = False
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="run-log", daemon=True)
        self._thread.start()

    def add(self, event: str, values: Values) -> None:
        """Add a line; it is stored within a few seconds."""
        self._lines.append(line_of(event, values))

    def end(self, values: Values) -> None:
        """Add the line that says how the start ended; no line of progress follows it."""
        self._has_ended = True  # first: the thread may write at any moment
        self.add(ENDED, values)

    def flush(self) -> None:
        """Store every line now.

        Raises:
            StoreError: the store failed; the lines are kept for the next time.
        """
        if not self._writing.acquire(timeout=CLOSE_S):
            raise StoreError(f"{self._store.url}/{LOG_FOLDER}: a write takes too long")
        try:
            self._write()
        finally:
            self._writing.release()

    def close(self) -> None:
        """Store every line and stop writing.

        Raises:
            StoreError: the store failed, so the last lines are lost.
        """
        self.discard()
        self.flush()

    def discard(self) -> None:
        """Stop writing at once, such as when another process has taken the run."""
        self._stop.set()

    def _keep_writing(self) -> None:
        while not self._stop.wait(self._flush_s):
            with suppress(StoreError):  # the lines are kept for the next time
                self.flush()

    def _write(self) -> None:
        num_lines = len(self._lines)
        text = "".join(self._lines[:num_lines])
        tail = "" if self._has_ended else line_of(PROGRESS, self._progress())
        if not text and not tail:
            return
        self._store.put(part_path(self._lease, self._part), (text + tail).encode())
        if len(text) > self._part_bytes and not self._has_ended:
            del self._lines[:num_lines]
            self._part += 1


@dataclass(frozen=True)
class Start:
    """What one start of a run did, by the newest lines of its log."""

    lease: Count
    command: str
    """`run`, `retry` or `verify`."""
    started_at: Time
    """UTC, ISO 8601."""
    time: Time
    """When these lines were written: UTC, ISO 8601."""
    elapsed_s: Amount
    num_images: Count
    """Images of the plan; 0 if the start did not get that far."""
    num_done: Count
    """Images that are done, those of earlier starts included."""
    num_failed: Count
    """Images of the run that have failed; while it is made, those of this start."""
    num_made: Count
    """Images that this start sampled."""
    num_retries: Count
    """How often a shard was tried again."""
    num_actors_lost: Count
    actor_s: Amount
    """Seconds of all actors together, from the beginning of their processes."""
    gpus_per_actor: Amount
    cost: Amount | None
    """None if the job has no `cost`."""
    currency: Currency | None
    state: Ending | None = None
    """`finished`, `failed` or `stopped`; None if its end is not in the log."""
    exit_code: int | None = None
    process_exit_code: int | None = None
    """The code that the process ended with: 0 for one of `--ok-codes`."""
    reason: str | None = None
    """Why it ended, unless it finished."""

    @property
    def gpu_s(self) -> float:
        """Seconds of all GPUs together."""
        return self.actor_s * self.gpus_per_actor

    @staticmethod
    def from_values(values: Values) -> "Start":
        """Read a line of progress, or the last one.

        Raises:
            ValueError: a value is missing, or is not of its kind.
        """
        return _START.validate_python(values)


_START = TypeAdapter(Start)


def log_parts(store: Store) -> dict[int, list[str]]:
    """Lease -> the parts of its log, in order."""
    found: dict[int, list[tuple[int, str]]] = {}
    for path in store.list(LOG_FOLDER):
        if match := _PART.fullmatch(path):
            found.setdefault(int(match[1]), []).append((int(match[2]), path))
    return {lease: [path for _, path in sorted(found[lease])] for lease in sorted(found)}


def read_starts(store: Store) -> list[Start]:
    """What each start of a run did, in order; those whose log cannot be read are left out.

    Raises:
        StoreError: the store failed.
    """
    starts = (_last_of(store, parts) for parts in log_parts(store).values())
    return [start for start in starts if start is not None]


def read_log(store: Store) -> Iterator[dict[str, Any]]:
    """Every line of a run's log, in order; lines that are not whole are left out."""
    for parts in log_parts(store).values():
        for path in parts:
            yield from _lines(store, path)


def cost_of(starts: list[Start], num_images: int) -> Cost | None:
    """What the starts of a run have cost together; None if none of them had a price."""
    priced = [each for each in starts if each.cost is not None and each.currency is not None]
    if not priced:
        return None
    currency = priced[-1].currency or ""
    amount = sum(each.cost or 0.0 for each in priced if each.currency == currency)
    return Cost.of(amount, currency, num_images)


def _last_of(store: Store, parts: list[str]) -> Start | None:
    for path in reversed(parts):
        for values in reversed(list(_lines(store, path))):
            if values.get("event") in (PROGRESS, ENDED):
                with suppress(ValueError):  # a line of another version, or not ours
                    return Start.from_values(values)
    return None


def _lines(store: Store, path: str) -> Iterator[dict[str, Any]]:
    try:
        text = store.read(path).decode(errors="replace")
    except StoreMissing:  # deleted since it was listed
        return
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            values = json.loads(line)
            if isinstance(values, dict):
                yield values
