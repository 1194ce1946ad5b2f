"""Retries, on a real server behind a proxy that fails on purpose."""

import time
from collections.abc import Iterator
from functools import partial

import pytest
from support.fakes.faulty_proxy import FaultyProxy, Trouble, proxy
from support.servers import Folder

from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.storage import RetryPolicy, Store, contents, open_source

FAST = RetryPolicy(attempts=6, first_wait_s=0.01)
IMPATIENT = {"config_kwargs": {"read_timeout": 1}}


@pytest.fixture
def faulty(bucket: Folder) -> Iterator[FaultyProxy]:
    with proxy(bucket.options["s3"]["endpoint_url"]) as running:
        yield running


@pytest.fixture
def store(bucket: Folder, faulty: FaultyProxy) -> Store:
    """A store whose connections are already open, so that resets hit reused connections."""
    store = Store(f"{bucket.url}/run", {"s3": {**faulty.options["s3"], **IMPATIENT}}, FAST)
    store.check()
    return store


@pytest.mark.parametrize(
    "troubles",
    [
        [Trouble.SLOW_DOWN] * 4,
        [Trouble.BAD_GATEWAY, Trouble.SLOW_DOWN],
        [Trouble.LOST_REQUEST] * 3,
        [Trouble.LOST_ANSWER],
        [Trouble.LOST_ANSWER] * 3,
        [Trouble.STALL],
        [Trouble.SLOW_DOWN, Trouble.LOST_ANSWER, Trouble.LOST_REQUEST],
    ],
    ids=lambda troubles: "-".join(trouble.name.lower() for trouble in troubles),
)
def test_an_object_created_after_retries_counts_as_created(
    store: Store, faulty: FaultyProxy, troubles: list[Trouble]
) -> None:
    faulty.order("PUT", troubles)
    assert store.create("images/a.png", b"mine")
    assert faulty.requests["PUT"] == len(troubles) + 1
    assert store.read("images/a.png") == b"mine"


@pytest.mark.parametrize("trouble", list(Trouble))
def test_another_writers_object_is_never_taken_for_ours(
    store: Store, bucket: Folder, faulty: FaultyProxy, trouble: Trouble
) -> None:
    Store(store.url, bucket.options).create("images/a.png", b"theirs")
    faulty.order("PUT", [trouble])
    assert not store.create("images/a.png", b"mine")
    assert store.read("images/a.png") == b"theirs"


def test_after_a_lost_response_the_object_is_checked(store: Store, faulty: FaultyProxy) -> None:
    faulty.order("PUT", [Trouble.STALL])
    once = Store(store.url, store.options, RetryPolicy(attempts=1))
    assert once.create("images/a.png", b"mine")


def test_reading_and_replacing_are_retried(store: Store, faulty: FaultyProxy) -> None:
    faulty.order("PUT", [Trouble.SLOW_DOWN, Trouble.LOST_ANSWER])
    store.put("report.html", b"<p>")
    faulty.order("GET", [Trouble.LOST_ANSWER, Trouble.SLOW_DOWN, Trouble.BAD_GATEWAY])
    assert store.read("report.html") == b"<p>"


def test_an_object_is_read_in_one_request(store: Store, faulty: FaultyProxy) -> None:
    store.create("images/a.png", b"1")
    faulty.order("GET", [])
    assert store.read("images/a.png") == b"1"
    assert faulty.requests == {"GET": 1}


def test_a_listing_is_retried(store: Store, faulty: FaultyProxy) -> None:
    store.create("images/a.png", b"1")
    faulty.order("GET", [Trouble.SLOW_DOWN, Trouble.LOST_ANSWER])
    assert store.list("images") == {"images/a.png": 1}


def test_a_listing_is_retried_as_often_as_other_requests(store: Store, faulty: FaultyProxy) -> None:
    """That is more often than the driver would by itself."""
    store.create("images/a.png", b"1")
    persistent = store.with_policy(RetryPolicy(attempts=40, first_wait_s=0.01, longest_wait_s=0.02))
    faulty.order("GET", [Trouble.SLOW_DOWN] * 30)
    assert persistent.list("images") == {"images/a.png": 1}
    assert faulty.requests["GET"] == 31


def test_a_range_of_a_file_is_retried(store: Store, faulty: FaultyProxy) -> None:
    store.create("prompts.txt", b"a cat\na dog\n")
    with open_source(f"{store.url}/prompts.txt", store.options) as stream:
        faulty.order("GET", [Trouble.SLOW_DOWN, Trouble.LOST_ANSWER, Trouble.BAD_GATEWAY])
        assert stream.read() == b"a cat\na dog\n"
    assert [source.num_bytes for source in contents(store.url, store.options)] == [12]


def test_a_file_is_read_in_few_requests(store: Store, faulty: FaultyProxy) -> None:
    data = bytes(9_000_000)
    store.create("weights", data)
    for size in (-1, 10_000, 5_000_000):
        with open_source(f"{store.url}/weights", store.options) as stream:
            faulty.order("GET", [])
            assert b"".join(iter(partial(stream.read, size), b"")) == data
            assert faulty.requests["GET"] <= 3


def test_a_store_that_keeps_failing_is_reported_in_one_line(
    store: Store, faulty: FaultyProxy
) -> None:
    faulty.order("PUT", [Trouble.SLOW_DOWN] * 50)
    with pytest.raises(StoreError) as caught:
        store.create("images/a.png", b"1")
    assert faulty.requests["PUT"] == FAST.attempts
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{store.url}/images/a.png: {faulty.endpoint} keeps failing")


def test_waits_grow_but_stay_within_their_bounds() -> None:
    policy = RetryPolicy(attempts=12, first_wait_s=0.5, longest_wait_s=4.0)
    for _ in range(50):
        waits = list(policy._waits())
        assert len(waits) == 11
        assert all(0 <= wait <= min(4.0, 0.5 * 2**i) for i, wait in enumerate(waits))


def test_no_wait_starts_that_would_exceed_the_total_time() -> None:
    calls: list[float] = []

    def fail() -> None:
        calls.append(time.monotonic())
        raise TimeoutError("still busy")

    policy = RetryPolicy(attempts=1_000_000, total_s=0.2, first_wait_s=0.05, longest_wait_s=0.05)
    with pytest.raises(TimeoutError, match="still busy"):
        policy.run(fail)
    assert 2 <= len(calls) < 1000
    assert calls[-1] - calls[0] <= 0.2


@pytest.mark.parametrize("error", [PermissionError(13, "no"), FileNotFoundError(2, "no")])
def test_a_permanent_error_is_not_retried(error: OSError) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        FAST.run(fail)
    assert len(calls) == 1
