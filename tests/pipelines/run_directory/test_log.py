"""The log of a run: lines in parts, the progress last, and what is read back of each start."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.run_directory.log import (
    RunLog,
    Start,
    cost_of,
    log_parts,
    read_log,
    read_starts,
)
from nightpress.pipelines.storage import Store

PROGRESS: dict[str, Any] = {
    "lease": 3,
    "command": "run",
    "started_at": "2027-01-15T22:00:00.000+00:00",
    "elapsed_s": 12.5,
    "num_images": 10,
    "num_done": 4,
    "num_failed": 1,
    "num_made": 4,
    "num_retries": 0,
    "num_actors_lost": 0,
    "actor_s": 20.0,
    "gpus_per_actor": 2.0,
    "cost": 1.5,
    "currency": "EUR",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def log_of(store: Store, lease: int = 3, **options: Any) -> RunLog:
    """A log that is stored only when the test says so."""
    return RunLog(store, lease, lambda: PROGRESS | {"lease": lease}, **{"flush_s": 600} | options)


def events(store: Store) -> list[str]:
    return [line["event"] for line in read_log(store)]


def test_a_thread_stores_the_lines_with_the_progress_last(store: Store) -> None:
    log = log_of(store, flush_s=0.02)
    log.add("started", {"lease": 3})
    end = time.monotonic() + 10
    while not log_parts(store) and time.monotonic() < end:
        time.sleep(0.01)
    assert events(store) == ["started", "progress"]
    (start,) = read_starts(store)  # all that is left of a process that was killed now
    assert (start.state, start.exit_code, start.num_done, start.gpu_s) == (None, None, 4, 40.0)
    log.discard()


def test_an_ended_log_has_no_progress_behind_its_end(store: Store) -> None:
    log = log_of(store)
    log.add("started", {})
    log.flush()
    log.end(PROGRESS | {"state": "stopped", "exit_code": 4, "reason": "asked to stop"})
    log.add("notified", {"ok": True})
    log.close()
    assert events(store) == ["started", "ended", "notified"]
    (start,) = read_starts(store)
    assert (start.state, start.exit_code, start.reason) == ("stopped", 4, "asked to stop")


def test_a_full_part_is_left_alone_and_the_lines_go_on_in_the_next(store: Store) -> None:
    log = log_of(store, part_bytes=200)
    for number in range(9):
        log.add("message", {"number": number, "text": "x" * 60})
        log.flush()
    log.end(PROGRESS | {"state": "finished"})
    log.close()
    paths = log_parts(store)[3]
    assert paths == [f"log/00003-{number:05d}.jsonl" for number in range(len(paths))]
    assert len(paths) > 2
    numbers = [line["number"] for line in read_log(store) if line["event"] == "message"]
    assert numbers == list(range(9))
    assert events(store)[-1] == "ended"
    for path in paths[:-1]:
        assert json.loads(store.read(path).splitlines()[-1])["event"] == "progress"


def test_lines_that_a_failing_store_did_not_take_are_stored_later(store: Store) -> None:
    blocker = Path(store.url) / "log"
    blocker.parent.mkdir()
    blocker.write_text("a file where the folder should be")
    log = log_of(store)
    log.add("started", {})
    with pytest.raises(StoreError):
        log.flush()
    blocker.unlink()
    log.add("message", {})
    log.flush()
    assert events(store) == ["started", "message", "progress"]


def test_lines_and_parts_that_are_not_whole_are_passed_over(store: Store) -> None:
    log = log_of(store)
    log.end(PROGRESS | {"state": "finished"})
    log.close()
    store.put("log/00003-00001.jsonl", b'{"event": "ended", "sta')
    store.put("log/00004-00000.jsonl", b"\xff\xfe\n[1]\n{}\n" + b"[" * 100_000)
    store.put("log/notes.txt", b"mine")
    assert [start.state for start in read_starts(store)] == ["finished"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": "last night"},
        {"time": "2027-01-15T22:00:00"},
        {"time": 5},
        {"elapsed_s": "long"},
        {"elapsed_s": -1.0},
        {"actor_s": float("nan")},
        {"cost": [1]},
        {"currency": "\x1b[31m"},
        {"num_done": None},
        {"state": "asleep"},
        {"exit_code": {}},
        {"reason": 3},
    ],
)
def test_a_line_with_values_of_other_kinds_is_passed_over(
    store: Store, wrong: dict[str, Any]
) -> None:
    line = {"time": PROGRESS["started_at"], "event": "ended"} | PROGRESS | wrong
    store.put("log/00003-00000.jsonl", json.dumps(line).encode())
    assert read_starts(store) == []


def test_every_start_counts_towards_the_cost_of_a_run(store: Store) -> None:
    for lease in (1, 2, 10):
        log = log_of(store, lease)
        log.close()
    starts = read_starts(store)
    assert [start.lease for start in starts] == [1, 2, 10]
    cost = cost_of(starts, num_images=9)
    assert cost is not None
    assert (cost.amount, cost.currency, cost.per_image) == (4.5, "EUR", 0.5)


def test_without_a_price_there_is_no_cost() -> None:
    values = PROGRESS | {"time": PROGRESS["started_at"], "cost": None, "currency": None}
    assert cost_of([Start.from_values(values)], 4) is None
    assert cost_of([], 4) is None


def test_adding_a_line_takes_microseconds(store: Store) -> None:
    log, values = log_of(store), {"shard": 12, "num_ok": 16, "num_failed": 0, "unmade": []}
    began = time.process_time()
    for _ in range(1_000):
        log.add("shard_done", values)
    each_s = (time.process_time() - began) / 1_000
    log.discard()
    assert each_s < 300e-6  # a line for each shard, which holds 16 images or more
