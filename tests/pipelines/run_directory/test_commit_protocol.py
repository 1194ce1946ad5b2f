"""The commit protocol as a state machine: workers start, stall, die and meet on a failing store.

In any order, an image, a pack or a commit that exists never changes. Once a worker can finish,
every image exists once, with the bytes that an undisturbed run gives it.
"""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.fakes.fake_runs import FakeSampler, prepare, work_on
from support.fakes.memory_store import MemoryFolder, MemoryStore, Moment

from nightpress.pipelines.errors import LeaseLost, StoreError
from nightpress.pipelines.run_directory.commit import committed_shards, read_commit
from nightpress.pipelines.run_directory.lease import FencingToken, current_process
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batching import planned_images
from nightpress.pipelines.shards.runner import ShardRunner

NUM_IMAGES = 7
WORKERS = 3


class CommitMachine(RuleBasedStateMachine):
    """Several workers on one shard, one step at a time."""

    packing = "none"

    @initialize()
    def plan(self) -> None:
        self.record, self.rows = planned(self.packing)
        self.folder = MemoryFolder()
        self.workers: dict[int, Iterator[Any]] = {}
        self.runners: list[ShardRunner] = []
        self.epoch = 1
        self.folder.objects["lease/00001.json"] = current_process().to_json()
        self.seen: dict[str, bytes] = {}
        self.attempt = 0

    def begin(self, epoch: int) -> Iterator[Any]:
        self.attempt += 1
        store = MemoryStore(self.folder)
        runner = ShardRunner(
            store, self.record, FakeSampler(), "w", FencingToken(epoch, "mine"), threads=1
        )  # type: ignore[arg-type]
        self.runners.append(runner)
        work = work_on(self.rows, attempt=self.attempt, look_first=self.attempt > 1)
        return iter(runner.run(work, self.rows))

    @rule(number=st.integers(0, WORKERS - 1))
    def start(self, number: int) -> None:
        try:
            self.workers[number] = self.begin(self.epoch)
        except StoreError:
            self.workers.pop(number, None)

    @rule(number=st.integers(0, WORKERS - 1), steps=st.integers(1, 3))
    def work(self, number: int, steps: int) -> None:
        for _ in range(steps if number in self.workers else 0):
            try:
                next(self.workers[number])
            except (StopIteration, StoreError, LeaseLost):
                del self.workers[number]
                return

    @rule(number=st.integers(0, WORKERS - 1))
    def die(self, number: int) -> None:
        self.workers.pop(number, None)

    @rule(
        failures=st.dictionaries(
            st.integers(0, 12), st.sampled_from(list(Moment)), min_size=1, max_size=3
        )
    )
    def falter(self, failures: dict[int, Moment]) -> None:
        self.folder.failures = failures

    @precondition(lambda self: self.epoch < 4)
    @rule()
    def take_over(self) -> None:
        self.epoch += 1
        self.folder.objects[f"lease/{self.epoch:05d}.json"] = current_process().to_json()

    @invariant()
    def what_is_there_never_changes(self) -> None:
        objects = getattr(self, "folder", MemoryFolder()).objects
        for path, data in list(objects.items()):
            if path.startswith(("images/", "metadata/")):
                assert self.seen.setdefault(path, data) == data, path

    def teardown(self) -> None:
        """A last worker finishes undisturbed; then no image is missing, doubled or different."""
        if not hasattr(self, "folder"):
            return
        self.folder.failures = {}
        list(self.begin(self.epoch))
        for worker in self.workers.values():  # those that were stalled wake up late
            with suppress(LeaseLost, StoreError):  # the store failed before they fell asleep
                list(worker)
        self.what_is_there_never_changes()
        store = MemoryStore(self.folder)
        assert committed_shards(store) == {0}
        part = read_commit(store, 0)
        assert set(part.column("status").to_pylist()) == {"ok"}
        files = part.column("file").to_pylist()
        assert sorted(store.list("images")) == sorted(set(files))
        assert {path: self.folder.objects[path] for path in files} == undisturbed(self.packing)
        if self.packing == "none":
            assert files == [image.file for image in planned_images(self.rows)]
        for runner in self.runners:
            runner.close()


class PackingCommitMachine(CommitMachine):
    """The same for a shard whose images are packed into one object."""

    packing = "webdataset"


@cache
def planned(packing: str) -> tuple[RunRecord, pa.Table]:
    """The run, and the rows of its only shard."""
    with TemporaryDirectory() as folder:
        prompts = [f"picture {n}" for n in range(NUM_IMAGES)]
        _, record, rows = prepare(Path(folder), prompts, packing=packing)
    return record, rows


@cache
def undisturbed(packing: str) -> dict[str, bytes]:
    """The run's images, or its pack, when nothing goes wrong."""
    record, rows = planned(packing)
    folder = MemoryFolder()
    runner = ShardRunner(MemoryStore(folder), record, FakeSampler(), "w", threads=1)  # type: ignore[arg-type]
    list(runner.run(work_on(rows), rows))
    runner.close()
    return {path: data for path, data in folder.objects.items() if path.startswith("images/")}


TestCommits = CommitMachine.TestCase
TestCommits.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestPackedCommits = PackingCommitMachine.TestCase
TestPackedCommits.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
