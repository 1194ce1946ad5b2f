"""The lease: one live driver a run directory.

Whoever starts creates the next number in `lease/`; the highest number holds the run. Numbers only
grow, so they are a fence: an older holder finds a higher one and stops, and its workers commit
nothing more. Whether a holder lives is seen by watching its heartbeat change, so no two clocks are
ever compared. Knows nothing of what is done under the lease.
"""

import getpass
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
from pathlib import Path
from typing import Self

from nightpress.pipelines.errors import LeaseLost, RunHeld, StoreError, StoreMissing
from nightpress.pipelines.formatting import duration
from nightpress.pipelines.storage import QUICK, Store

LEASE_FOLDER = "lease"

BEAT_S = 5.0
"""Between two heartbeats."""

SILENCE_S = 30.0
"""A holder whose heartbeat stands still while we watch for so long is dead."""

LOOK_S = 1.0
"""Between two looks at another's heartbeat."""

RELEASE_S = 6.0
"""How long letting go may wait for a heartbeat that is under way."""

SETTLE_S = 2.0
"""How long a claim must stand on a store where a later one replaces it."""

_CLAIM_FILE = re.compile(r"lease/(\d{5,})\.json")


@dataclass(frozen=True)
class Claim:
    """What one holder writes of itself, under its number."""

    token: str
    host: str
    user: str
    pid: int
    process: str | None
    """The process among all that ever ran on its machine; None where that cannot be told."""
    since: str
    """UTC, ISO 8601, by the holder's own clock."""
    beats: int = 0
    released: bool = False

    def to_json(self) -> bytes:
        """As written to `lease/<number>.json`."""
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The inverse of `to_json`; of what is no claim, one that says nothing but that."""
        try:
            values = json.loads(data)
            return cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (ValueError, TypeError, KeyError):
            unknown = "an unreadable lease"
            return cls("", unknown, "unknown", 0, None, unknown, beats=zlib.crc32(data))

    @property
    def is_dead(self) -> bool:
        """Whether it is known at once that nobody holds it: let go, or a process that is gone."""
        return self.released or _is_gone(self.process, self.pid)

    @property
    def age(self) -> str:
        """How long ago it began, if its clock and ours agree."""
        try:
            began = datetime.fromisoformat(self.since)
        except ValueError:
            return "an unknown time"
        return duration(max(0.0, (datetime.now(UTC) - began).total_seconds()))

    def __str__(self) -> str:
        """`user@host, process 123, begun 2026-01-02T03:04:05+00:00`."""
        return f"{self.user}@{self.host}, process {self.pid}, begun {self.since}"


@dataclass(frozen=True)
class FencingToken:
    """A lease as workers carry it."""

    number: int
    token: str

    def require(self, store: Store) -> None:
        """Look whether the lease still stands.

        Raises:
            LeaseLost: another start holds the run.
        """
        newest = _newest(store)
        if newest > self.number:
            raise LeaseLost(_lost_to(store, newest))
        # Where a later claim replaces an earlier one, two may believe in the same number.
        if store.reads_back and _read(store, self.number).token != self.token:
            raise LeaseLost(_lost_to(store, self.number))


class Lease:
    """A lease that is held, and kept by a heartbeat of its own thread."""

    def __init__(self, store: Store, number: int, claim: Claim, beat_s: float = BEAT_S) -> None:
        self.fence = FencingToken(number, claim.token)
        self._store, self._claim = store.with_policy(QUICK), claim
        self._beat_s = beat_s
        self._lost: LeaseLost | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        """How many times the run was started."""
        return self.fence.number

    @property
    def again(self) -> "Free":
        """How the same start takes it once more, for a process that replaces this one."""
        return Free(self.number, self._claim, take_over=True)

    def require(self) -> None:
        """Go on only while it is held, by what the last heartbeat found.

        Raises:
            LeaseLost: another start has taken the run over.
        """
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """Let go, so that the next start need not watch; a lost lease is left alone.

        It is a courtesy, for which nobody waits long.
        """
        self._end.set()
        self._thread.join(RELEASE_S)
        if self._lost is None and not self._thread.is_alive():
            self._store.put(_path(self.number), replace(self._claim, released=True).to_json())

    def _keep(self) -> None:
        while not self._end.wait(self._beat_s):
            try:
                self._beat()
            except LeaseLost as lost:
                self._lost = lost
                return
            except StoreError:
                continue  # the store is what all work waits for too; it says so itself

    def _beat(self) -> None:
        self.fence.require(self._store)
        self._claim = replace(self._claim, beats=self._claim.beats + 1)
        self._store.put(_path(self.number), self._claim.to_json())


@dataclass(frozen=True)
class Free:
    """A lease that was found to be nobody's: the last claim, and what it looked like."""

    number: int = 0
    claim: Claim | None = None
    take_over: bool = False
    """Whether it is taken even if its holder lives."""


@contextmanager
def held(store: Store, free: Free = Free()) -> Iterator[Lease]:
    """Hold the lease of a run directory.

    Args:
        store: the run directory.
        free: what `require_free` has found.

    Raises:
        RunHeld: somebody else holds it.
    """
    lease = acquire(store, free)
    try:
        yield lease
    finally:
        with suppress(StoreError):  # who comes next then sees that it is silent
            lease.release()


def acquire(
    store: Store,
    free: Free = Free(),
    *,
    silence_s: float = SILENCE_S,
    look_s: float = LOOK_S,
    beat_s: float = BEAT_S,
) -> Lease:
    """Take the lease; see `held`, which lets it go again."""
    while True:
        newest = _newest(store)
        if newest and not _is_still(store, newest, free):
            free = require_free(store, silence_s=silence_s, look_s=look_s)
            newest = free.number
        claim = new_claim()
        if _claim(store, newest + 1, claim):
            _forget(store, newest)
            return Lease(store, newest + 1, claim, beat_s)
        free = Free()  # whoever was faster is watched like any other


def require_free(
    store: Store,
    take_over: bool = False,
    on_watch: Callable[[Claim], None] = lambda claim: None,
    *,
    silence_s: float = SILENCE_S,
    look_s: float = LOOK_S,
) -> Free:
    """See whether the lease can be taken, and write nothing.

    Args:
        store: the run directory.
        take_over: whether a holder that lives may be pushed aside.
        on_watch: called with the claim of an earlier holder that must be watched for a while.

    Raises:
        RunHeld: somebody else holds it.
    """
    while True:
        newest = _newest(store)
        if not newest:
            return Free()
        try:
            claim = _read(store, newest)
            if not take_over:
                claim = _dead(store, newest, claim, on_watch, silence_s, look_s)
        except StoreMissing:  # it was swept away because there is a newer one
            continue
        return Free(newest, claim, take_over)


def require_nobody_since(store: Store, free: Free) -> None:
    """See whether somebody has taken the lease since it was found free.

    Raises:
        RunHeld: somebody has, and lives.
    """
    if _newest(store) > free.number:
        require_free(store)


def holder(store: Store) -> Claim | None:
    """Who held the run last, and may do so still; None if nobody ever did."""
    newest = _newest(store)
    return _read(store, newest) if newest else None


def new_claim() -> Claim:
    """A claim of this process."""
    return Claim(
        token=uuid.uuid4().hex,
        host=platform.node(),
        user=_user(),
        pid=os.getpid(),
        process=_process_mark(os.getpid()),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _claim(store: Store, number: int, claim: Claim) -> bool:
    """Write the claim under its number; False if another start was faster."""
    if not store.create(_path(number), claim.to_json()):
        return False
    if store.reads_back:
        time.sleep(SETTLE_S)
    # A start that was slow to list may have taken a number that others have passed by now.
    return _newest(store) == number and _read(store, number).token == claim.token


def _is_still(store: Store, number: int, free: Free) -> bool:
    """Whether the last claim is the one that was found free, and has not moved since."""
    if number != free.number or free.claim is None:
        return False
    claim = _read(store, number)
    return claim.token == free.claim.token and (free.take_over or claim.beats == free.claim.beats)


def _dead(
    store: Store,
    number: int,
    first: Claim,
    on_watch: Callable[[Claim], None],
    silence_s: float,
    look_s: float,
) -> Claim:
    """Watch a holder's heartbeat until it moves or has been still for long enough.

    Looks count, not the time that a store takes to answer them: one that stalls holds up the
    heartbeat too.

    Raises:
        RunHeld: it moves.
    """
    if first.is_dead:
        return first
    on_watch(first)
    silent_s = 0.0
    while silent_s < silence_s:
        time.sleep(look_s)
        now = _read(store, number)
        if now.released:
            return now
        if now.beats != first.beats or now.token != first.token:
            raise RunHeld(
                f"{store.url} is being worked on by {now}, {now.age} ago; wait for it, stop it, or "
                "push it aside with --take-over"
            )
        silent_s += look_s
    return first


def _forget(store: Store, newest: int) -> None:
    """Remove the claims below the newest before ours: numbers need only never come down."""
    for number in _numbers(store):
        if number < newest:
            store.delete(_path(number))


def _lost_to(store: Store, number: int) -> str:
    try:
        who = str(_read(store, number))
    except StoreError:
        who = f"start {number}"
    return f"{store.url} was taken over by {who}; this start stops, what is committed stays"


def _read(store: Store, number: int) -> Claim:
    return Claim.from_json(store.read(_path(number)))


def _newest(store: Store) -> int:
    return max(_numbers(store), default=0)


def _numbers(store: Store) -> list[int]:
    found = (_CLAIM_FILE.fullmatch(name) for name in store.list(LEASE_FOLDER))
    return [int(match.group(1)) for match in found if match]


def _path(number: int) -> str:
    return f"{LEASE_FOLDER}/{number:05d}.json"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())


def _machine() -> str | None:
    """This boot of this machine, and the process numbers that are seen from here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _process_mark(pid: int) -> str | None:
    """A process by machine and start time; None if there is none, or no way to tell."""
    machine = _machine()
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    started = facts.rpartition(")")[2].split()[19]
    return f"{machine} {started}" if machine else None


def _is_gone(process: str | None, pid: int) -> bool:
    """Whether a process of this very machine has ended; of others that cannot be told."""
    machine = _machine()
    if process is None or machine is None or not process.startswith(machine):
        return False
    return _process_mark(pid) != process
