"""Finding and reading files in local folders, on S3, in archives and on the web."""

import io
import os
import random
import re
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.utils import glob_translate
from support.servers import Folder, Server

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.storage import (
    Store,
    contents,
    download_folder,
    find,
    is_local,
    is_url,
    open_source,
)
from nightpress.pipelines.storage.urls import glob_can_match

LAYOUT = (
    "a.csv",
    "b.parquet",
    "_SUCCESS.txt",
    ".hidden.csv",
    "notes.md",
    "day=1/part-1.parquet",
    "day=1/part-0.parquet",
    "day=2/part-0.jsonl.gz",
    "day=2/.tmp/part-9.parquet",
    "_delta_log/0.parquet",
    "pictures/cat.png",
)


@pytest.fixture
def data(run_url: Folder) -> Folder:
    """A folder with files as Spark, Hive and people name them."""
    folder = Folder(f"{run_url.url}/data", run_url.options)
    store = Store(*folder)
    for name in LAYOUT:
        store.create(name, name.encode())
    return folder


def names(urls: list[str] | str, folder: Folder) -> list[str]:
    """The URLs that are found, relative to the folder."""
    full = [f"{folder.url}/{url}" for url in ([urls] if isinstance(urls, str) else urls)]
    return [source.url.removeprefix(f"{folder.url}/") for source in find(full, folder.options)]


MANIFESTS = [
    *("a.csv", "b.parquet", "day=1/part-0.parquet", "day=1/part-1.parquet"),
    "day=2/part-0.jsonl.gz",
]


def test_a_folder_stands_for_the_manifest_files_below_it(data: Folder) -> None:
    assert [s.url for s in find([data.url], data.options)] == [
        f"{data.url}/{name}" for name in MANIFESTS
    ]
    assert find([f"{data.url}/"], data.options) == find([data.url], data.options)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.csv", ["a.csv"]),
        ("day=*/*.parquet", ["day=1/part-0.parquet", "day=1/part-1.parquet"]),
        ("day=[2-9]/*", ["day=2/part-0.jsonl.gz"]),
        ("day=1/part-?.parquet", ["day=1/part-0.parquet", "day=1/part-1.parquet"]),
        ("**/*.parquet", ["b.parquet", "day=1/part-0.parquet", "day=1/part-1.parquet"]),
        ("_delta_log/*", ["_delta_log/0.parquet"]),
        ("_*/*.parquet", ["_delta_log/0.parquet"]),
        ("*.md", ["notes.md"]),
    ],
)
def test_a_pattern_stands_for_the_files_that_it_matches(
    data: Folder, pattern: str, expected: list[str]
) -> None:
    assert names(pattern, data) == expected


def test_a_file_is_found_whatever_its_name(data: Folder) -> None:
    assert names("_SUCCESS.txt", data) == ["_SUCCESS.txt"]
    assert names("notes.md", data) == ["notes.md"]


def test_files_come_in_the_requested_order_without_repeats(data: Folder) -> None:
    assert names(["day=2", "*.parquet", "b.parquet", "a.csv"], data) == [
        *("day=2/part-0.jsonl.gz", "b.parquet", "a.csv"),
    ]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "none.csv",
            r"none\.csv: no such file, and no folder with manifest files in it \(\.parquet",
        ),
        ("pictures", r"pictures: no such file, and no folder with manifest files"),
        ("*.tsv", r"\*\.tsv: the pattern matches no file"),
        ("nowhere/**/*.csv", r"nowhere/\*\*/\*\.csv: the pattern matches no file"),
    ],
)
def test_a_url_that_names_nothing_is_reported_with_what_is_allowed(
    data: Folder, url: str, message: str
) -> None:
    with pytest.raises(StoreMissing, match=message):
        names(["a.csv", url], data)


def test_a_version_changes_with_the_content(data: Folder) -> None:
    store = Store(*data)
    (before,) = find([f"{data.url}/a.csv"], data.options)
    assert find([f"{data.url}/*.csv"], data.options) == [before]
    assert before.num_bytes == len("a.csv")
    store.put("a.csv", b"A.csv")
    (after,) = find([f"{data.url}/a.csv"], data.options)
    assert after.version != before.version
    assert after.num_bytes == before.num_bytes


def test_contents_lists_every_file(data: Folder) -> None:
    found = contents(data.url, data.options)
    assert [s.url.removeprefix(f"{data.url}/") for s in found] == sorted(LAYOUT)
    with pytest.raises(StoreMissing, match="nowhere: no such folder"):
        contents(f"{data.url}/nowhere", data.options)


def test_a_downloaded_folder_equals_the_original(data: Folder, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    download_folder(data.url, target, data.options)
    copied = {p.relative_to(target).as_posix(): p for p in target.rglob("*") if p.is_file()}
    assert sorted(copied) == sorted(LAYOUT)
    assert all(path.read_bytes() == name.encode() for name, path in copied.items())


def test_a_remote_file_reads_like_a_local_one(run_url: Folder) -> None:
    data = random.Random(7).randbytes(9_000_000)
    Store(*run_url).create("weights", data)
    local = io.BytesIO(data)
    steps = [(0, 0, 10), (-100, 2, 1000), (5_000_000, 0, 4_500_000), (-7, 1, 3), (10**8, 0, 1)]
    with open_source(f"{run_url.url}/weights", run_url.options) as stream:
        assert stream.seekable()
        for offset, whence, size in steps:
            assert stream.seek(offset, whence) == local.seek(offset, whence)
            assert stream.read(size) == local.read(size)
            assert stream.tell() == local.tell()
        stream.seek(0)
        assert stream.read() == data


def test_parquet_is_read_through_open_source(run_url: Folder) -> None:
    table = pa.table({"prompt": [f"prompt {i}" for i in range(20_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=5_000)
    Store(*run_url).create("p.parquet", sink.getvalue().to_pybytes())
    with open_source(f"{run_url.url}/p.parquet", run_url.options) as stream:
        file = pq.ParquetFile(stream)
        assert file.read_row_group(3) == table.slice(15_000)
        assert file.read() == table


def test_opening_a_missing_file(run_url: Folder) -> None:
    with pytest.raises(StoreMissing, match=r"none\.csv: not found"):
        open_source(f"{run_url.url}/none.csv", run_url.options)


def test_ranges_are_read_from_rclone(rclone_s3: Server) -> None:
    folder = rclone_s3.folder()
    Store(*folder).create("a.txt", bytes(range(256)) * 40_000)
    with open_source(f"{folder.url}/a.txt", folder.options) as stream:
        stream.seek(5_000_000)
        assert stream.read(4) == bytes([64, 65, 66, 67])


def test_an_existing_local_file_with_brackets_is_not_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "set [1].csv").write_bytes(b"1")
    (source,) = find([f"{tmp_path}/set [1].csv"])
    assert source.num_bytes == 1


def test_a_relative_path_is_found_as_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"a cat")
    monkeypatch.chdir(tmp_path)
    expected = [f"{tmp_path}/prompts.txt"]
    assert [s.url for s in find(["prompts.txt"])] == expected
    assert [s.url for s in find(["*.txt"])] == expected
    assert [s.url for s in find([f"file://{tmp_path}/prompts.txt"])] == expected


def test_a_chained_url_is_found_and_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("inner/prompts.csv", "prompt\na cat\n")
    url = f"zip://inner/*.csv::file://{tmp_path}/set.zip"
    (source,) = find([url])
    assert source.url == f"zip://inner/prompts.csv::file://{tmp_path}/set.zip"
    with open_source(source.url) as stream:
        assert stream.read() == b"prompt\na cat\n"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A plain web server, which does not support ranges."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_on_the_web_is_found_and_read(web: str, tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    (tmp_path / "prompts.txt").write_bytes(data)
    (source,) = find([f"{web}/prompts.txt"])
    assert source.num_bytes == len(data)
    with open_source(source.url) as stream:
        assert stream.read() == data
    with pytest.raises(StoreMissing):
        find([f"{web}/none.txt"])


@pytest.mark.parametrize(
    ("source", "url", "local"),
    [
        ("runs/x", False, True),
        ("/data/x.csv", False, True),
        ("owner/name@main", False, True),
        ("file:///data", True, True),
        ("s3://bucket/x", True, False),
        ("simplecache::s3://bucket/x", True, False),
        ("memory://x", True, False),
    ],
)
def test_urls_and_local_paths_are_recognised(source: str, url: bool, local: bool) -> None:
    assert is_url(source) is url
    assert is_local(source) is local


@pytest.mark.parametrize("named", ["m", "m/", "m/**", "m/**/*.csv", "m/**/**/*.csv"])
def test_linked_folders_are_read_once_and_loops_end(tmp_path: Path, named: str) -> None:
    for name in ("m/a.csv", "m/in/c.csv", "big/b.csv", "big/deep/[d].csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    for link, target in (("m/sub", "../big"), ("m/up", "."), ("m/in/up", ".."), ("big/m", "../m")):
        (tmp_path / link).symlink_to(target)
    for number in range(8):  # Python's own `**` would follow each of them forty deep
        (tmp_path / f"m/in/loop{number}").symlink_to("..")
    assert [
        source.url.removeprefix(f"{tmp_path}/") for source in find([f"{tmp_path}/{named}"])
    ] == [
        *("m/a.csv", "m/in/c.csv", "m/sub/b.csv", "m/sub/deep/[d].csv"),
    ]


def test_every_folder_of_a_pattern_may_be_a_link(tmp_path: Path) -> None:
    for name in ("big/x/y/b.csv", "m/a.csv", "m/.hidden/e.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "m/sub").symlink_to("../big/x")
    for pattern in ("*/sub/**/*.csv", "m/s*/**/y/*.csv", "**/y/b.csv", "m/**/y/**"):
        found = {source.url for source in find([f"{tmp_path}/{pattern}"])}
        assert f"{tmp_path}/m/sub/y/b.csv" in found
        assert all(url.endswith("/y/b.csv") for url in found)


def test_a_pattern_can_match_what_fsspec_matches() -> None:
    pick = random.Random(0).choice
    for _ in range(3000):
        kinds = ["**", *("".join(pick("ab1*?") for _ in range(pick((1, 2, 3)))) for _ in range(3))]
        parts = [pick(kinds) for _ in range(pick((1, 2, 3)))]
        path = [[pick("ab1") for _ in range(pick((1, 2)))] for _ in range(pick((1, 2, 3)))]
        plain = "/".join(part if part == "**" else re.sub(r"\*+", "*", part) for part in parts)
        matches = re.match(glob_translate(plain), "/".join(map("".join, path)))
        assert glob_can_match("/".join(parts), path) == bool(matches), (parts, path)


def test_a_pattern_can_match_a_path_of_which_only_the_kind_is_known() -> None:
    path = [["a"], [*"x-", "0123456789", "0123456789"]]
    for pattern in ("a/x-42", "*/x-[5-7]?", "**/*9", "a/x-[!0-8]*", "?/*-**"):
        assert glob_can_match(pattern, path)
    for pattern in ("a/x-4", "a/x-4a", "*/x-[!0-9]?", "**/x-???", "a/*/**", "[]]/*", "b/**"):
        assert not glob_can_match(pattern, path)
