"""`Store` on a local folder and on a real S3 server, with the same tests for both."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from botocore.exceptions import ClientError
from support.servers import Folder, Server

from nightpress.pipelines.errors import StoreError, StoreMissing
from nightpress.pipelines.storage import Store, listing
from nightpress.pipelines.storage.local import PARTIAL_FOLDER, STALE_S


@pytest.fixture
def store(run_url: Folder) -> Store:
    return Store(f"{run_url.url}/run", run_url.options)


def race(store: Store, path: str, writers: int = 16) -> list[bytes]:
    """Let writers create one name at the same time; returns the bytes of those that succeeded."""
    together = threading.Barrier(writers)

    def write(number: int) -> bytes | None:
        data = f"writer {number}".encode() * 1000
        together.wait()
        return data if store.create(path, data) else None

    with ThreadPoolExecutor(writers) as pool:
        return [data for data in pool.map(write, range(writers)) if data is not None]


def test_a_created_object_is_read_back(store: Store) -> None:
    data = os.urandom(100_000)
    assert store.create("images/ä b/cat 01.png", data)
    assert store.read("images/ä b/cat 01.png") == data
    assert store.size("images/ä b/cat 01.png") == len(data)


def test_a_range_of_an_object_is_read(store: Store) -> None:
    data = os.urandom(100_000)
    store.create("images/pack.tar", data)
    assert store.read_part("images/pack.tar", 0, 10) == data[:10]
    assert store.read_part("images/pack.tar", 70_001, 512) == data[70_001:70_513]
    assert store.read_part("images/pack.tar", 99_990, 512) == data[99_990:]
    assert store.read_part("images/pack.tar", 100_000, 512) == b""
    assert store.read_part("images/pack.tar", 200_000, 512) == b""
    with pytest.raises(StoreMissing, match=r"images/nothing.tar: not found"):
        store.read_part("images/nothing.tar", 0, 10)


def test_present_returns_the_paths_that_exist(store: Store) -> None:
    there = [f"images/{n:04d}.png" for n in range(0, 40, 2)] + ["images/ä.png", "images/z/1.png"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: store.create(path, b"1"), there))
    every = [f"images/{n:04d}.png" for n in range(40)]
    assert store.present(every) == set(every[::2])
    assert store.present(["images/ä.png", "images/ö.png", "images/z/1.png"]) == {
        "images/ä.png",
        "images/z/1.png",
    }
    assert store.present([]) == set()
    assert store.present(["nowhere/1.png"]) == set()


def test_paths_that_no_page_covers_are_checked_singly(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PATHS_PER_PAGE", 2)
    monkeypatch.setattr(listing, "PAGE_NAMES", 1)
    store.create("images/b.png", b"1")
    assert store.present(["images/a.png", "images/b.png"]) == {"images/b.png"}


def test_folders_right_below_are_named_and_opened(store: Store) -> None:
    assert store.folders() == []
    for path in ("top.json", "a [1]/run.json", "a [1]/deep/x", "b/run.json", "ä b/c/d"):
        store.put(path, path.encode())
    assert store.folders() == ["a [1]", "b", "ä b"]
    inner = store.folder("a [1]")
    assert (inner.url, inner.folders()) == (f"{store.url}/a [1]", ["deep"])
    assert list(inner.list()) == ["deep/x", "run.json"]
    copied = pickle.loads(pickle.dumps(inner.folder("deep")))
    assert copied.read("x") == b"a [1]/deep/x"
    assert inner.create("new", b"1")
    assert store.read("a [1]/new") == b"1"


def test_a_name_is_created_once(store: Store) -> None:
    assert store.create("metadata/part", b"first")
    assert not store.create("metadata/part", b"second")
    assert not store.create("metadata/part", b"first")
    assert store.read("metadata/part") == b"first"


def test_put_replaces_an_object(store: Store) -> None:
    store.put("report.html", b"old and longer")
    store.put("report.html", b"new")
    assert store.read("report.html") == b"new"


def test_replace_replaces_only_the_bytes_that_were_seen(store: Store) -> None:
    store.create("metadata/part", b"first")
    assert store.replace("metadata/part", b"second", seen=b"first")
    assert store.read("metadata/part") == b"second"
    assert not store.replace("metadata/part", b"third", seen=b"first")
    assert store.read("metadata/part") == b"second"
    with pytest.raises(StoreMissing):
        store.replace("metadata/none", b"second", seen=b"first")
    assert list(store.list()) == ["metadata/part"]


def test_of_many_concurrent_replacements_one_succeeds(store: Store) -> None:
    store.create("part", b"seen by all")
    together = threading.Barrier(12)

    def write(number: int) -> bytes | None:
        data = f"writer {number}".encode() * 1000
        together.wait()
        return data if store.replace("part", data, seen=b"seen by all") else None

    with ThreadPoolExecutor(12) as pool:
        winners = [data for data in pool.map(write, range(12)) if data is not None]
    assert winners == [store.read("part")]


def test_a_stale_replacement_does_nothing(bucket: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(bucket.url, bucket.options)
    store.create("part", b"seen")
    folder: Any = store._folder
    look = folder._if_unchanged

    def look_and_sleep(driver: Any, key: str) -> dict[str, Any]:
        condition: dict[str, Any] = look(driver, key)
        monkeypatch.setattr(driver, "cat_file", lambda key, **options: slept(driver, key))
        return condition

    def slept(driver: Any, key: str) -> bytes:
        monkeypatch.undo()
        Store(bucket.url, bucket.options).put("part", b"the next holder's")
        return b"seen"

    monkeypatch.setattr(folder, "_if_unchanged", look_and_sleep)
    assert not store.replace("part", b"late", seen=b"seen")
    assert store.read("part") == b"the next holder's"


def test_of_many_concurrent_creations_one_wins_and_its_bytes_stay(store: Store) -> None:
    winners = race(store, "images/one.png")
    assert winners == [store.read("images/one.png")]


def test_a_missing_object_has_no_size_and_cannot_be_read(store: Store) -> None:
    assert store.size("images/none.png") is None
    with pytest.raises(StoreMissing, match=r"run/images/none\.png: not found$"):
        store.read("images/none.png")


def test_a_folder_is_not_an_object(store: Store) -> None:
    store.create("images/a.png", b"1")
    assert store.size("images") is None


def test_deleting_twice_is_fine(store: Store) -> None:
    store.create("a", b"1")
    store.delete("a")
    store.delete("a")
    assert store.list() == {}
    assert store.create("a", b"2")


def test_a_listing_is_recursive_sorted_and_limited_to_its_folder(store: Store) -> None:
    for path in ("images/b/2.png", "images/a.png", "images2/c.png", "run.json"):
        store.create(path, path.encode())
    assert list(store.list("images").items()) == [("images/a.png", 12), ("images/b/2.png", 14)]
    assert list(store.list()) == ["images/a.png", "images/b/2.png", "images2/c.png", "run.json"]
    assert store.list("plan") == {}


def test_a_listing_shows_what_another_process_has_just_written(store: Store) -> None:
    other = pickle.loads(pickle.dumps(store))
    assert store.list("images") == {}
    assert store.size("images/a.png") is None
    other.create("images/a.png", b"12345")
    assert store.list("images") == {"images/a.png": 5}
    assert store.size("images/a.png") == 5
    other.delete("images/a.png")
    assert store.list("images") == {}


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_used_store_works_in_another_process(store: Store, method: str) -> None:
    store.create("here", b"1")
    process: Any = multiprocessing.get_context(method).Process(
        target=store.create, args=("there", b"22")
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert store.list() == {"here": 1, "there": 2}


def test_a_check_leaves_nothing_behind(store: Store) -> None:
    store.check()
    assert store.list() == {}
    if os.path.isabs(store.url):
        assert not Path(store.url).exists()


def test_a_real_store_honours_create_only_and_replace_if_same(store: Store) -> None:
    assert store.honours_create_only()
    assert store.honours_if_match()
    assert store.list() == {}


def test_moto_honours_create_only(moto_s3: Server) -> None:
    folder = moto_s3.folder()
    assert Store(folder.url, folder.options).honours_create_only()


def test_a_store_that_ignores_the_condition_is_recognised(rclone_s3: Server) -> None:
    folder = rclone_s3.folder()
    store = Store(f"{folder.url}/run", folder.options)
    assert not store.honours_create_only()
    assert not store.honours_if_match()
    assert store.list() == {}


def test_a_store_that_fails_on_the_condition_does_not_honour_it(
    moto_s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = s3fs.S3FileSystem._pipe_file

    async def pipe_file(self: object, path: str, data: bytes, **arguments: object) -> None:
        if "IfMatch" in arguments:
            status = {"HTTPStatusCode": 501}
            answer = {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": status}
            raise ClientError(answer, "PutObject")
        await put(self, path, data, **arguments)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", pipe_file)
    folder = moto_s3.folder()
    store = Store(f"{folder.url}/run", folder.options)
    with pytest.raises(StoreError, match="NotImplemented"):
        store.honours_if_match()
    assert store.list() == {}


def test_reading_back_creates_a_name_once_where_the_store_does_not(rclone_s3: Server) -> None:
    folder = rclone_s3.folder()
    store = Store(f"{folder.url}/run", folder.options).reading_back()
    assert store.honours_create_only()
    assert store.create("images/a.png", b"first")
    assert not store.create("images/a.png", b"second")
    assert store.read("images/a.png") == b"first"
    again = pickle.loads(pickle.dumps(store))
    assert not again.create("images/a.png", b"third")


def test_reading_back_replaces_only_seen_bytes_where_the_store_does_not(
    rclone_s3: Server,
) -> None:
    folder = rclone_s3.folder()
    store = Store(f"{folder.url}/run", folder.options).reading_back()
    store.create("part", b"first")
    assert store.replace("part", b"second", seen=b"first")
    assert not store.replace("part", b"third", seen=b"first")
    assert store.read("part") == b"second"


def test_reading_back_notices_an_intervening_writer(store: Store) -> None:
    """A second store plays the other writer, right after each `put`."""
    behind = type(store)(store.url, store.options)

    class Interfered(Store):
        def put_between(self) -> None:
            plain = self._folder.put

            def put(path: str, data: bytes) -> None:
                plain(path, data)
                behind.put(path, b"other")

            self._folder.put = put  # type: ignore[method-assign]

    mine = Interfered(store.url, store.options, reads_back=True)
    mine.put_between()
    assert not mine.create("name", b"mine")
    assert store.read("name") == b"other"


@pytest.mark.parametrize("path", ["../other/run.json", "/etc/passwd", "images/../../x", ""])
def test_no_path_leaves_the_run_directory(store: Store, path: str) -> None:
    with pytest.raises(StoreError, match="is not a path inside this folder"):
        store.create(path, b"1")


def test_pyarrow_reads_where_the_store_wrote(store: Store) -> None:
    table = pa.table({"id": [1, 2, 3]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.create("metadata/part.parquet", sink.getvalue().to_pybytes())
    filesystem, root = store.arrow()
    assert pq.read_table(f"{root}/metadata/part.parquet", filesystem=filesystem) == table


def test_multipart_objects_are_created_once_too(bucket: Folder) -> None:
    store = Store(bucket.url, bucket.options)
    data = os.urandom(2**20) * 101  # s3fs sends 100 MiB and more in parts
    assert store.create("weights", data)
    assert not store.create("weights", b"short")
    assert not store.create("weights", data)
    assert store.size("weights") == len(data)


def test_the_media_type_is_stored_with_an_object(seaweed: Server, bucket: Folder) -> None:
    store = Store(bucket.url, bucket.options)
    store.create("images/a.png", b"1")
    store.put("report.html", b"<p>")
    types = [seaweed.driver().info(f"{store.url}/{name}")["ContentType"] for name in store.list()]
    assert types == ["image/png", "text/html; charset=utf-8"]


def test_a_local_store_is_the_same_folder_from_any_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("out/run")
    monkeypatch.chdir("/")
    store.create("a", b"1")
    assert (tmp_path / "out" / "run" / "a").read_bytes() == b"1"
    assert Store(f"file://{tmp_path}/out/run/").list() == {"a": 1}


def test_memory_is_a_store(request: pytest.FixtureRequest) -> None:
    store = Store(f"memory://{request.node.name}/run")
    store.check()
    assert store.create("a/b", b"1")
    assert not store.create("a/b", b"2")
    assert store.list() == {"a/b": 1}


def test_without_hard_links_one_creation_still_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    store = Store(str(tmp_path))
    assert race(store, "images/one.png") == [store.read("images/one.png")]
    assert list(store.list()) == ["images/one.png"]


def test_a_process_killed_before_linking_leaves_the_name_free(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from nightpress.pipelines.storage import Store\n"
        "os.link = lambda *_: (print('written', flush=True), time.sleep(60))\n"
        "Store(sys.argv[1]).create('images/a.png', bytes(10_000_000))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    store = Store(str(tmp_path))
    assert len(list((tmp_path / PARTIAL_FOLDER).iterdir())) == 1
    assert store.list() == {}
    assert store.create("images/a.png", b"whole")
    assert store.read("images/a.png") == b"whole"


def test_no_partial_file_remains_after_a_call(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("a", b"1")
    store.create("a", b"2")
    store.put("a", b"3")
    assert list((tmp_path / PARTIAL_FOLDER).iterdir()) == []


def test_a_folder_is_tidied_while_others_write_into_it(tmp_path: Path) -> None:
    store, folder = Store(str(tmp_path)), tmp_path / ".partial"
    store.tidy()
    store.put("a", b"1")
    store.tidy()
    assert not folder.exists()
    folder.mkdir()
    (folder / "half").write_bytes(b"of another process")
    store.tidy()
    assert (folder / "half").exists()
    (folder / "half").unlink()
    with ThreadPoolExecutor(4) as pool:
        written = [pool.submit(store.create, f"f{n}", b"%d" % n) for n in range(200)]
        while not all(each.done() for each in written):
            store.tidy()
    assert all(each.result() for each in written)
    store.tidy()
    assert len(store.list()) == 201
    assert not folder.exists()


def test_only_stale_partial_files_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / PARTIAL_FOLDER
    folder.mkdir()
    for name in ("old", "new"):
        (folder / name).write_bytes(b"half")
    before = (folder / "old").stat().st_mtime - STALE_S - 60
    os.utime(folder / "old", (before, before))
    Store(str(tmp_path)).check()
    assert [path.name for path in folder.iterdir()] == ["new"]
