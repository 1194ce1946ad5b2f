"""The faults of the proxy do what they say, and a run's store survives each of them."""

from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead
from urllib.parse import urlsplit

import pytest
from support.fakes.faulty_proxy import DROPS, LIST, FaultyProxy, Trouble, proxy
from support.servers import Folder, Server

from nightpress.pipelines.storage import RetryPolicy, Store

pytestmark = pytest.mark.slow

MANY = 7
"""More failures in a row than a client survives by itself."""


@pytest.fixture
def faulty(seaweed: Server) -> Iterator[FaultyProxy]:
    with proxy(seaweed.endpoint) as running:
        yield running


@pytest.fixture
def store(bucket: Folder, faulty: FaultyProxy) -> Store:
    policy = RetryPolicy(attempts=MANY + 2, first_wait_s=0.01)
    store = Store(f"{bucket.url}/run", faulty.options, policy)
    store.check()
    return store


def ask(faulty: FaultyProxy, method: str, body: bytes = b"") -> list[bytes]:
    """Send a plain request without retries; returns the pieces of the answer's body."""
    with closing(HTTPConnection(urlsplit(faulty.endpoint).netloc, timeout=30)) as connection:
        connection.request(method, "/", body)
        with connection.getresponse() as response:
            return list(iter(lambda: response.read1(1 << 20), b""))


def test_an_upload_that_is_cut_never_reaches_the_server(
    store: Store, bucket: Folder, faulty: FaultyProxy
) -> None:
    faulty.order("PUT", [Trouble.CUT_UPLOAD])
    with pytest.raises(OSError, match=r"[Rr]eset|[Bb]roken|closed"):
        ask(faulty, "PUT", bytes(8_000_000))
    faulty.order("PUT", [Trouble.CUT_UPLOAD] * MANY)
    assert store.create("images/a.png", bytes(100_000))
    assert faulty.requests["PUT"] == MANY + 1
    assert Store(store.url, bucket.options).read("images/a.png") == bytes(100_000)


def test_a_truncated_answer_is_requested_again(store: Store, faulty: FaultyProxy) -> None:
    store.create("images/a.png", bytes(100_000))
    faulty.order("GET", [Trouble.CUT_ANSWER])
    with pytest.raises((IncompleteRead, ConnectionResetError)):
        ask(faulty, "GET")
    faulty.order("GET", [Trouble.CUT_ANSWER] * MANY)
    assert store.read("images/a.png") == bytes(100_000)


def test_an_answer_that_arrives_slowly_is_waited_for(store: Store, faulty: FaultyProxy) -> None:
    store.create("images/a.png", bytes(100_000))
    faulty.order("GET", [Trouble.SLOW_ANSWER])
    assert len(ask(faulty, "GET")) > DROPS // 2
    faulty.order("GET", [Trouble.SLOW_ANSWER])
    assert store.read("images/a.png") == bytes(100_000)
    assert faulty.requests == {"GET": 1}


@pytest.mark.parametrize("trouble", [Trouble.SLOW_DOWN, Trouble.LOST_REQUEST, Trouble.CUT_ANSWER])
def test_a_listing_that_fails_many_times_succeeds_in_the_end(
    store: Store, faulty: FaultyProxy, trouble: Trouble
) -> None:
    store.create("images/a.png", b"1")
    faulty.order(LIST, [trouble] * MANY)
    assert store.read("images/a.png") == b"1"  # which is no listing
    assert store.list("images") == {"images/a.png": 1}
    assert not faulty.is_in_trouble
