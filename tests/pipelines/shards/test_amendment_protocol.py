"""Retry, repair, recommit and sweep, as a state machine of starts that sleep at any moment.

Each start does one of these under its own lease. While it sleeps before any operation of the store,
another start takes the run over and does all of its own work. The older start must not undo any of
that when it wakes. Once an undisturbed start has finished, every image must be stored as its
metadata says, in a file or in a pack.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import cache, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from support.fakes.fake_runs import FakeSampler, prepare, work_on
from support.fakes.memory_store import MemoryFolder, MemoryStore, Moment
from support.slow_cases import slow_except

from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.pipelines.errors import Damaged, LeaseLost, StoreError
from nightpress.pipelines.image_files.packing import is_intact_pack
from nightpress.pipelines.run_directory.commit import (
    decode_commit,
    failed_rows,
    read_commit,
    shard_path,
)
from nightpress.pipelines.run_directory.lease import FencingToken, current_process
from nightpress.pipelines.run_directory.orphans import delete_orphans
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import Amendment

PROMPTS = ("a", "nan", "b", "nan too", "c")
JOBS = ("retry", "repair", "recommit", "sweep")
COMMIT = shard_path(0)
MOMENTS = st.integers(0, 25)


class TintedSampler(FakeSampler):
    """Makes every row, in a tint that tells whose image it is."""

    def __init__(self, tint: int) -> None:
        super().__init__()
        self.tint = tint

    def sample(self, requests: Any, params: Any, batch_size: int | None = None) -> SampledBatch:
        pixels = super().sample(requests, params, batch_size).pixels
        pixels[..., 2] = self.tint
        return SampledBatch(pixels, (None,) * len(requests))


class InlineExecutor(Executor):
    """Runs everything in the calling thread, so that a start sleeps with all of its threads."""

    def submit(self, action: Callable[..., Any], /, *args: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(action(*args, **named))
        except (StoreError, LeaseLost) as error:
            future.set_exception(error)
        return future


class Start:
    """A start, which holds the lease until the next start takes it over."""

    def __init__(self, folder: MemoryFolder, number: int, packing: str) -> None:
        self.packing = packing
        self.record, self.rows = planned(packing)
        self.folder, self.store = folder, MemoryStore(folder)
        self.fence = FencingToken(number, "mine")
        folder.objects[f"lease/{number:05d}.json"] = current_process().to_json()

    def do(self, job: str) -> None:
        """Find out what there is to do, and do it."""
        if job == "sweep":
            with suppress(Damaged):  # a damaged commit does not say what may be deleted
                delete_orphans(Run(self.store, self.record), self.fence)
            return
        amends = self.amends(job)
        if amends is None or not amends.rows:
            return
        runner = ShardRunner(
            self.store, self.record, TintedSampler(self.fence.number), "w", self.fence, threads=1
        )  # type: ignore[arg-type]
        runner._pool = InlineExecutor()  # type: ignore[assignment]
        list(runner.run(work_on(self.rows, look_first=True, amends=amends), self.rows))

    def amends(self, job: str) -> Amendment | None:
        """The rows that a job changes."""
        try:
            failed = failed_rows(self.store, 0)
        except Damaged:
            every = tuple(range(len(self.rows)))
            return Amendment(every, recommits=True) if job == "recommit" else None
        if job == "retry":
            return Amendment(failed)
        return Amendment(wrong_rows(self.folder), replaces=True) if job == "repair" else None


class Amendments(RuleBasedStateMachine):
    """Starts that amend a committed shard with failed rows."""

    packing = "none"

    @initialize()
    def make_the_shard(self) -> None:
        self.folder = MemoryFolder()
        self.folder.objects = dict(first_made(self.packing))
        self.number = 1

    def next_start(self) -> Start:
        self.number += 1
        return Start(self.folder, self.number, self.packing)

    @rule(row=st.sampled_from((0, 2, 4)), gone=st.booleans())
    def harm_an_image(self, row: int, gone: bool) -> None:
        store = MemoryStore(self.folder)
        with suppress(Damaged):
            path = read_commit(store, 0).column("file")[row].as_py()
            if gone:
                self.folder.objects.pop(path, None)
            elif path in self.folder.objects:
                self.folder.objects[path] = self.folder.objects[path][:-1]

    @rule()
    def harm_the_commit(self) -> None:
        with suppress(Damaged):
            if not wrong_rows(self.folder):
                self.folder.objects[COMMIT] = self.folder.objects[COMMIT][:-9]

    @rule(row=st.integers(0, len(PROMPTS) - 1))
    def an_upload_lands_late(self, row: int) -> None:
        """The upload of a lost worker, whose row failed."""
        late = sorted(all_images(self.packing).items())
        path, data = late[row % len(late)]
        self.folder.objects.setdefault(path, data)

    @rule()
    def somebody_leaves_a_file(self) -> None:
        self.folder.objects["images/old.png"] = b"old"

    @rule(job=st.sampled_from(JOBS), place=MOMENTS, moment=st.sampled_from(list(Moment)))
    def falter(self, job: str, place: int, moment: Moment) -> None:
        start = self.next_start()
        self.folder.failures = {place: moment}
        with suppress(StoreError):
            start.do(job)
        self.folder.failures = {}

    @rule(older=st.sampled_from(JOBS), place=MOMENTS, newer=st.sampled_from(JOBS))
    def sleep_and_be_taken_over(self, older: str, place: int, newer: str) -> None:
        taken_over(self.next_start, older, place, newer)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            finish(self.next_start)


def taken_over(next_start: Callable[[], Start], older: str, place: int, newer: str) -> bool:
    """Have a start sleep before operation `place` while another start takes over.

    When the older start has woken and ended, every row that the newer one left intact is unchanged,
    and no other row has become wrong.

    Returns:
        Whether the older start got as far as that operation.
    """
    left: dict[int, object] = {}
    wrong: set[int] = set()
    start = next_start()
    folder = start.folder

    def take_over() -> None:
        next_start().do(newer)
        left.update(sound_rows(folder))
        wrong.update(wrong_rows(folder))

    folder.meanwhile = {place: take_over}
    with suppress(LeaseLost):
        start.do(older)
    got_so_far = not folder.meanwhile
    folder.meanwhile = {}
    if got_so_far:
        assert sound_rows(folder).items() >= left.items()
        assert set(wrong_rows(folder)) <= wrong
    return got_so_far


def finish(next_start: Callable[[], Start]) -> None:
    """Run all jobs undisturbed: no row is failed, missing or changed, and no orphan is left."""
    for job in ("recommit", "repair", "retry", "sweep"):
        next_start().do(job)
    last = next_start()
    assert len(sound_rows(last.folder)) == len(PROMPTS)
    files = set(read_commit(last.store, 0).column("file").to_pylist())
    assert set(last.store.list("images")) == files
    assert last.packing != "none" or files == set(all_images("none"))


def damaged(damaged_commit: bool, packing: str) -> MemoryFolder:
    """The shard with every kind of damage."""
    folder = MemoryFolder()
    folder.objects = dict(first_made(packing))
    if packing != "none":
        return with_damaged_packs(folder, damaged_commit)
    files = sorted(all_images("none"))
    folder.objects[files[1]] = all_images("none")[files[1]]  # of a failed row
    folder.objects["images/old.png"] = b"old"
    if damaged_commit:
        folder.objects[COMMIT] = folder.objects[COMMIT][:-9]
    else:
        folder.objects[files[0]] = folder.objects[files[0]][:-1]
        del folder.objects[files[2]]
    return folder


def with_damaged_packs(folder: MemoryFolder, damaged_commit: bool) -> MemoryFolder:
    """Damage an image or the commit, and add the pack of an attempt without a commit."""
    (path,) = (path for path in folder.objects if path.startswith("images/"))
    folder.objects |= all_images("webdataset")
    row = read_commit(MemoryStore(folder), 0).to_pylist()[2]
    start, end = row["member_offset"], row["member_offset"] + row["num_bytes"]
    if damaged_commit:
        folder.objects[COMMIT] = folder.objects[COMMIT][:-9]
    else:
        data = folder.objects[path]
        folder.objects[path] = data[:start] + bytes(end - start) + data[end:]
    return folder


@pytest.mark.parametrize("packing", ["none", pytest.param("webdataset", marks=pytest.mark.slow)])
@pytest.mark.parametrize("damaged_commit", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("newer", slow_except(JOBS, JOBS[0], JOBS[-1]))
@pytest.mark.parametrize("older", slow_except(JOBS, JOBS[0], JOBS[-1]))
def test_a_start_that_slept_at_any_moment_undoes_nothing_of_the_next(
    older: str, newer: str, damaged_commit: bool, packing: str
) -> None:
    for place in itertools.count():
        folder, numbers = damaged(damaged_commit, packing), itertools.count(1)
        next_start = partial(lambda f, n: Start(f, next(n), packing), folder, numbers)
        if not taken_over(next_start, older, place, newer):
            return
        finish(next_start)


def test_a_repair_that_slept_does_not_commit_a_pack_that_was_swept() -> None:
    """The repair makes other bits, so that its pack is new and an orphan until it is committed."""
    for place in itertools.count():
        folder, numbers = MemoryFolder(), itertools.count(1)
        folder.objects = _made_by(TintedSampler(0), "webdataset")
        with_damaged_packs(folder, damaged_commit=False)
        next_start = partial(lambda f, n: Start(f, next(n), "webdataset"), folder, numbers)
        if not taken_over(next_start, "repair", place, "sweep"):
            return
        rows = read_commit(MemoryStore(folder), 0).to_pylist()
        sums = [hashlib.sha256(_image(folder, row)).hexdigest() == row["sha256"] for row in rows]
        assert sums.count(True) >= len(PROMPTS) - 1


def sound_rows(folder: MemoryFolder) -> dict[int, object]:
    """Row -> its record and image, for rows whose image is stored as the commit says."""
    return {n: (row, _image(folder, row)) for n, row in _stored(folder, sound=True)}


def wrong_rows(folder: MemoryFolder) -> tuple[int, ...]:
    """The rows whose image is not stored as the commit says."""
    return tuple(n for n, _ in _stored(folder, sound=False))


def _stored(folder: MemoryFolder, sound: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in enumerate(_rows_in(MemoryStore(folder).read(COMMIT))):
        if row["file"]:
            same = hashlib.sha256(_image(folder, row)).hexdigest() == row["sha256"]
            if (same and _is_whole(folder, row)) == sound:
                yield number, row


@lru_cache(maxsize=16)
def _rows_in(commit: bytes) -> tuple[dict[str, Any], ...]:
    """The rows of a commit, none if it is damaged; each commit is looked at many times."""
    try:
        return tuple(decode_commit(MemoryStore(MemoryFolder()), 0, commit).to_pylist())
    except Damaged:
        return ()


def _image(folder: MemoryFolder, row: dict[str, Any]) -> bytes:
    start = row["member_offset"] or 0
    return folder.objects.get(row["file"], b"")[start : start + row["num_bytes"]]


def _is_whole(folder: MemoryFolder, row: dict[str, Any]) -> bool:
    """Whether the rest of the object is intact as well."""
    data = folder.objects.get(row["file"], b"")
    if row["member"] is None:
        return len(data) == row["num_bytes"]
    return is_intact_pack(row["file"], data)


@cache
def planned(packing: str) -> tuple[RunRecord, pa.Table]:
    """The run, and the rows of its only shard."""
    with TemporaryDirectory() as folder:
        _, record, rows = prepare(Path(folder), PROMPTS, packing=packing)
    return record, rows


@cache
def first_made(packing: str) -> dict[str, bytes]:
    """The objects after the first start, in which two rows failed."""
    return _made_by(FakeSampler(), packing)


@cache
def all_images(packing: str) -> dict[str, bytes]:
    """Every image, as a start makes it in which no row fails."""
    made = _made_by(TintedSampler(0), packing)
    return {path: data for path, data in made.items() if path.startswith("images/")}


def _made_by(sampler: FakeSampler, packing: str) -> dict[str, bytes]:
    record, rows = planned(packing)
    folder = MemoryFolder()
    runner = ShardRunner(MemoryStore(folder), record, sampler, "w", threads=1)  # type: ignore[arg-type]
    list(runner.run(work_on(rows), rows))
    runner.close()
    return folder.objects


class PackedAmendments(Amendments):
    """The same with packed images."""

    packing = "webdataset"


TestAmendments = Amendments.TestCase
TestAmendments.settings = settings(max_examples=25, stateful_step_count=10, deadline=None)
TestPackedAmendments = PackedAmendments.TestCase
TestPackedAmendments.settings = settings(max_examples=20, stateful_step_count=10, deadline=None)


@pytest.mark.slow
class TestMoreAmendments(Amendments.TestCase):
    """More and longer stories."""

    settings = settings(max_examples=150, stateful_step_count=12, deadline=None)


@pytest.mark.slow
class TestMorePackedAmendments(PackedAmendments.TestCase):
    """The same with packed images."""

    settings = settings(max_examples=150, stateful_step_count=12, deadline=None)
