"""Reading a whole file up to a limit: what is one file's fault, and what is the store's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fakes.web_server import WebServer, web_server
from support.servers import Folder

from nightpress.pipelines.errors import StoreDenied, StoreError, StoreMissing
from nightpress.pipelines.storage import RetryPolicy, Store
from nightpress.pipelines.storage.limited import SAME_CUTS, read_limited

BRIEF = RetryPolicy(attempts=4, total_s=3, first_wait_s=0.01)


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    files = {"a.png": b"picture", "empty.png": b"", "flaky/a.png": b"at last"}
    with web_server(files) as server:
        yield server


def test_a_file_is_read_whole_in_one_request(web: WebServer) -> None:
    assert read_limited(f"{web.url}/a.png?w=3", {}, 7) == b"picture"
    assert read_limited(f"{web.url}/empty.png", {}, 7) == b""
    assert web.hits["a.png"] == 1


def test_of_a_larger_file_one_byte_more_than_allowed_is_read(
    web: WebServer, tmp_path: Path
) -> None:
    assert len(read_limited(f"{web.url}/endless", {}, 3_000_000)) == 3_000_001
    assert read_limited(f"{web.url}/a.png", {}, 3) == b"pict"
    path = tmp_path / "a.png"
    path.write_bytes(b"picture")
    assert read_limited(str(path), {}, 3) == b"pict"
    assert read_limited(f"file://{path}", {}, 7) == b"picture"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "not found"),
        (403, "the server answers 403 Forbidden"),
        (401, "the server answers 401 Unauthorized"),
        (410, "the server answers 410 Gone"),
        (451, "the server answers 451 Unavailable For Legal Reasons"),
    ],
)
def test_a_refusal_that_lasts_is_the_files_and_is_not_retried(
    web: WebServer, status: int, words: str
) -> None:
    url = f"{web.url}/{status}/a.png"
    with pytest.raises(StoreMissing) as caught:
        read_limited(f"{url}?version=2", {}, 100, BRIEF)
    assert str(caught.value) == f"{url}: {words}"
    assert web.hits[f"{status}/a.png"] == 1


def test_a_server_in_trouble_is_asked_again_and_its_trouble_is_the_stores(web: WebServer) -> None:
    assert read_limited(f"{web.url}/flaky/a.png", {}, 100, BRIEF) == b"at last"
    for status in (429, 500, 503):
        with pytest.raises(StoreError) as caught:
            read_limited(f"{web.url}/{status}/b.png", {}, 100, BRIEF)
        assert not isinstance(caught.value, StoreMissing)
        assert web.hits[f"{status}/b.png"] == BRIEF.attempts
    with pytest.raises(StoreError) as caught:
        read_limited("http://127.0.0.1:1/a.png", {}, 100, RetryPolicy(attempts=1))
    assert not isinstance(caught.value, StoreMissing)


def test_a_response_that_ends_at_the_same_byte_each_time_is_the_files_fault(web: WebServer) -> None:
    with pytest.raises(StoreMissing) as caught:
        read_limited(f"{web.url}/cut/a.png", {}, 5_000, RetryPolicy(attempts=9, first_wait_s=0.01))
    assert str(caught.value) == (
        f"{web.url}/cut/a.png: the response ends after 1,000 of the 1,200 bytes that the server "
        "announces"
    )
    assert web.hits["cut/a.png"] == SAME_CUTS


def test_an_answer_that_leads_nowhere_is_said_in_words(web: WebServer) -> None:
    for name, words in [
        ("away", "the server redirects to file:///etc/hostname, which is no web address"),
        ("garbage", "the server's answer is not HTTP, or its headers do not fit it"),
    ]:
        with pytest.raises(StoreMissing) as caught:
            read_limited(f"{web.url}/{name}", {}, 100, BRIEF)
        assert str(caught.value) == f"{web.url}/{name}: {words}"


def test_a_hub_that_cannot_be_reached_is_a_store_that_cannot_be_reached() -> None:
    options = {"hf": {"endpoint": "http://127.0.0.1:1"}}
    with pytest.raises(StoreDenied, match="cannot reach the hf:// store"):
        read_limited("hf://datasets/a/b/c.png", options, 100, RetryPolicy(attempts=1))


def test_a_read_that_nobody_waits_for_is_given_up_and_not_retried(web: WebServer) -> None:
    given_up = iter([False, True])
    with pytest.raises(StoreError, match="given up"):
        read_limited(f"{web.url}/503/c.png", {}, 100, BRIEF, lambda: next(given_up))
    assert web.hits["503/c.png"] == 1
    with pytest.raises(StoreError, match="given up"):
        read_limited(f"{web.url}/endless", {}, 10**12, BRIEF, lambda: web.hits["endless"] > 1)


def test_a_path_that_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"1")
    for path, words in [
        (tmp_path, "a folder, not a file"),
        (tmp_path / "pipe", "a device, pipe or socket, not a file"),
        ("/dev/zero", "a device, pipe or socket, not a file"),
        (tmp_path / "nothing", "not found"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / "file" / "below", "a file, or lies below one"),
        (tmp_path / ("n" * 300), "name too long"),
    ]:
        with pytest.raises(StoreMissing, match=words):
            read_limited(str(path), {}, 100)


@pytest.mark.parametrize(
    "url",
    ["nosuch://a/b.png", "http://[a/b.png", "memory://nothing/here.png", "zip://a::file:///bin/sh"],
)
def test_a_url_that_can_never_be_read_is_the_rows_fault(url: str) -> None:
    with pytest.raises(StoreMissing) as caught:
        read_limited(url, {}, 100, BRIEF)
    assert "\n" not in str(caught.value)


def test_an_object_of_a_real_store_is_read_by_one_bounded_request(bucket: Folder) -> None:
    store = Store(bucket.url, bucket.options)
    store.put("a.png", b"picture")
    store.put("empty.png", b"")
    assert read_limited(f"{bucket.url}/a.png", bucket.options, 100) == b"picture"
    assert read_limited(f"{bucket.url}/a.png", bucket.options, 3) == b"pict"
    assert read_limited(f"{bucket.url}/empty.png", bucket.options, 3) == b""
    for name in ("b.png", "a.png/below"):
        with pytest.raises(StoreMissing):
            read_limited(f"{bucket.url}/{name}", bucket.options, 100)
    with pytest.raises(StoreMissing):
        read_limited("s3://nightpress-no-such-bucket/a.png", bucket.options, 100)
