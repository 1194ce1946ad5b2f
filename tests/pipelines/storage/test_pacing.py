"""How fast a throttling store is asked: laws of the arithmetic, then of threads and of stores."""

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
    is_passing,
    is_throttle,
    retry_after_s,
)
from nightpress.pipelines.storage.pacing import (
    CALM_S,
    FALL,
    FIRST_RATE,
    LONGEST_PAUSE_S,
    LOWEST_RATE,
    SLACK_S,
    WON_BACK_S,
    Line,
    Pacer,
    Rate,
)
from nightpress.pipelines.storage.remote import RemoteFolder

GAPS = st.lists(st.floats(0, 0.3), min_size=1, max_size=60)

REQUEST_S = 0.02


def answered(code: str, status: int, **headers: str) -> BaseException:
    """What s3fs raises when a store answers so."""
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    response: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata}
    error: BaseException = translate_boto_error(ClientError(response, "PutObject"))
    return error


SLOW_DOWN = answered("SlowDown", 503)


def sends(rate: Rate, gaps: list[float]) -> list[float]:
    """When requests go out that come with those gaps between them."""
    moments, came = [], 0.0
    for gap in gaps:
        came = max(came + gap, moments[-1] if moments else 0.0)
        moments.append(came + rate.wait_s(came))
        rate.send(moments[-1])
    return moments


def most_in_any_window(moments: list[float], rate: float) -> float:
    """By how much some window holds more than a rate allows; not above 0 where it is obeyed."""
    pairs = ((i, j) for i in range(len(moments)) for j in range(i, len(moments)))
    return max((j - i + 1) - (rate * (moments[j] - moments[i] + SLACK_S) + 1) for i, j in pairs)


def test_until_the_first_throttle_nobody_waits() -> None:
    rate = Rate()
    for n in range(10_000):
        assert rate.wait_s(n * 1e-6) == 0
        rate.send(n * 1e-6)
    assert rate.at(1.0) == math.inf


@given(GAPS, st.floats(1, 500))
def test_a_ceiling_is_never_exceeded(gaps: list[float], ceiling: float) -> None:
    assert most_in_any_window(sends(Rate(ceiling), gaps), ceiling) < 1e-6


@given(GAPS, st.floats(0, 60), st.floats(1, 500))
def test_what_throttles_allow_is_never_above_the_ceiling(
    gaps: list[float], pause_s: float, ceiling: float
) -> None:
    rate, moment = Rate(ceiling), 0.0
    for gap in gaps:
        moment += gap + rate.wait_s(moment + gap)
        rate.send(moment)
        rate.throttled(moment + 0.01, moment, pause_s)
        assert all(rate.at(moment + later) <= ceiling for later in (0.01, 1, 5, 29, 31, 1000))


def test_a_process_that_asks_fast_falls_by_a_fifth_of_that() -> None:
    rate = Rate()
    for n in range(400):
        rate.send(n / 200)
    rate.throttled(2.0, 1.995)
    assert rate.at(2.0) == pytest.approx(FALL * 200, rel=0.1)


def test_a_process_that_has_just_begun_is_judged_by_how_fast_it_began() -> None:
    rate = Rate()
    for n in range(80):
        rate.send(n / 1000)
    rate.throttled(0.08, 0.079)
    assert rate.at(0.08) == pytest.approx(FALL * 1000, rel=0.1)


def test_one_throttle_of_a_process_that_hardly_asks_costs_it_little() -> None:
    rate = Rate()
    rate.send(100.0)
    rate.throttled(100.1, 100.0)
    assert rate.at(100.1) >= FALL * FIRST_RATE


def test_each_round_of_throttles_lowers_the_rate_once() -> None:
    rate, moment = Rate(100.0), 0.0
    for n in range(1, 4):
        for _ in range(16):
            rate.send(moment)
        before = rate.at(moment)
        for late in range(16):
            rate.throttled(moment + 0.001 * (1 + late), moment)
        assert rate.at(moment + 0.001) == pytest.approx(FALL * before, rel=0.01), n
        moment += 0.1


@pytest.mark.parametrize("ceiling", [2.0, 50.0, math.inf])
def test_it_never_falls_below_what_the_waits_between_attempts_can_do(ceiling: float) -> None:
    rate = Rate(ceiling)
    for n in range(100):
        rate.send(float(n))
        rate.throttled(n + 0.5, float(n))
    assert rate.at(99.5) == min(ceiling, LOWEST_RATE)


def test_it_rises_without_throttles_until_nobody_waits() -> None:
    rate = Rate()
    for n in range(100):
        rate.send(n / 100)
    rate.throttled(1.0, 0.995)
    fallen = rate.at(1.0)
    rising = [rate.at(1.0 + second) for second in range(int(CALM_S))]
    assert rising == sorted(set(rising))
    assert rate.at(1.0 + WON_BACK_S) == pytest.approx(fallen / FALL)
    assert rate.at(1.0 + CALM_S) == math.inf
    rate.send(1.0 + CALM_S)
    assert rate.wait_s(1.0 + CALM_S) == 0


def test_a_pause_that_the_store_asks_for_is_kept_but_has_a_bound() -> None:
    rate = Rate()
    rate.send(0.0)
    rate.throttled(1.0, 0.0, pause_s=7.0)
    assert rate.wait_s(1.0) == pytest.approx(7.0)
    rate.throttled(1.1, 0.0)  # another one of those that were on their way
    assert rate.wait_s(2.0) == pytest.approx(6.0)
    rate.throttled(1.2, 0.0, pause_s=1e9)
    assert rate.wait_s(1.2) == pytest.approx(LONGEST_PAUSE_S)


@pytest.mark.parametrize("per_s", [100.0, 200.0, 1000.0])
@pytest.mark.parametrize("num_processes", [1, 8])
def test_a_limit_is_nearly_used_up_and_seldom_exceeded(per_s: float, num_processes: int) -> None:
    """Each process has 32 requests under way wherever it may, for a minute of made-up time."""
    made, refused = busy_minute([Rate() for _ in range(num_processes)], per_s, seconds=60)
    assert sum(made) >= 0.8 * per_s * 60
    assert refused <= 0.15 * sum(made)
    assert min(made) >= 0.33 * sum(made) / num_processes


def busy_minute(rates: list[Rate], per_s: float, seconds: int) -> tuple[list[int], int]:
    """Requests that a limit let through, by process, and how many it refused."""
    limit = Limit(per_s, per_s / 10, 0.0)
    made, refused = [0] * len(rates), 0
    under_way: list[tuple[float, int, float, bool]] = []
    idle = [32] * len(rates)
    for tick in range(seconds * 500):
        moment = tick / 500
        while under_way and under_way[0][0] <= moment:
            _, each, sent_at, admitted = heapq.heappop(under_way)
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
                heapq.heappush(under_way, (moment + REQUEST_S, each, moment, admitted))
    return made, refused


def test_threads_are_served_in_the_order_in_which_they_came() -> None:
    line = Line(Rate(), time.monotonic)
    sent_at = line.turn(math.inf)
    line.throttled(sent_at, pause_s=0.5)
    moments: dict[int, float] = {}

    def go(number: int) -> None:
        moments[number] = line.turn(time.monotonic() + 60)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(line._waiting) + len(moments) <= number:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert sorted(moments, key=moments.__getitem__) == list(range(8))
    assert min(moments.values()) >= sent_at + 0.5


def test_who_cannot_wait_so_long_leaves_the_line_to_the_others() -> None:
    line = Line(Rate(), time.monotonic)
    sent_at = line.turn(math.inf)
    line.throttled(sent_at, pause_s=0.3)
    with pytest.raises(TimeoutError, match=r"no turn in time: the store throttles, .* 16 requests"):
        line.turn(time.monotonic() + 0.01)
    assert not line._waiting
    assert line.turn(time.monotonic() + 60) >= sent_at + 0.3


def test_all_attempts_together_wait_no_longer_than_their_policy() -> None:
    pacer, attempts = Pacer(), []
    policy = RetryPolicy(attempts=1000, total_s=0.2, first_wait_s=0.001, longest_wait_s=0.001)

    def throttled() -> None:
        attempts.append(1)
        raise answered("SlowDown", 503, **{"retry-after": "20"})

    with pytest.raises(OSError, match="no turn in time"):
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
            pacer.ask(raising(error), math.inf)
    assert pacer.rate == math.inf
    with pytest.raises(OSError, match="no") as caught:
        pacer.ask(raising(SLOW_DOWN), math.inf)
    assert caught.value is SLOW_DOWN
    assert FALL * FIRST_RATE <= pacer.rate < math.inf


def raising(error: BaseException) -> Any:
    def action() -> None:
        raise error

    return action


def test_a_fork_does_not_wait_behind_threads_that_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pacer = Pacer()
    sent_at = pacer._line.turn(math.inf)
    pacer._line.throttled(sent_at, pause_s=LONGEST_PAUSE_S)
    with pytest.raises(TimeoutError):
        pacer.ask(lambda: None, time.monotonic())
    monkeypatch.setattr(pacing.os, "getpid", lambda: -1)
    assert pacer.ask(lambda: "asked", time.monotonic()) == "asked"


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
def test_a_throttle_is_known_and_will_pass(error: BaseException, throttles: bool) -> None:
    assert is_throttle(error) is throttles
    assert not throttles or (is_passing(error) and classify(error) is Fault.BUSY)


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
def test_how_long_the_store_asks_to_wait_is_read(header: dict[str, str], seconds: int) -> None:
    assert retry_after_s(answered("SlowDown", 503, **header)) == seconds


def test_a_store_may_ask_to_wait_until_a_date() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < retry_after_s(answered("SlowDown", 503, **{"retry-after": then})) <= 100


def spec(requests_per_s: Any) -> RunSpec:
    storage = {"s3": {"requests_per_s": requests_per_s}}
    return RunSpec.from_dict(
        {"name": "night", "manifest": "p.txt", "output": "s3://press", "storage": storage}
    )


@pytest.mark.parametrize("value", [0, -1, 0.01, 2e6, 10**30, "50", True, [5]])
def test_a_ceiling_that_is_none_is_refused_in_one_line(value: Any) -> None:
    said = r"s3\.requests_per_s: .* is no number from 0\.1 to 1,000,000"
    with pytest.raises(SpecError, match=said) as caught:
        spec(value)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(StoreDenied, match=rf"^s3://press: storage\.{said}$"):
        Store("s3://press", {"s3": {"requests_per_s": value}})


def test_another_ceiling_is_no_other_run() -> None:
    assert spec(50).changes(spec(0.5)) == spec(50).changes(spec(None)) == []


@pytest.fixture
def faulty(bucket: Folder) -> Iterator[FaultyProxy]:
    with proxy(bucket.options["s3"]["endpoint_url"]) as running:
        yield running


def pacer_of(store: Store) -> Pacer:
    assert isinstance(store._folder, RemoteFolder)
    return store._folder.pacer


def test_the_threads_of_a_store_come_to_keep_its_limit(bucket: Folder, faulty: FaultyProxy) -> None:
    policy = RetryPolicy(first_wait_s=0.01, longest_wait_s=0.1)
    store = Store(f"{bucket.url}/run", faulty.options, policy)
    store.check()
    assert pacer_of(store).rate == math.inf
    throttled = []
    for part in ("learning", "knowing"):
        faulty.limit(40)
        paths = [f"{part}/{n}.png" for n in range(60)]
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(lambda path: store.create(path, path.encode()), paths))
        throttled.append(faulty.num_throttled)
        assert pacer_of(store).rate < 100
    assert throttled[0] > 0
    assert throttled[1] < 20
    faulty.limit(None)
    assert len(store.list()) == 120


def test_a_pause_reaches_the_store_through_its_driver(bucket: Folder, faulty: FaultyProxy) -> None:
    store = Store(f"{bucket.url}/run", faulty.options, RetryPolicy(first_wait_s=0.01))
    store.check()
    faulty.retry_after = "1"
    faulty.order("PUT", [Trouble.SLOW_DOWN])
    began = time.monotonic()
    assert store.create("images/a.png", b"1")
    assert time.monotonic() - began >= 1


def test_a_ceiling_is_the_stores_and_not_the_drivers(bucket: Folder) -> None:
    options = {"s3": {**bucket.options["s3"], "requests_per_s": 50}}
    store = pickle.loads(pickle.dumps(Store(f"{bucket.url}/run", options)))
    assert store.create("images/a.png", b"1")
    assert pacer_of(store).rate == pacer_of(store.reading_back()).rate == 50
    with store.told():
        filesystem, root = store.arrow()
        assert filesystem.get_file_info(f"{root}/images/a.png").size == 1


def test_who_gives_up_behind_a_throttle_says_so_in_one_line(
    bucket: Folder, faulty: FaultyProxy
) -> None:
    store = Store(f"{bucket.url}/run", faulty.options, RetryPolicy(total_s=0.5, first_wait_s=0.01))
    store.check()
    faulty.retry_after = "25"
    faulty.order("GET", [Trouble.SLOW_DOWN])
    with pytest.raises(StoreError) as caught:
        store.read("images/a.png")
    said = f"{store.url}/images/a.png: {faulty.endpoint} keeps failing (no turn in time: the store"
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
