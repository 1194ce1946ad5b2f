"""Rows with pictures: each fails alone, and is never made from other bytes than before."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.fakes.fake_runs import work_on
from support.fakes.web_server import web_server
from support.picture_files import png
from support.pictured_runs import (
    PictureSampler,
    begin,
    done,
    make,
    rows_of,
    sha256,
)

from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.inputs.memory_cache import MemoryCache
from nightpress.pipelines.records import InputInfo
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.shards.batch_inputs import BatchInputs
from nightpress.pipelines.shards.batching import planned_images
from nightpress.pipelines.shards.events import ShardDone, ShardLeft
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.timeline import Activity
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import Store

ROWS = [{"prompt": f"p{n}", "init_image": f"{n}.png"} for n in range(4)]


def put_pictures(folder: Path, numbers: range = range(4), seed: int = 0) -> None:
    for number in numbers:
        (folder / f"{number}.png").write_bytes(png(40, 40, seed + number))


def outcomes(store: Store, shard: int = 0) -> dict[str, str]:
    """Prompt -> `ok`, or why it failed."""
    rows = read_commit(store, shard).to_pylist()
    return {row["prompt"]: row["error_type"] or row["status"] for row in rows}


def test_rows_with_unusable_pictures_fail_alone_and_record_what_was_read(tmp_path: Path) -> None:
    put_pictures(tmp_path)
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes(b"<html></html>")
    rows = [*ROWS[:3], {"prompt": "p3", "init_image": "3.png", "mask_image": "4.png"}]
    (tmp_path / "4.png").write_bytes(png(40, 30))
    store, record = begin(tmp_path, rows)
    assert done(make(store, record)) == ShardDone(0, num_ok=1, num_failed=3)
    assert outcomes(store) == {
        "p0": "ok",
        "p1": "InputMissing",
        "p2": "InputUndecodable",
        "p3": "InputUndecodable",
    }
    found = {row["prompt"]: row for row in read_commit(store, 0).to_pylist()}
    assert found["p1"]["error"].startswith("init_image 1.png: ")
    hashes = {prompt: [each["sha256"] for each in row["inputs"]] for prompt, row in found.items()}
    assert hashes == {
        "p0": [sha256(png(40, 40, 0))],
        "p1": [None],
        "p2": [sha256(b"<html></html>")],
        "p3": [sha256(png(40, 40, 3)), sha256(png(40, 30))],
    }
    facts = read_facts(store.read(found["p0"]["file"]))
    assert facts is not None
    assert facts.inputs == (InputInfo("init_image", "0.png", hashes["p0"][0], "cover"),)


def test_an_image_that_fails_in_the_model_still_records_its_pictures(tmp_path: Path) -> None:
    put_pictures(tmp_path)
    rows = [{**ROWS[0], "prompt": "nan"}, {**ROWS[1], "prompt": "explode"}]
    store, record = begin(tmp_path, rows)
    make(store, record)
    assert outcomes(store) == {"nan": "NonFinite", "explode": "SamplingError"}
    inputs = [row["inputs"][0]["sha256"] for row in read_commit(store, 0).to_pylist()]
    assert set(inputs) == {sha256(png(40, 40, n)) for n in (0, 1)}


def test_a_picture_that_changes_between_two_starts_fails_the_rows_that_are_left(
    tmp_path: Path,
) -> None:
    rows = [{"prompt": f"p{n}", "init_image": f"{n % 2}.png"} for n in range(8)]
    put_pictures(tmp_path)
    store, record = begin(tmp_path, rows)
    make(store, record, 0)
    put_pictures(tmp_path, range(1), seed=50)
    assert done(make(store, record, 1)) == ShardDone(1, num_ok=2, num_failed=2)
    failed = [row for row in read_commit(store, 1).to_pylist() if row["status"] == "failed"]
    assert [row["inputs"][0]["url"] for row in failed] == ["0.png"] * 2
    old, new = sha256(png(40, 40, 0)), sha256(png(40, 40, 50))
    assert failed[0]["error_type"] == "InputChanged"
    assert failed[0]["error"].startswith(
        f"init_image 0.png: its bytes have changed: sha256 {new[:12]} now, {old[:12]} when it was"
    )
    put_pictures(tmp_path)
    rows_failed = tuple(
        n for n, row in enumerate(read_commit(store, 1).to_pylist()) if row["status"] == "failed"
    )
    work = work_on(rows_of(store, record, 1), 1, amends=Amendment(rows_failed), look_first=True)
    assert done(make(store, record, 1, work=work)) == ShardDone(1, num_ok=2, num_failed=0)
    assert set(outcomes(store, 1).values()) == {"ok"}


def test_a_row_that_failed_for_its_picture_is_made_once_the_picture_is_mended(
    tmp_path: Path,
) -> None:
    put_pictures(tmp_path)
    (tmp_path / "1.png").write_bytes(b"half a picture")
    store, record = begin(tmp_path, ROWS)
    make(store, record)
    put_pictures(tmp_path, range(1, 2))
    (row,) = (
        n for n, one in enumerate(read_commit(store, 0).to_pylist()) if one["status"] == "failed"
    )
    work = work_on(rows_of(store, record), amends=Amendment((row,)), look_first=True)
    assert done(make(store, record, work=work)) == ShardDone(0, num_ok=1, num_failed=0)


@pytest.mark.parametrize("harm", ["changed", "missing"])
@pytest.mark.parametrize("packing", ["none", "webdataset"])
def test_an_image_is_not_repaired_from_another_picture_and_its_record_stays(
    tmp_path: Path, packing: str, harm: str
) -> None:
    put_pictures(tmp_path)
    store, record = begin(tmp_path, ROWS, images={"packing": packing})
    make(store, record)
    before = store.read("metadata/shard-00000.parquet")
    row = next(row for row in read_commit(store, 0).to_pylist() if row["prompt"] == "p1")
    whole = store.read(row["file"])
    start = row["member_offset"] or 0
    damaged = bytearray(whole)
    damaged[start + row["num_bytes"] - 30] ^= 1
    store.put(row["file"], bytes(damaged))
    put_pictures(tmp_path, range(1, 2), seed=50)
    if harm == "missing":
        (tmp_path / "1.png").unlink()
    number = [each["prompt"] for each in read_commit(store, 0).to_pylist()].index("p1")
    amends = Amendment((number,) if packing == "none" else (0, 1, 2, 3), replaces=True)
    work = work_on(rows_of(store, record), amends=amends, look_first=True)
    ended = done(make(store, record, work=work))
    assert ended.num_failed == 1
    assert ended.num_ok == len(amends.rows) - 1
    (error,) = ended.unmade
    assert ("have changed" if harm == "changed" else "not found") in error
    assert store.read(row["file"]) == bytes(damaged)
    now = next(row for row in read_commit(store, 0).to_pylist() if row["prompt"] == "p1")
    assert now == row
    if packing == "none":
        assert store.read("metadata/shard-00000.parquet") == before
    put_pictures(tmp_path)
    assert done(make(store, record, work=work)).unmade == ()
    mended = next(row for row in read_commit(store, 0).to_pylist() if row["prompt"] == "p1")
    assert mended["sha256"] == row["sha256"]
    assert mended["status"] == "ok"


def test_stored_images_without_a_commit_count_as_used_in_their_shard(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "init_image": "0.png"} for n in range(4)]
    put_pictures(tmp_path)
    store, record = begin(tmp_path, rows)
    make(store, record)
    store.delete("metadata/shard-00000.parquet")
    kept = planned_images(rows_of(store, record))[0].file
    for image in planned_images(rows_of(store, record))[1:]:
        store.delete(image.file)
    put_pictures(tmp_path, range(1), seed=50)
    assert done(make(store, record)) == ShardDone(0, num_ok=1, num_failed=3)
    part = {row["file"]: row for row in read_commit(store, 0).to_pylist()}
    assert part[kept]["inputs"][0]["sha256"] == sha256(png(40, 40, 0))
    assert sorted(outcomes(store).values()) == ["InputChanged"] * 3 + ["ok"]


@pytest.mark.parametrize("format_", ["png", "webp", "jpeg"])
def test_stored_images_without_a_commit_count_as_used_in_other_shards_too(
    tmp_path: Path, format_: str
) -> None:
    rows = [{"prompt": f"p{n}", "init_image": "0.png"} for n in range(8)]
    put_pictures(tmp_path)
    store, record = begin(tmp_path, rows, images={"format": format_})
    make(store, record)
    store.delete("metadata/shard-00000.parquet")
    put_pictures(tmp_path, range(1), seed=50)
    assert done(make(store, record, 1)) == ShardDone(1, num_ok=0, num_failed=4)
    assert set(outcomes(store, 1).values()) == {"InputChanged"}


def test_waiting_for_pictures_counts_as_waiting_for_input_and_they_come_a_batch_ahead(
    tmp_path: Path,
) -> None:
    files = {f"{kind}{n}.png": png(40, 40, n) for kind in ("", "held/") for n in range(4)}
    with web_server(files) as web:
        urls = [f"{web.url}/held/0.png", *(f"{web.url}/{n}.png" for n in range(1, 4))]
        rows = [{"prompt": f"p{n}", "init_image": url} for n, url in enumerate(urls)]
        store, record = begin(tmp_path, rows)

        class Watched(PictureSampler):
            def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
                if not self.batches:
                    end = time.monotonic() + 10
                    while sum(web.hits.values()) < 4 and time.monotonic() < end:
                        time.sleep(0.01)
                    assert sum(web.hits.values()) == 4
                return super().sample(requests, params, batch_size)

        runner = ShardRunner(store, record, Watched(), "here:1")  # type: ignore[arg-type]
        threading.Timer(0.6, web.held.set).start()
        rows_ = rows_of(store, record)
        assert done(list(runner.run(work_on(rows_), rows_))).num_ok == 4
        runner.close()
    assert runner.timeline.spent().seconds[Activity.INPUT] > 0.3


def test_the_pictures_of_the_next_batch_are_joined_in_another_thread_while_one_is_sampled(
    tmp_path: Path,
) -> None:
    put_pictures(tmp_path)
    store, record = begin(tmp_path, ROWS)
    joined, threads = threading.Event(), []

    class Watched(PictureSampler):
        def join_pictures(self, requests, params, batch_size):  # type: ignore[no-untyped-def]
            assert all(each.images.init_image is not None for each in requests)
            threads.append(threading.current_thread())
            joined.set()

        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            assert self.batches or joined.wait(20)
            return super().sample(requests, params, batch_size)

    runner = ShardRunner(store, record, Watched(), "here:1")  # type: ignore[arg-type]
    rows = rows_of(store, record)
    assert done(list(runner.run(work_on(rows), rows))).num_failed == 0
    runner.close()
    assert threads[0].name.startswith("inputs")


def test_a_drained_process_stops_waiting_for_pictures_and_keeps_none(tmp_path: Path) -> None:
    with web_server({"held/0.png": png(40, 40)}) as web:
        rows = [{"prompt": f"p{n}", "init_image": f"{web.url}/held/0.png"} for n in range(4)]
        store, record = begin(tmp_path, rows)
        runner = ShardRunner(store, record, PictureSampler(), "here:1")  # type: ignore[arg-type]
        threading.Timer(0.3, runner.drain).start()
        rows_, clock = rows_of(store, record), time.monotonic()
        events = list(runner.run(work_on(rows_), rows_))
        assert events[-1] == ShardLeft(0)
        assert len(runner._inputs._loader) == 0
        runner.close()
        assert time.monotonic() - clock < 10


def test_what_was_prepared_ahead_is_dropped_when_a_process_is_drained(tmp_path: Path) -> None:
    put_pictures(tmp_path)
    store, record = begin(tmp_path, ROWS)

    class Drained(PictureSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            assert len(runner._inputs._loader) == 2
            runner.drain()
            return super().sample(requests, params, batch_size)

    runner = ShardRunner(store, record, Drained(), "here:1")  # type: ignore[arg-type]
    rows = rows_of(store, record)
    assert list(runner.run(work_on(rows), rows))[-1] == ShardLeft(0)
    assert len(runner._inputs._loader) == 0
    runner.close()


def test_pictures_leave_memory_with_their_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pictures(tmp_path)
    monkeypatch.setattr(MemoryCache, "_keep", lambda self, key, value: None)
    store, record = begin(tmp_path, ROWS)
    alive: list[weakref.ref[np.ndarray]] = []

    class Watched(PictureSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            gc.collect()
            assert not any(each() is not None for each in alive)
            alive.extend(weakref.ref(request.images.init_image) for request in requests)
            made = super().sample(requests, params, batch_size)
            self.requests.clear()
            return made

    runner = ShardRunner(store, record, Watched(), "here:1")  # type: ignore[arg-type]
    rows = rows_of(store, record)
    assert done(list(runner.run(work_on(rows), rows))).num_ok == 4
    gc.collect()
    assert len(alive) == 4
    assert not any(each() is not None for each in alive)
    runner.close()


def test_a_store_that_keeps_failing_fails_the_shard_and_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pictures(tmp_path)
    store, record = begin(tmp_path, ROWS)

    def fail(*arguments: object) -> bytes:
        raise StoreError("the store keeps failing")

    monkeypatch.setattr("nightpress.pipelines.inputs.reading.read_limited", fail)
    with pytest.raises(StoreError, match="keeps failing"):
        make(store, record)
    assert store.list("metadata") == {}


def test_the_pictures_of_the_next_shards_first_batch_come_while_this_one_is_sampled(
    tmp_path: Path,
) -> None:
    put_pictures(tmp_path, range(8))
    store, record = begin(
        tmp_path, [{"prompt": f"p{n}", "init_image": f"{n}.png"} for n in range(8)]
    )
    both, prefetched = threading.Event(), threading.Event()

    class Watched(PictureSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            if not self.batches:
                both.set()
                assert prefetched.wait(20)
            return super().sample(requests, params, batch_size)

    runner = ShardRunner(store, record, Watched(), "here:1")  # type: ignore[arg-type]
    original, shards = runner._inputs.prefetch, set[int]()

    def prefetch(images, history):  # type: ignore[no-untyped-def]
        shards.update(image.shard for image in images)
        original(images, history)
        if shards == {0, 1}:
            prefetched.set()

    runner._inputs.prefetch = prefetch  # type: ignore[method-assign]
    parts = [rows_of(store, record, shard) for shard in (0, 1)]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(lambda: list(runner.run(work_on(parts[0]), parts[0])))
        assert both.wait(20)
        second = threads.submit(lambda: list(runner.run(work_on(parts[1], 1), parts[1])))
        assert done(first.result(30)).num_ok == 4
        assert done(second.result(30)).num_ok == 4
    runner.close()


def test_rows_without_pictures_open_no_cache_and_start_no_thread(tmp_path: Path) -> None:
    store, record = begin(tmp_path, [{"prompt": "p"}])
    inputs = BatchInputs(record.spec, store.url)
    images = planned_images(rows_of(store, record))
    inputs.prefetch(images)
    assert inputs.are_ready(images)
    taken = inputs.take(images)
    assert taken is not None
    assert taken.prepared == {}
    assert taken.failed == []
    inputs.close()
