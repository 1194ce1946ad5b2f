"""The lease: at most one live process works on a run directory.

A process takes the lease by creating the next number in `lease/`; the highest number holds the run.
Numbers only grow, so they serve as fencing tokens: an earlier holder sees a higher number and
stops, and its workers commit nothing more. A holder is alive while its heartbeat changes; no two
clocks are compared.
"""

import json
import os
import platform
import re
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Self

from nightpress.pipelines.errors import LeaseLost, RunHeld, StoreError, StoreMissing
from nightpress.pipelines.formatting import duration
from nightpress.pipelines.run_directory.json_files import json_file
from nightpress.pipelines.run_directory.processes import has_ended, process_mark, user_name
from nightpress.pipelines.storage import QUICK, Store

LEASE_FOLDER = "lease"

HEARTBEAT_S = 5.0
"""Seconds between two heartbeats."""

SILENCE_S = 30.0
"""A holder whose heartbeat does not change for this long, while it is watched, is dead."""

POLL_S = 1.0
"""Seconds between two reads of another process's heartbeat."""

RELEASE_S = 6.0
"""The longest that a release waits for a heartbeat that is being written."""

SETTLE_S = 2.0
"""How long a new holder waits before it checks that its lease was not replaced, on a store where a
later writer can replace an object."""

_LEASE_FILE = re.compile(r"lease/(\d{5,})\.json")


@dataclass(frozen=True)
class Holder:
    """The process that holds or held a lease, as written under the lease's number."""

    token: str
    host: str
    user: str
    pid: int
    process: str | None
    """Identifies the process among all that ever ran on its machine; None if that is unknown."""
    since: str
    """UTC, ISO 8601, by the holder's own clock."""
    beats: int = 0
    released: bool = False

    def to_json(self) -> bytes:
        """As written to `lease/<number>.json`."""
        return json_file(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The inverse of `to_json`; unreadable data gives an unknown holder."""
        try:
            values = json.loads(data)
            return cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (ValueError, TypeError, KeyError):
            return cls("", "unknown", "unknown", 0, None, "", beats=zlib.crc32(data))

    @property
    def is_dead(self) -> bool:
        """Whether the lease is known to be free without watching: released, or the process ended.

        A process on another machine cannot be looked up, so it is not known to be dead.
        """
        return self.released or has_ended(self.process, self.pid)

    @property
    def age(self) -> str:
        """` (3 min 20 s ago)`: how long ago it began, if its clock and ours agree; else empty."""
        try:
            began = datetime.fromisoformat(self.since)
            seconds = (datetime.now(UTC) - began).total_seconds()
        except (ValueError, TypeError):  # TypeError: it names no time zone, or is no text
            return ""
        return f" ({duration(max(0.0, seconds))} ago)"

    def __str__(self) -> str:
        """`user@host, process 123, since 2026-01-02T03:04:05+00:00`."""
        if not self.token:
            return "an unknown process (an unreadable lease file)"
        return f"{self.user}@{self.host}, process {self.pid}, since {self.since}"


@dataclass(frozen=True)
class FencingToken:
    """What workers carry of a lease, to check that it is still held."""

    number: int
    token: str

    def require(self, store: Store) -> None:
        """Check that the lease is still held.

        Raises:
            LeaseLost: another process has taken over the run.
        """
        newest = _newest(store)
        if newest > self.number:
            raise LeaseLost(_loss_message(store, newest))
        # If a later writer can replace an object, two processes may hold the same number.
        if store.reads_back and _read(store, self.number).token != self.token:
            raise LeaseLost(_loss_message(store, self.number))


class Lease:
    """A lease that this process holds; a thread writes its heartbeat."""

    def __init__(
        self, store: Store, number: int, holder: Holder, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self.fence = FencingToken(number, holder.token)
        self._store, self._holder = store.with_policy(QUICK), holder
        self._heartbeat_s = heartbeat_s
        self._lost: LeaseLost | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="lease", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        """The number of the lease: how many times the run was started."""
        return self.fence.number

    @property
    def holder(self) -> Holder:
        """This process."""
        return self._holder

    @property
    def handover(self) -> "FreeLease":
        """Lets the process that replaces this one take the lease at once."""
        return FreeLease(self.number, self._holder, take_over=True)

    def require(self) -> None:
        """Check that the lease was still held at the last heartbeat.

        Raises:
            LeaseLost: another process has taken over the run.
        """
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """Release the lease, so that the next process does not have to watch it.

        A lost lease is left alone. If a heartbeat is slow to finish, the lease is not released.
        """
        self._end.set()
        self._thread.join(RELEASE_S)
        if self._lost is None and not self._thread.is_alive():
            self._store.put(_path(self.number), replace(self._holder, released=True).to_json())

    def _send_heartbeats(self) -> None:
        while not self._end.wait(self._heartbeat_s):
            try:
                self._beat()
            except LeaseLost as lost:
                self._lost = lost
                return
            except StoreError:
                continue  # the workers meet the same failure and report it

    def _beat(self) -> None:
        self.fence.require(self._store)
        self._holder = replace(self._holder, beats=self._holder.beats + 1)
        self._store.put(_path(self.number), self._holder.to_json())


@dataclass(frozen=True)
class FreeLease:
    """A lease that was found free: its number, and its last holder when that was seen."""

    number: int = 0
    holder: Holder | None = None
    take_over: bool = False
    """Whether to take the lease even if its holder is alive."""


@contextmanager
def held(store: Store, free: FreeLease = FreeLease()) -> Iterator[Lease]:
    """Hold the lease of a run directory.

    Args:
        store: the run directory.
        free: the result of `require_free`.

    Raises:
        RunHeld: another process holds the lease.
    """
    lease = acquire(store, free)
    try:
        yield lease
    finally:
        with suppress(StoreError):  # the next process then waits until the heartbeat is overdue
            lease.release()


def acquire(
    store: Store,
    free: FreeLease = FreeLease(),
    *,
    silence_s: float = SILENCE_S,
    poll_s: float = POLL_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> Lease:
    """Take the lease; `held` also releases it again."""
    while True:
        newest = _newest(store)
        if newest and not _is_unchanged(store, newest, free):
            free = require_free(store, silence_s=silence_s, poll_s=poll_s)
            newest = free.number
        holder = current_process()
        if _take(store, newest + 1, holder):
            _delete_old(store, newest)
            return Lease(store, newest + 1, holder, heartbeat_s)
        free = FreeLease()  # another process was faster; watch it like any other holder


def require_free(
    store: Store,
    take_over: bool = False,
    on_watch: Callable[[Holder], None] = lambda holder: None,
    *,
    silence_s: float = SILENCE_S,
    poll_s: float = POLL_S,
) -> FreeLease:
    """Check that the lease can be taken, without writing anything.

    Args:
        store: the run directory.
        take_over: whether to take over from a live holder.
        on_watch: called with the last holder if its heartbeat has to be watched for a while.

    Raises:
        RunHeld: another process holds the lease.
    """
    while True:
        newest = _newest(store)
        if not newest:
            return FreeLease()
        try:
            holder = _read(store, newest)
            if not take_over:
                holder = _watch(store, newest, holder, on_watch, silence_s, poll_s)
        except StoreMissing:  # deleted, because there is a newer lease
            continue
        return FreeLease(newest, holder, take_over)


def require_still_free(store: Store, free: FreeLease) -> None:
    """Check that no process has taken the lease since it was found free.

    Raises:
        RunHeld: a process has taken it, and is alive.
    """
    if _newest(store) > free.number:
        require_free(store)


def last_holder(store: Store) -> Holder | None:
    """The process that took the lease last, and may still hold it; None if there was none."""
    newest = _newest(store)
    return _read(store, newest) if newest else None


def current_process() -> Holder:
    """This process as a new holder."""
    return Holder(
        token=uuid.uuid4().hex,
        host=platform.node(),
        user=user_name(),
        pid=os.getpid(),
        process=process_mark(os.getpid()),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _take(store: Store, number: int, holder: Holder) -> bool:
    """Create a lease with this number; False if another process was faster."""
    if not store.create(_path(number), holder.to_json()):
        return False
    if store.reads_back:
        time.sleep(SETTLE_S)
    # After a slow listing, the number may already be below that of another process.
    return _newest(store) == number and _read(store, number).token == holder.token


def _is_unchanged(store: Store, number: int, free: FreeLease) -> bool:
    """Whether the newest lease is the one that was found free, with the same heartbeat."""
    if number != free.number or free.holder is None:
        return False
    holder = _read(store, number)
    if holder.token != free.holder.token:
        return False
    return free.take_over or holder.beats == free.holder.beats


def _watch(
    store: Store,
    number: int,
    first: Holder,
    on_watch: Callable[[Holder], None],
    silence_s: float,
    poll_s: float,
) -> Holder:
    """Watch a holder's heartbeat until it has been silent for long enough.

    The reads are counted, not the time that the store takes for them: a store that stalls delays
    the heartbeat, too.

    Raises:
        RunHeld: the heartbeat changes.
    """
    if first.is_dead:
        return first
    on_watch(first)
    silent_s = 0.0
    while silent_s < silence_s:
        time.sleep(poll_s)
        now = _read(store, number)
        if now.released:
            return now
        if now.beats != first.beats or now.token != first.token:
            raise RunHeld(
                f"{store.url} is held by {now}{now.age}; wait for that process, stop it, or "
                "take over from it with --take-over"
            )
        silent_s += poll_s
    return first


def _delete_old(store: Store, newest: int) -> None:
    """Delete the leases below the newest earlier one, which is kept so that numbers never fall."""
    for number in _numbers(store):
        if number < newest:
            store.delete(_path(number))


def _loss_message(store: Store, number: int) -> str:
    try:
        holder = str(_read(store, number))
    except StoreError:
        holder = f"the holder of lease {number}"
    return f"{store.url} was taken over by {holder}; this process stops, and its commits stay"


def _read(store: Store, number: int) -> Holder:
    return Holder.from_json(store.read(_path(number)))


def _newest(store: Store) -> int:
    return max(_numbers(store), default=0)


def _numbers(store: Store) -> list[int]:
    matches = (_LEASE_FILE.fullmatch(path) for path in store.list(LEASE_FOLDER))
    return [int(match.group(1)) for match in matches if match]


def _path(number: int) -> str:
    return f"{LEASE_FOLDER}/{number:05d}.json"
