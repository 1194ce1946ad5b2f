"""The request rate at a throttling store: the arithmetic first, then threads and real stores."""

import heapq
import math
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from s3fs.errors import translate_boto_error
from support.fakes.faulty_proxy import FaultyProxy, Limit, Trouble, proxy
from support.servers import Folder

from nightpress.pipelines.errors import SpecError, StoreDenied, StoreError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.storage import RetryPolicy, Store, pacing
from nightpress.pipelines.storage.faults import (
    Fault,
    classify,
    is_throttle,
    is_transient,
    retry_after_s,
)
from nightpress.pipelines.storage.pacing import (
    ASSUMED_RATE,
    CALM_S,
    DECREASE_FACTOR,
    MAX_PAUSE_S,
    MIN_RATE,
    RECOVERY_S,
    SLACK_S,
    AdaptiveRate,
    Pacer,
    RequestQueue,
)
from nightpress.pipelines.storage.remote import RemoteFolder

GAPS = st.lists(st.floats(0, 0.3), min_size=1, max_size=60)

REQUEST_S = 0.02


def answered(code: str, status: int, **headers: str) -> BaseException:
    """What s3fs raises for a response with this error code and status."""
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    response: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata}
    error: BaseException = translate_boto_error(ClientError(response, "PutObject"))
    return error


SLOW_DOWN = answered("SlowDown", 503)


def sends(rate: AdaptiveRate, gaps: list[float]) -> list[float]:
    """When requests that arrive with these gaps between them are sent."""
    moments, arrived = [], 0.0
    for gap in gaps:
        arrived = max(arrived + gap, moments[-1] if moments else 0.0)
        moments.append(arrived + rate.wait_s(arrived))
        rate.send(moments[-1])
    return moments


def most_in_any_window(moments: list[float], rate: float) -> float:
    """By how much the worst window exceeds a rate; at most 0 if none does."""
    pairs = ((i, j) for i in range(len(moments)) for j in range(i, len(moments)))
    return max((j - i + 1) - (rate * (moments[j] - moments[i] + SLACK_S) + 1) for i, j in pairs)


def test_no_request_waits_before_the_first_throttle() -> None:
    rate = AdaptiveRate()
    for n in range(10_000):
        assert rate.wait_s(n * 1e-6) == 0
        rate.send(n * 1e-6)
    assert rate.at(1.0) == math.inf


@given(GAPS, st.floats(1, 500))
def test_a_limit_is_never_exceeded(gaps: list[float], limit: float) -> None:
    assert most_in_any_window(sends(AdaptiveRate(limit), gaps), limit) < 1e-6


@given(GAPS, st.floats(0, 60), st.floats(1, 500))
def test_the_rate_after_throttles_never_exceeds_the_limit(
    gaps: list[float], pause_s: float, limit: float
) -> None:
    rate, moment = AdaptiveRate(limit), 0.0
    for gap in gaps:
        moment += gap + rate.wait_s(moment + gap)
        rate.send(moment)
        rate.throttled(moment + 0.01, moment, pause_s)
        assert all(rate.at(moment + later) <= limit for later in (0.01, 1, 5, 29, 31, 1000))


def test_a_throttle_lowers_the_rate_to_four_fifths_of_the_measured_one() -> None:
    rate = AdaptiveRate()
    for n in range(400):
        rate.send(n / 200)
    rate.throttled(2.0, 1.995)
    assert rate.at(2.0) == pytest.approx(DECREASE_FACTOR * 200, rel=0.1)


def test_a_new_process_is_measured_over_the_time_since_it_started() -> None:
    rate = AdaptiveRate()
    for n in range(80):
        rate.send(n / 1000)
    rate.throttled(0.08, 0.079)
    assert rate.at(0.08) == pytest.approx(DECREASE_FACTOR * 1000, rel=0.1)


def test_one_throttle_hardly_slows_a_process_that_sends_few_requests() -> None:
    rate = AdaptiveRate()
    rate.send(100.0)
    rate.throttled(100.1, 100.0)
    assert rate.at(100.1) >= DECREASE_FACTOR * ASSUMED_RATE


def test_each_round_of_throttles_lowers_the_rate_once() -> None:
    rate, moment = AdaptiveRate(100.0), 0.0
    for n in range(1, 4):
        for _ in range(16):
            rate.send(moment)
        before = rate.at(moment)
        for late in range(16):
            rate.throttled(moment + 0.001 * (1 + late), moment)
        assert rate.at(moment + 0.001) == pytest.approx(DECREASE_FACTOR * before, rel=0.01), n
        moment += 0.1


@pytest.mark.parametrize("limit", [2.0, 50.0, math.inf])
def test_the_rate_never_falls_below_its_minimum(limit: float) -> None:
    rate = AdaptiveRate(limit)
    for n in range(100):
        rate.send(float(n))
        rate.throttled(n + 0.5, float(n))
    assert rate.at(99.5) == min(limit, MIN_RATE)


def test_the_rate_rises_without_throttles_until_no_request_waits() -> None:
    rate = AdaptiveRate()
    for n in range(100):
        rate.send(n / 100)
    rate.throttled(1.0, 0.995)
    fallen = rate.at(1.0)
    rising = [rate.at(1.0 + second) for second in range(int(CALM_S))]
    assert rising == sorted(set(rising))
    assert rate.at(1.0 + RECOVERY_S) == pytest.approx(fallen / DECREASE_FACTOR)
    assert rate.at(1.0 + CALM_S) == math.inf
    rate.send(1.0 + CALM_S)
    assert rate.wait_s(1.0 + CALM_S) == 0


def test_a_pause_that_the_store_asks_for_is_honoured_up_to_a_bound() -> None:
    rate = AdaptiveRate()
    rate.send(0.0)
    rate.throttled(1.0, 0.0, pause_s=7.0)
    assert rate.wait_s(1.0) == pytest.approx(7.0)
    rate.throttled(1.1, 0.0)  # another request of the same round
    assert rate.wait_s(2.0) == pytest.approx(6.0)
    rate.throttled(1.2, 0.0, pause_s=1e9)
    assert rate.wait_s(1.2) == pytest.approx(MAX_PAUSE_S)


@pytest.mark.parametrize("per_s", [100.0, 200.0, 1000.0])
@pytest.mark.parametrize("num_processes", [1, 8])
def test_a_store_limit_is_nearly_used_up_and_seldom_exceeded(
    per_s: float, num_processes: int
) -> None:
    """Each process keeps up to 32 requests in flight for a minute of simulated time."""
    made, refused = busy_minute([AdaptiveRate() for _ in range(num_processes)], per_s, seconds=60)
    assert sum(made) >= 0.8 * per_s * 60
    assert refused <= 0.15 * sum(made)
    assert min(made) >= 0.33 * sum(made) / num_processes


def busy_minute(rates: list[AdaptiveRate], per_s: float, seconds: int) -> tuple[list[int], int]:
    """The requests that a limit admitted, by process, and how many it refused."""
    limit = Limit(per_s, per_s / 10, 0.0)
    made, refused = [0] * len(rates), 0
    in_flight: list[tuple[float, int, float, bool]] = []
    idle = [32] * len(rates)
    for tick in range(seconds * 500):
        moment = tick / 500
        while in_flight and in_flight[0][0] <= moment:
            _, each, sent_at, admitted = heapq.heappop(in_flight)
            idle[each] += 1
            made[each] += admitted
            if not admitted:
                refused += 1
                rates[each].throttled(moment, sent_at)
        for turn in range(len(rates)):
            each = (turn + tick) % len(rates)
            while idle[each] and rates[each].wait_s(moment) == 0:
                rates[each].send(moment)
                idle[each] -= 1
                admitted = limit.admits(moment)
                heapq.heappush(in_flight, (moment + REQUEST_S, each, moment, admitted))
    return made, refused


def test_threads_are_served_in_order_of_arrival() -> None:
    queue = RequestQueue(AdaptiveRate(), time.monotonic)
    sent_at = queue.wait_for_turn(math.inf)
    queue.throttled(sent_at, pause_s=0.5)
    moments: dict[int, float] = {}

    def go(number: int) -> None:
        moments[number] = queue.wait_for_turn(time.monotonic() + 60)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(queue._waiting) + len(moments) <= number:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert sorted(moments, key=moments.__getitem__) == list(range(8))
    assert min(moments.values()) >= sent_at + 0.5


def test_a_thread_that_times_out_leaves_the_queue() -> None:
    queue = RequestQueue(AdaptiveRate(), time.monotonic)
    sent_at = queue.wait_for_turn(math.inf)
    queue.throttled(sent_at, pause_s=0.3)
    with pytest.raises(
        TimeoutError, match=r"no request could be sent in time: .* 16 requests a second$"
    ):
        queue.wait_for_turn(time.monotonic() + 0.01)
    assert not queue._waiting
    assert queue.wait_for_turn(time.monotonic() + 60) >= sent_at + 0.3


def test_all_attempts_together_wait_no_longer_than_their_policy_allows() -> None:
    pacer, attempts = Pacer(), []
    policy = RetryPolicy(attempts=1000, total_s=0.2, first_wait_s=0.001, longest_wait_s=0.001)

    def throttled() -> None:
        attempts.append(1)
        raise answered("SlowDown", 503, **{"retry-after": "20"})

    with pytest.raises(OSError, match="no request could be sent in time"):
        policy.run(throttled, pacer)
    assert len(attempts) == 1


def test_only_throttles_slow_a_process_down() -> None:
    pacer = Pacer()
    for error in (
        answered("InternalError", 500),
        answered("NoSuchKey", 404),
        TimeoutError("no answer"),
        ConnectionResetError(104, "reset"),
    ):
        with pytest.raises(OSError, match=r"no|reset"):
            pacer.run(raising(error), math.inf)
    assert rate_of(pacer) == math.inf
    with pytest.raises(OSError, match="no") as caught:
        pacer.run(raising(SLOW_DOWN), math.inf)
    assert caught.value is SLOW_DOWN
    assert DECREASE_FACTOR * ASSUMED_RATE <= rate_of(pacer) < math.inf


def rate_of(pacer: Pacer) -> float:
    """The requests a second that a pacer allows now."""
    return pacer._queue._rate.at(time.monotonic())


def raising(error: BaseException) -> Any:
    def action() -> None:
        raise error

    return action


def test_a_fork_does_not_wait_behind_threads_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pacer = Pacer()
    sent_at = pacer._queue.wait_for_turn(math.inf)
    pacer._queue.throttled(sent_at, pause_s=MAX_PAUSE_S)
    with pytest.raises(TimeoutError):
        pacer.run(lambda: None, time.monotonic())
    monkeypatch.setattr(pacing.os, "getpid", lambda: -1)
    assert pacer.run(lambda: "asked", time.monotonic()) == "asked"


@pytest.mark.parametrize(
    ("error", "throttles"),
    [
        (answered("SlowDown", 503), True),
        (answered("503", 503), True),  # HEAD has no body
        (answered("ServiceUnavailable", 503), True),
        (answered("TooManyRequests", 429), True),
        (answered("Throttling", 400), True),
        (answered("InternalError", 500), False),
        (answered("BadGateway", 502), False),
        (answered("RequestTimeout", 400), False),
        (TimeoutError(), False),
        (FileNotFoundError(), False),
    ],
)
def test_throttles_are_recognised_and_count_as_transient(
    error: BaseException, throttles: bool
) -> None:
    assert is_throttle(error) is throttles
    assert not throttles or (is_transient(error) and classify(error) is Fault.BUSY)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 7 "}, 7),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "-7"}, 0),
        ({"retry-after": ""}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_retry_after_is_read_in_seconds(header: dict[str, str], seconds: int) -> None:
    assert retry_after_s(answered("SlowDown", 503, **header)) == seconds


def test_retry_after_may_be_a_date() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < retry_after_s(answered("SlowDown", 503, **{"retry-after": then})) <= 100


def spec(requests_per_s: Any) -> RunSpec:
    storage = {"s3": {"requests_per_s": requests_per_s}}
    return RunSpec.from_dict(
        {"name": "night", "manifest": "p.txt", "output": "s3://press", "storage": storage}
    )


@pytest.mark.parametrize("value", [0, -1, 0.01, 2e6, 10**30, "50", True, [5]])
def test_an_invalid_request_limit_is_refused_in_one_line(value: Any) -> None:
    said = r"s3\.requests_per_s: .* is not a number from 0\.1 to 1,000,000"
    with pytest.raises(SpecError, match=said) as caught:
        spec(value)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(StoreDenied, match=rf"^s3://press: storage\.{said}$"):
        Store("s3://press", {"s3": {"requests_per_s": value}})


def test_a_run_may_go_on_with_another_request_limit() -> None:
    assert spec(50).changes(spec(0.5)) == spec(50).changes(spec(None)) == []


@pytest.fixture
def faulty(bucket: Folder) -> Iterator[FaultyProxy]:
    with proxy(bucket.options["s3"]["endpoint_url"]) as running:
        yield running


def pacer_of(store: Store) -> Pacer:
    assert isinstance(store._folder, RemoteFolder)
    return store._folder.pacer


def test_threads_of_one_store_learn_to_keep_its_limit(bucket: Folder, faulty: FaultyProxy) -> None:
    policy = RetryPolicy(first_wait_s=0.01, longest_wait_s=0.1)
    store = Store(f"{bucket.url}/run", faulty.options, policy)
    store.check()
    assert rate_of(pacer_of(store)) == math.inf
    throttled = []
    for part in ("learning", "knowing"):
        faulty.limit(40)
        paths = [f"{part}/{n}.png" for n in range(60)]
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(lambda path: store.create(path, path.encode()), paths))
        throttled.append(faulty.num_throttled)
        assert rate_of(pacer_of(store)) < 100
    assert throttled[0] > 0
    assert throttled[1] < 20
    faulty.limit(None)
    assert len(store.list()) == 120


def test_retry_after_is_read_from_a_real_drivers_error(bucket: Folder, faulty: FaultyProxy) -> None:
    store = Store(f"{bucket.url}/run", faulty.options, RetryPolicy(first_wait_s=0.01))
    store.check()
    faulty.retry_after = "1"
    faulty.order("PUT", [Trouble.SLOW_DOWN])
    began = time.monotonic()
    assert store.create("images/a.png", b"1")
    assert time.monotonic() - began >= 1


def test_the_request_limit_is_not_passed_to_the_driver(bucket: Folder) -> None:
    options = {"s3": {**bucket.options["s3"], "requests_per_s": 50}}
    store = pickle.loads(pickle.dumps(Store(f"{bucket.url}/run", options)))
    assert store.create("images/a.png", b"1")
    assert rate_of(pacer_of(store)) == rate_of(pacer_of(store.reading_back())) == 50
    with store.as_store_errors():
        filesystem, root = store.arrow()
        assert filesystem.get_file_info(f"{root}/images/a.png").size == 1


def test_giving_up_at_a_throttling_store_is_reported_in_one_line(
    bucket: Folder, faulty: FaultyProxy
) -> None:
    store = Store(f"{bucket.url}/run", faulty.options, RetryPolicy(total_s=0.5, first_wait_s=0.01))
    store.check()
    faulty.retry_after = "25"
    faulty.order("GET", [Trouble.SLOW_DOWN])
    with pytest.raises(StoreError) as caught:
        store.read("images/a.png")
    said = (
        f"{store.url}/images/a.png: {faulty.endpoint} keeps failing (no request could be sent in "
        "time: the store is throttling"
    )
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
