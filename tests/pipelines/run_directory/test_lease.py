"""The lease: who holds a run, who may take it, and what becomes of the one that is pushed aside."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.servers import Folder, Server

from nightpress.pipelines.errors import LeaseLost, RunHeld, StoreError
from nightpress.pipelines.run_directory import lease
from nightpress.pipelines.run_directory.lease import (
    Claim,
    Lease,
    acquire,
    held,
    holder,
    new_claim,
    require_free,
    require_nobody_since,
)
from nightpress.pipelines.storage import Store

BEAT_S = 0.05
QUICK = {"silence_s": 0.5, "look_s": 0.1, "beat_s": BEAT_S}


@pytest.fixture
def store(run_url: Folder) -> Store:
    return Store(run_url.url, run_url.options)


def elsewhere(claim: Claim) -> Claim:
    """The claim as another machine would write it: whether its process lives cannot be told."""
    return replace(claim, host="far-away", process=None)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_first_start_holds_it_and_the_second_is_told_by_whom(store: Store) -> None:
    first = acquire(store, **QUICK)
    with pytest.raises(RunHeld) as told:
        acquire(store, **QUICK)
    text = str(told.value)
    assert f"process {os.getpid()}" in text
    assert new_claim().host in text
    assert "--take-over" in text
    assert "\n" not in text
    first.require()
    first.release()


def test_a_lease_that_was_let_go_is_taken_at_once(store: Store) -> None:
    watched: list[Claim] = []
    for number in (1, 2, 3):
        with held(store, require_free(store, on_watch=watched.append)) as lease:
            assert lease.number == number
    assert watched == []


def test_numbers_grow_and_old_ones_are_swept(store: Store) -> None:
    for _ in range(4):
        with held(store):
            pass
    assert list(store.list("lease")) == ["lease/00003.json", "lease/00004.json"]


def test_a_holder_whose_process_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import os, sys; from nightpress.pipelines.run_directory.lease import acquire; "
        "from nightpress.pipelines.storage import Store;"
        "acquire(Store(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")])
    assert killed.returncode == -9
    watched: list[Claim] = []
    store = Store(str(tmp_path / "run"))
    acquire(store, require_free(store, on_watch=watched.append)).release()
    assert watched == []


def test_a_holder_elsewhere_that_stays_silent_is_taken_over(store: Store) -> None:
    store.create("lease/00001.json", elsewhere(new_claim()).to_json())
    watched: list[Claim] = []
    began = time.monotonic()
    free = require_free(store, on_watch=watched.append, silence_s=0.5, look_s=0.1)
    assert time.monotonic() - began >= 0.5
    lease = acquire(store, free, **QUICK)
    assert (lease.number, [claim.host for claim in watched]) == (2, ["far-away"])
    lease.release()


def test_clocks_that_differ_by_hours_change_nothing(store: Store) -> None:
    for since in ("1999-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"):
        claim = elsewhere(replace(new_claim(), since=since))
        number = max([0, *lease._numbers(store)]) + 1
        store.create(f"lease/{number:05d}.json", claim.to_json())
        beating = Lease(store, number, claim, BEAT_S)
        with pytest.raises(RunHeld, match="far-away"):
            acquire(store, **QUICK)
        beating._end.set()  # it falls silent, and lets nothing go
        beating._thread.join()
        acquire(store, **QUICK).release()


def test_taking_over_fences_the_one_that_held_it(store: Store) -> None:
    old = acquire(store, **QUICK)
    new = acquire(store, require_free(store, take_over=True), **QUICK)
    with pytest.raises(LeaseLost, match="taken over by"):
        old.fence.require(store)
    wait_for(lambda: old._lost is not None)
    with pytest.raises(LeaseLost):
        old.require()
    new.fence.require(store)
    new.require()
    old.release()  # says nothing over the new holder's head
    assert not holder(store).released
    new.release()
    assert holder(store).released


def test_a_start_takes_its_own_lease_again_in_another_process_at_once(store: Store) -> None:
    lost = acquire(store, **QUICK)
    mine = acquire(store, lost.again, **QUICK)
    assert mine.number == lost.number + 1
    with pytest.raises(LeaseLost):
        lost.fence.require(store)
    with pytest.raises(RunHeld):  # but not from whoever came between
        acquire(store, lost.again, **QUICK)
    mine.release()


def test_a_holder_that_comes_to_life_before_it_is_replaced_keeps_its_lease(store: Store) -> None:
    claim = elsewhere(new_claim())
    store.create("lease/00001.json", claim.to_json())
    free = require_free(store, silence_s=0.3, look_s=0.1)
    awake = Lease(store, 1, claim, BEAT_S)
    wait_for(lambda: holder(store).beats > 0)
    with pytest.raises(RunHeld):
        acquire(store, free, **QUICK)
    awake.require()
    awake.release()


def test_one_that_came_between_is_seen(store: Store) -> None:
    free = require_free(store)
    between = acquire(store, **QUICK)
    with pytest.raises(RunHeld):
        require_nobody_since(store, free)
    between.release()
    require_nobody_since(store, free)


def test_a_claim_that_cannot_be_read_is_watched_like_any_other(store: Store) -> None:
    store.create("lease/00001.json", b"not json")
    lease = acquire(store, **QUICK)
    assert lease.number == 2
    store.create("lease/00003.json", b'{"of": "a later version"}')
    with pytest.raises(LeaseLost, match="an unreadable lease"):
        lease.fence.require(store)
    lease.release()


def test_of_starts_at_the_same_instant_one_holds_it(store: Store) -> None:
    barrier, got, told = threading.Barrier(8), [], []

    def start() -> None:
        barrier.wait()
        try:
            got.append(acquire(store, **QUICK))
        except RunHeld as error:
            told.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(told)) == (1, 7)
    got[0].release()


def test_a_start_that_was_slow_to_list_does_not_get_a_number_of_the_past(store: Store) -> None:
    for _ in range(3):
        with held(store):
            pass
    assert not lease._claim(store, 1, new_claim())


def test_on_a_store_that_replaces_the_later_claim_stands(
    rclone_s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.5)
    folder = rclone_s3.folder()
    store = Store(folder.url, folder.options).reading_back()
    barrier, results = threading.Barrier(2), []

    def start() -> None:
        claim = new_claim()
        barrier.wait()
        results.append((claim.token, lease._claim(store, 1, claim)))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [token for token, won in results if won]
    assert winners == [json.loads(store.read("lease/00001.json"))["token"]]


def test_on_a_store_that_replaces_a_holder_sees_that_its_claim_is_gone(
    rclone_s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.0)
    folder = rclone_s3.folder()
    store = Store(folder.url, folder.options).reading_back()
    first = acquire(store, **QUICK)
    store.put("lease/00001.json", new_claim().to_json())
    wait_for(lambda: first._lost is not None)
    first.release()


class StallingStore(Store):
    """A local store whose reads can be made to take long."""

    stall_s = 0.0

    def read(self, path: str) -> bytes:
        time.sleep(self.stall_s)
        return super().read(path)


def test_time_in_which_the_store_does_not_answer_is_no_silence(tmp_path: Path) -> None:
    slow, store = StallingStore(str(tmp_path)), Store(str(tmp_path))
    claim = elsewhere(new_claim())
    store.create("lease/00001.json", claim.to_json())
    slow.stall_s = 1.5  # longer than the silence that is allowed

    def come_back() -> None:
        time.sleep(2.5)
        slow.stall_s = 0.0
        store.put("lease/00001.json", replace(claim, beats=1).to_json())

    thread = threading.Thread(target=come_back)
    thread.start()
    with pytest.raises(RunHeld):
        acquire(slow, **QUICK)
    thread.join()


class FailingStore(Store):
    """A local store that can be made to refuse everything that lists."""

    fails = False

    def list(self, folder: str = "") -> dict[str, int]:
        if self.fails:
            raise StoreError("it keeps failing")
        return super().list(folder)


@pytest.fixture
def failing(tmp_path: Path) -> FailingStore:
    return FailingStore(str(tmp_path))


def test_a_store_that_fails_for_a_while_costs_no_lease(
    failing: FailingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = acquire(failing, **QUICK)
    monkeypatch.setattr(FailingStore, "fails", True)
    time.sleep(4 * BEAT_S)
    monkeypatch.setattr(FailingStore, "fails", False)
    before = holder(failing).beats
    wait_for(lambda: holder(failing).beats > before)
    kept.require()
    kept.release()
