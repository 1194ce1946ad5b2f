"""Dispatch in rare cases: copies of stragglers, drained nodes, deadlines, second signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from click.testing import CliRunner
from support.fakes.fake_runs import finished_run
from support.fakes.fake_scorers import loaded
from support.fakes.odd_actors import (
    BATCHES_UNTIL_DRAINED,
    CopyWins,
    FactoryOf,
    ObedientActor,
    OriginalWins,
    RacingActor,
    wait_for,
)
from support.run_files import PROMPTS, files_of, hashes, read_metadata

from nightpress import jobs
from nightpress.jobs.cli import command
from nightpress.jobs.dispatch import actor_pool, timing
from nightpress.jobs.dispatch import dispatcher as dispatcher_module
from nightpress.jobs.dispatch.actor import ActorLocation, SamplerActor
from nightpress.jobs.dispatch.config import DispatchConfig
from nightpress.jobs.dispatch.dispatcher import Dispatcher
from nightpress.jobs.dispatch.shard_queue import ShardQueue
from nightpress.jobs.dispatch.workers import InFlightShard, Worker
from nightpress.jobs.errors import UNSCORED, RunStopped
from nightpress.jobs.progress.events import ActorJoined, ActorLost, Event, Message, ShardRetried
from nightpress.jobs.runs import runner
from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.commit import committed_shards, read_commit, shard_path
from nightpress.pipelines.run_directory.record import RunRecord, require_record
from nightpress.pipelines.run_directory.verify import orphan_images, verify
from nightpress.pipelines.shards.events import BatchDone, ShardDone, ShardEvent, ShardLeft
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")

BATCH_SIZE = 2


def is_whole_batches(num_images: int) -> bool:
    """Whether an actor that waits in its fourth batch, or was told to stop before, stored these."""
    batches, rest = divmod(num_images, BATCH_SIZE)
    return rest == 0 and 1 <= batches <= BATCHES_UNTIL_DRAINED


@pytest.fixture(scope="module")
def at_its_end(
    tmp_path_factory: pytest.TempPathFactory,
    make_in: Callable[[Path], MakeSpec],
    local_ray: None,
) -> tuple[RunSpec, dict[Path, bytes]]:
    """A finished run of two shards, and its files."""
    spec = make_in(tmp_path_factory.mktemp("edges"))(
        columns={"width": None, "scheduler": None},
        sampling={"width": 64, "height": 64, "num_inference_steps": 2},
        batch={"size": BATCH_SIZE, "shard_size": 11},
    )
    jobs.run(spec)
    files = {path: path.read_bytes() for path in Path(spec.url).rglob("*") if path.is_file()}
    return spec, files


@pytest.fixture
def spec(at_its_end: tuple[RunSpec, dict[Path, bytes]]) -> RunSpec:
    """The job of a finished run, whose folder is restored."""
    spec, files = at_its_end
    shutil.rmtree(spec.url)
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return spec


@pytest.fixture
def undisturbed(spec: RunSpec) -> dict[str, str]:
    """Remove the images and commits of the run, but not its plan; returns the images' hashes."""
    sums = hashes(spec)
    store = Store(spec.url)
    for name in [*store.list("images"), *store.list("metadata"), "report.html"]:
        store.delete(name)
    return sums


@pytest.fixture
def run(spec: RunSpec, undisturbed: dict[str, str]) -> tuple[Store, RunRecord]:
    """A run of two shards that is planned, with no image made."""
    store = Store(spec.url)
    return store, require_record(store)


def dispatcher_of(
    run: tuple[Store, RunRecord], *kinds: type[SamplerActor], **values: Any
) -> Dispatcher:
    store, record = run
    factory = FactoryOf(record.spec.model, {}, cpus=1, gpus=0, threads=1, kinds=list(kinds))
    values = {"min_actors": 1, "max_actors": 1, "max_attempts": 3, "look_first": False} | values
    return Dispatcher(store, record, factory, DispatchConfig(**values))


@pytest.mark.parametrize("kind", [pytest.param(OriginalWins, marks=pytest.mark.slow), CopyWins])
def test_a_straggler_is_copied_and_the_first_commit_wins(
    spec: RunSpec,
    undisturbed: dict[str, str],
    run: tuple[Store, RunRecord],
    kind: type[RacingActor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "MIN_STRAGGLER_S", 0.5)
    store, record = run
    dispatcher = dispatcher_of(run, kind, min_actors=2, max_actors=2)
    seen: list[Event] = list(dispatcher.run(range(record.layout.num_shards)))
    assert sorted(e.shard for e in seen if isinstance(e, ShardDone)) == [0, 1]
    assert not [event for event in seen if isinstance(event, ShardRetried | ActorLost)]
    before = files_of(spec)
    store.put("go", b"")  # the other one also makes the rest, and commits too late
    wait_for(store, "ended")
    dispatcher.close()
    after = files_of(spec)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if name not in before} == {"go", "ended"}
    assert set(read_commit(store, 0).column("attempts").to_pylist()) == {kind.winner}
    assert hashes(spec) == undisturbed
    assert orphan_images(open_run(spec.url)) == []


@pytest.mark.parametrize(("reads_back", "copied"), [(False, {0, 1}), (True, set())])
def test_stragglers_are_copied_unless_one_commit_could_overwrite_another(
    run: tuple[Store, RunRecord],
    monkeypatch: pytest.MonkeyPatch,
    reads_back: bool,
    copied: set[int],
) -> None:
    store, record = run
    dispatcher = dispatcher_of(
        (store.reading_back() if reads_back else store, record), SamplerActor
    )
    location = ActorLocation(node_id="here", host="here", pid=1, differences=())
    busy, *idle = (Worker(None, None, None, location=location) for _ in range(4))  # type: ignore[arg-type]
    busy.held.append(InFlightShard(ShardWork(0, 0, 11), stream=None, begun_at=0.0))
    busy.held.append(InFlightShard(ShardWork(1, 0, 10), stream=None))
    dispatcher.pool.workers = [busy, *idle]
    dispatcher._timings.of(None).add_shard(1, 0.001)
    copies: list[ShardWork] = []
    monkeypatch.setattr(dispatcher, "_assign", lambda worker, work, is_copy: copies.append(work))
    dispatcher._assign_work()
    dispatcher._assign_work()
    assert {work.shard for work in copies} == copied
    assert len(copies) == len(copied)


def test_each_device_of_the_actors_is_named_once(
    run: tuple[Store, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = dispatcher_of(run, SamplerActor).pool
    monkeypatch.setattr(ray, "get", lambda name: ActorLocation("here", "here", 1, device_name=name))
    for name in ("NVIDIA H200", "NVIDIA L4", None, "NVIDIA H200"):
        list(pool.on_started(Worker(None, name, None)))  # type: ignore[arg-type]
    assert pool.device_names == ["NVIDIA H200", "NVIDIA L4"]


def test_work_of_a_dead_process_shares_no_actor(
    run: tuple[Store, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = dispatcher_of(run, SamplerActor)
    location = ActorLocation(node_id="here", host="here", pid=1, differences=())
    dead, *workers = (Worker(None, None, None, location=location) for _ in range(3))  # type: ignore[arg-type]
    dispatcher.pool.workers = [dead, *workers]
    dispatcher._queue = ShardQueue(range(6), lambda shard: ShardWork(shard, 0, 10), max_attempts=3)
    dead.held = [InFlightShard(dispatcher._queue.take(), stream=None) for _ in range(2)]
    monkeypatch.setattr(ray, "kill", lambda handle: None)
    monkeypatch.setattr(dispatcher_module, "alive_nodes", lambda: {location.node_id})
    list(dispatcher._on_lost(dead, "it died", node_suspected=False, culprit=dead.held[0]))

    def assign(worker: Worker, work: ShardWork) -> None:
        worker.held.append(InFlightShard(work, stream=None))

    monkeypatch.setattr(dispatcher, "_assign", assign)
    held = []
    for _ in range(2):
        dispatcher._assign_work()
        held.append([[each.work.shard for each in worker.held] for worker in workers])
        workers[0].held.clear()
    assert held == [[[0], [1]], [[2, 3], [1]]]


def test_an_actor_on_a_drained_node_stores_its_batch_and_takes_no_more_work(
    spec: RunSpec,
    undisturbed: dict[str, str],
    run: tuple[Store, RunRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    going: set[str] = set()
    monkeypatch.setattr(actor_pool, "draining_nodes", lambda: going)
    num_shards = run[1].layout.num_shards
    dispatcher = dispatcher_of(run, ObedientActor, SamplerActor)
    seen: list[Event] = []
    told = False
    for event in dispatcher.run(range(num_shards)):
        if isinstance(event, BatchDone) and not told:
            told = True
            going.add(ray.get_runtime_context().get_node_id())
        if isinstance(event, ActorJoined):  # on another node, as it were
            going.clear()
        seen.append(event)
    dispatcher.close()
    assert sum(isinstance(event, ActorJoined) for event in seen) == 2
    assert not [event for event in seen if isinstance(event, ShardRetried | ActorLost)]
    assert [event.shard for event in seen if isinstance(event, ShardLeft)] == [0, 1]
    found = [row for row in read_metadata(spec).to_pylist() if row["sampling_s"] is None]
    assert is_whole_batches(len(found))
    assert hashes(spec) == undisturbed


def test_a_near_deadline_stores_the_current_batch_and_begins_no_other(
    spec: RunSpec, undisturbed: dict[str, str], run: tuple[Store, RunRecord]
) -> None:
    store, record = run
    dispatcher = dispatcher_of(run, ObedientActor)

    def bring_near(event: Event) -> None:
        if isinstance(event, BatchDone):
            deadline_at = time.time() + dispatcher._limits.config.drain_s
            dispatcher._limits.config = replace(dispatcher._limits.config, deadline_at=deadline_at)

    with pytest.raises(RunStopped, match="the deadline is near; run the same command again"):
        list(map(bring_near, dispatcher.run(range(record.layout.num_shards))))
    dispatcher.close()
    assert is_whole_batches(len(store.list("images")))
    assert committed_shards(store) == set()
    assert jobs.run(spec).num_ok == PROMPTS
    assert hashes(spec) == undisturbed


def test_a_near_deadline_leaves_a_report_of_what_is_committed(spec: RunSpec) -> None:
    store = Store(spec.url)
    (row, *_) = read_commit(store, 1).to_pylist()
    for name in (shard_path(1), row["file"], "report.html"):
        store.delete(name)
    before = files_of(spec)
    with pytest.raises(RunStopped, match="the deadline is near"):
        jobs.run(spec, deadline_at=time.time() + spec.cluster.drain_s / 2)
    after = files_of(spec)
    kept = {name for name in before if name.startswith(("images/", "metadata/"))}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert committed_shards(store) == {0}
    report = store.read("report.html").decode()
    (there, *_) = read_commit(store, 0).to_pylist()
    assert there["prompt"] in report
    assert row["prompt"] not in report


class NearItsDeadline(Dispatcher):
    """Its deadline comes near as soon as a batch is done."""

    def _on_event(self, in_flight: InFlightShard, event: ShardEvent) -> Iterator[Event]:
        yield from super()._on_event(in_flight, event)
        if isinstance(event, BatchDone):
            deadline_at = time.time() + self._limits.config.drain_s
            self._limits.config = replace(self._limits.config, deadline_at=deadline_at)


def obedient_factory(spec: RunSpec, traced: bool = False) -> FactoryOf:
    return FactoryOf(
        spec.model, {}, cpus=1, gpus=0, threads=1, traced=traced, kinds=[ObedientActor]
    )


@pytest.mark.usefixtures("undisturbed")
def test_a_run_stopped_by_a_deadline_reports_how_actors_spent_their_time_and_leaves_a_trace(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, trace = tmp_path / "job.yaml", tmp_path / "trace.json"
    job.write_text(yaml.safe_dump(spec.as_dict()))
    monkeypatch.setattr(dispatcher_module, "Dispatcher", NearItsDeadline)
    monkeypatch.setattr(runner, "actor_factory", obedient_factory)
    result = CliRunner().invoke(command, ["run", str(job), "--trace", str(trace)])
    assert result.exit_code == 4, result.output
    assert "stopped: the deadline is near" in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("actors: ")]
    told = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {name for name in told if name in line} >= {"loading the model", "busy"}


@pytest.mark.slow
def test_a_second_signal_stops_at_once_and_commits_stay(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    manifest, log = tmp_path / "hang.txt", tmp_path / "sampled"
    manifest.write_text("one\ntwo\nthree\nfour\nthis row says HANG\n")
    log.touch()
    spec = make_spec(
        manifest=str(manifest),
        batch={"size": 2, "shard_size": 2},
        cluster={"actors": 1, "drain_s": 3000.0, "watchdog_s": 3000.0},
    )
    process = start_with_trouble(tmp_path / "job.yaml", spec, log)
    try:
        end = time.monotonic() + 120
        while "ended" not in log.read_text():  # what the log says when a process hangs
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        store = Store(spec.url)
        while committed_shards(store) != {0, 1}:
            assert time.monotonic() < end
            time.sleep(0.05)
        before = files_of(spec)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        for line in process.stderr:
            if "storing the current batches" in line:
                break
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 4
    assert "stopped; committed work is kept" in said
    assert "Traceback" not in said
    after = files_of(spec)
    kept = {name for name in before if name.startswith(("images/", "metadata/"))}
    assert len(kept) == 6
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert [f for shard in verify(open_run(spec.url)) for f in shard.findings] == []


def start_with_trouble(job: Path, spec: RunSpec, log: Path) -> "subprocess.Popen[str]":
    """Start a driver with its own Ray, whose workers do what prompts tell them."""
    job.write_text(yaml.safe_dump(spec.as_dict()))
    trouble = Path(__file__).parents[2] / "chaos/trouble"
    path = os.pathsep.join(filter(None, [str(trouble), os.environ.get("PYTHONPATH", "")]))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": path, "NIGHTPRESS_CHAOS_LOG": str(log)}
    return subprocess.Popen(
        [Path(sys.executable).parent / "nightpress", "run", str(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def test_a_repair_counts_images_whose_bytes_differ_from_the_record(spec: RunSpec) -> None:
    sums = hashes(spec)
    path = Path(spec.url, shard_path(0))
    part = pq.read_table(path)
    other = "0" * 64  # as recorded on a machine with other last bits
    recorded = [other, *part.column("sha256").to_pylist()[1:]]
    place = part.schema.get_field_index("sha256")
    pq.write_table(part.set_column(place, "sha256", pa.array(recorded)), path)
    Path(spec.url, part.column("file")[0].as_py()).unlink()
    Path(spec.url, part.column("file")[1].as_py()).unlink()
    result = CliRunner().invoke(command, ["verify", spec.url, "--repair", "--json"])
    repaired = json.loads(result.stdout)["repaired"]
    assert (repaired["num_rows"], repaired["num_failed"]) == (2, 0)
    assert (repaired["num_same"], repaired["num_different"]) == (1, 1)
    assert hashes(spec) == sums
    assert CliRunner().invoke(command, ["verify", spec.url]).exit_code == 0


def test_images_that_only_the_driver_commits_are_said_to_lack_the_scores_of_scorers(
    tmp_path: Path,
) -> None:
    scorers = {"red": loaded(lambda image: {"": 1.0})}
    job = {"scores": {"red": {"scorer": "red.py:Red"}}}
    store, record = finished_run(tmp_path, ["a", "b", "c", "d"], scorers=scorers, **job)
    assert all("red" in dict(row["scores"]) for row in read_commit(store, 0).to_pylist())
    store.delete(shard_path(0))
    config = DispatchConfig(min_actors=1, max_actors=1, max_attempts=3, look_first=False)
    dispatcher = Dispatcher(store, record, None, config)  # type: ignore[arg-type]
    work = ShardWork(0, 0, 4, attempt=3)
    said = list(dispatcher._retry_or_fail(work, False, FailureType.TIMEOUT, "it hung"))
    assert said == [Message(UNSCORED.format(0, "4 images"), warning=True), ShardDone(0, 4, 0)]
    assert all("red" not in dict(row["scores"]) for row in read_commit(store, 0).to_pylist())
