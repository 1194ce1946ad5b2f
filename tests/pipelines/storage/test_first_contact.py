"""The first look at a store fails within seconds, and the message says what to set."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support import servers
from support.fakes.faulty_proxy import Trouble, proxy
from support.servers import Folder

from nightpress.jobs.errors import exit_code
from nightpress.pipelines.errors import RunNotFound, StoreDenied, StoreError
from nightpress.pipelines.run_directory.reader import open_run
from nightpress.pipelines.storage import Store, first_contact, require_answers

AMAZON = "if this is not a bucket of Amazon S3, set the storage option s3.endpoint_url or"
SET_HERE = "the address comes from the storage option s3.endpoint_url or AWS_ENDPOINT_URL"
PAGE = b"<!DOCTYPE html><html><head><title>Sign in<br></head><body>&nbsp;</body></html>"
XHTML = b'<?xml version="1.0"?><html><body>Sign in</body></html>'

AT_ONCE = replace(first_contact.FIRST_CONTACT, first_wait_s=0.0)
"""As many attempts as usual, without waits between them."""


@contextmanager
def web_page(status: int, page: bytes) -> Iterator[str]:
    """A server that answers everything with one page; yields its address."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *details: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def refused(endpoint: str | None = None, **options: Any) -> str:
    """What `open_run` says; it must not take long."""
    settings = options if endpoint is None else options | {"endpoint_url": endpoint}
    started_at = time.monotonic()
    with pytest.raises(StoreError) as caught:
        open_run("s3://press/run", {"s3": settings} if settings else None)
    assert time.monotonic() - started_at < 15
    message = str(caught.value)
    assert message.startswith("s3://press/run")
    assert "\n" not in message
    assert servers.SECRET_KEY not in message
    return message


def test_a_closed_port() -> None:
    (port,) = servers.free_ports(1)
    message = refused(f"http://127.0.0.1:{port}")
    assert f"cannot reach http://127.0.0.1:{port}" in message
    assert SET_HERE in message


def test_a_host_that_does_not_exist() -> None:
    assert "cannot reach http://store.invalid:9000" in refused("http://store.invalid:9000")


def test_a_server_that_accepts_and_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_contact, "READ_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = refused(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "keeps failing" in message
    assert "imeout" in message
    assert SET_HERE in message


def test_an_address_of_amazon_without_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    # A region that does not exist, so that the real address is never asked.
    message = refused(client_kwargs={"region_name": "nowhere-1"})
    assert AMAZON in message
    assert "AWS_ENDPOINT_URL" in message


def test_no_credentials_and_no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in servers.CREDENTIALS:
        monkeypatch.delenv(name)
    message = refused()
    assert "no credentials" in message
    assert AMAZON in message


@pytest.mark.parametrize(
    ("status", "page"),
    [
        *((200, PAGE), (200, XHTML), (200, b""), (302, b"")),
        *((404, PAGE), (405, PAGE), (407, PAGE), (500, PAGE)),
    ],
)
def test_a_web_page_instead_of_a_store(status: int, page: bytes) -> None:
    with web_page(status, page) as address:
        message = refused(address)
    assert f"{address} does not answer as S3 does" in message
    assert SET_HERE in message


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
@pytest.mark.parametrize("page", [PAGE, b""], ids=["html", "empty"])
def test_a_gateway_that_answers_for_a_busy_store_may_pass_or_be_a_wrong_address(
    status: int, page: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_contact, "FIRST_CONTACT", AT_ONCE)
    with web_page(status, page) as address, pytest.raises(StoreError) as caught:
        require_answers(["s3://press/run"], {"s3": {"endpoint_url": address}})
    assert type(caught.value) is StoreError
    assert exit_code(caught.value) == 4
    message = str(caught.value)
    assert f"{address} keeps failing (HTTP status {status} without an S3 error code)" in message
    assert "a gateway before the store may answer so while it is busy" in message
    assert message.endswith(f"or the address is wrong; {SET_HERE}")


def test_a_gateway_that_fails_for_a_moment_is_asked_again(
    bucket: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_contact, "FIRST_CONTACT", AT_ONCE)
    with proxy(bucket.options["s3"]["endpoint_url"]) as faulty:
        faulty.order("LIST", [Trouble.BAD_GATEWAY] * 2)
        require_answers([bucket.url], faulty.options)
        assert faulty.requests["GET"] == 3


def test_a_server_that_speaks_no_tls() -> None:
    with web_page(200, PAGE) as address:
        message = refused(address.replace("http:", "https:"))
    assert "cannot reach https://" in message
    assert "an address that begins with http:// may be right" in message


def test_a_missing_bucket_and_wrong_credentials(
    bucket: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreDenied, match="has no bucket 'nobody-made-this'"):
        open_run("s3://nobody-made-this/run", bucket.options)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreDenied, match="rejects the credentials"):
        open_run(f"{bucket.url}/run", bucket.options)


def test_a_store_that_answers_is_not_refused(bucket: Folder) -> None:
    with pytest.raises(RunNotFound):
        open_run(f"{bucket.url}/run", bucket.options)
    require_answers([bucket.url, f"zip://a.csv::{bucket.url}/a.zip", "/nowhere"], bucket.options)
    require_answers(["memory://anything", "builtin", "owner/name"])


def test_later_requests_are_as_patient_as_before(bucket: Folder) -> None:
    with proxy(bucket.options["s3"]["endpoint_url"]) as faulty:
        store = Store(bucket.url, faulty.options)
        store.require_answer()
        faulty.order("PUT", [Trouble.LOST_REQUEST] * 6)
        assert store.create("a", b"1")


def test_each_store_is_asked_once(bucket: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        first_contact, "require_answer", lambda location: asked.append(location.url)
    )
    require_answers([f"{bucket.url}/{name}.csv" for name in "abc"], bucket.options)
    assert asked == [f"{bucket.url}/a.csv"]


def test_a_web_server_that_does_not_answer_is_not_called_a_missing_file() -> None:
    (port,) = servers.free_ports(1)
    url = f"http://127.0.0.1:{port}/a.csv"
    with pytest.raises(StoreDenied, match=r"a\.csv: cannot reach the http:// store"):
        require_answers([url])
