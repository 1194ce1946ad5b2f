"""The caches of pictures: each is fetched and made once, memory and disk are bounded."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pytest

from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.inputs.memory_cache import MemoryCache
from nightpress.pipelines.inputs.node_cache import NodeCache, open_cache, remove_start


@dataclass(frozen=True)
class Value:
    num_bytes: int


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[NodeCache]:
    opened = NodeCache("start", tmp_path, max_bytes=1_000)
    yield opened
    opened.close()


def refuse() -> bytes:
    raise AssertionError("it must not be fetched")


def test_a_url_is_fetched_once_for_all_processes_of_a_start(
    cache: NodeCache, tmp_path: Path
) -> None:
    assert cache.get("s3://b/k", lambda: b"data") == b"data"
    assert cache.get("s3://b/k", refuse) == b"data"
    other = NodeCache("start", tmp_path)
    assert other.get("s3://b/k", refuse) == b"data"
    other.close()
    assert cache.get("s3://b/k", refuse) == b"data"


def test_processes_that_want_one_url_at_the_same_moment_wait_for_one_fetch(
    cache: NodeCache, tmp_path: Path
) -> None:
    num_fetched, ready = [], threading.Barrier(8)

    def fetch() -> bytes:
        num_fetched.append(1)
        return b"data"

    def get(number: int) -> bytes:
        ready.wait()
        return cache.get("s3://b/k", fetch)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(get, range(8))) == {b"data"}
    assert len(num_fetched) == 1


def test_another_start_fetches_again_because_the_object_may_have_changed(
    cache: NodeCache, tmp_path: Path
) -> None:
    cache.get("s3://b/k", lambda: b"old")
    other = NodeCache("later", tmp_path)
    assert other.get("s3://b/k", lambda: b"new") == b"new"
    other.close()


def test_what_a_store_refuses_is_not_kept(cache: NodeCache) -> None:
    def fail() -> bytes:
        raise StoreError("busy")

    with pytest.raises(StoreError):
        cache.get("s3://b/k", fail)
    assert cache.get("s3://b/k", lambda: b"data") == b"data"


def test_the_disk_is_bounded(cache: NodeCache, tmp_path: Path) -> None:
    for number in range(50):
        cache.get(f"s3://b/{number}", lambda: bytes(100))
    kept = [path for path in (tmp_path / "start").iterdir() if not path.name.startswith(".")]
    assert 5 <= len(kept) <= 11
    assert cache.get("s3://b/49", refuse) == bytes(100)


def use_and_die(folder: str) -> None:
    NodeCache("dead", Path(folder)).get("s3://b/k", lambda: b"data")
    os._exit(9)


def test_what_a_killed_process_leaves_is_removed_and_what_is_in_use_stays(
    cache: NodeCache, tmp_path: Path
) -> None:
    cache.get("s3://b/k", lambda: b"data")
    process = get_context("fork").Process(target=use_and_die, args=(str(tmp_path),))
    process.start()
    process.join()
    assert (tmp_path / "dead").is_dir()
    remove_start("dead", tmp_path)
    assert not (tmp_path / "dead").exists()
    NodeCache("third", tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["start"]
    assert cache.get("s3://b/k", refuse) == b"data"


def test_without_a_place_for_a_cache_every_process_fetches_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_cache("start") is None


def test_memory_holds_the_latest_values_up_to_its_size() -> None:
    cache, made = MemoryCache(100), list[str]()

    def get(key: str, num_bytes: int = 40) -> Value:
        return cache.get(key, lambda: (made.append(key), Value(num_bytes))[1])

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key)
    assert made == ["a", "b", "c", "b"]
    get("large", 101)
    get("large", 101)
    get("b")
    assert made == ["a", "b", "c", "b", "large", "large"]


def test_threads_that_want_one_value_wait_for_the_first_and_share_its_error() -> None:
    cache, entered, leave = MemoryCache(100), threading.Event(), threading.Event()
    made = []

    def make() -> Value:
        made.append(1)
        entered.set()
        leave.wait(10)
        raise StoreError("busy")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, "a", make)
        entered.wait(10)
        second = pool.submit(cache.get, "a", make)
        leave.set()
        for future in (first, second):
            with pytest.raises(StoreError):
                future.result(10)
    assert cache.get("a", lambda: Value(1)) == Value(1)
