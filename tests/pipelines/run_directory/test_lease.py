"""The lease: who holds a run, who may take it over, and how an earlier holder is fenced."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.servers import Folder, Server
from support.waiting import until

from nightpress.pipelines.errors import LeaseLost, RunHeld, StoreError
from nightpress.pipelines.run_directory import lease
from nightpress.pipelines.run_directory.lease import (
    Holder,
    Lease,
    acquire,
    current_process,
    held,
    last_holder,
    require_free,
    require_still_free,
)
from nightpress.pipelines.storage import Store

BEAT_S = 0.05
QUICK = {"silence_s": 0.5, "poll_s": 0.1, "heartbeat_s": BEAT_S}


@pytest.fixture
def store(run_url: Folder) -> Store:
    return Store(run_url.url, run_url.options)


def elsewhere(holder: Holder) -> Holder:
    """A holder on another machine, so that its process cannot be looked up."""
    return replace(holder, host="far-away", process=None)


def test_a_second_process_is_refused_and_told_who_holds_the_lease(store: Store) -> None:
    first = acquire(store, **QUICK)
    with pytest.raises(RunHeld) as caught:
        acquire(store, **QUICK)
    text = str(caught.value)
    assert f"process {os.getpid()}" in text
    assert current_process().host in text
    assert "--take-over" in text
    assert "\n" not in text
    first.require()
    first.release()


def test_a_released_lease_is_taken_at_once(store: Store) -> None:
    watched: list[Holder] = []
    for number in (1, 2, 3):
        with held(store, require_free(store, on_watch=watched.append)) as lease:
            assert lease.number == number
    assert watched == []


def test_numbers_grow_and_old_leases_are_deleted(store: Store) -> None:
    for _ in range(4):
        with held(store):
            pass
    assert list(store.list("lease")) == ["lease/00003.json", "lease/00004.json"]


def test_a_lease_whose_process_has_ended_is_taken_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from nightpress.pipelines.run_directory.lease import acquire; "
        "from nightpress.pipelines.storage import Store;"
        "acquire(Store(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")])
    assert killed.returncode == -9
    watched: list[Holder] = []
    store = Store(str(tmp_path / "run"))
    acquire(store, require_free(store, on_watch=watched.append)).release()
    assert watched == []


def test_a_silent_holder_on_another_machine_is_taken_over(store: Store) -> None:
    store.create("lease/00001.json", elsewhere(current_process()).to_json())
    watched: list[Holder] = []
    began = time.monotonic()
    free = require_free(store, on_watch=watched.append, silence_s=0.5, poll_s=0.1)
    assert time.monotonic() - began >= 0.5
    lease = acquire(store, free, **QUICK)
    assert (lease.number, [holder.host for holder in watched]) == (2, ["far-away"])
    lease.release()


def test_clocks_may_differ_by_hours(store: Store) -> None:
    for since in ("1999-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"):
        holder = elsewhere(replace(current_process(), since=since))
        number = max([0, *lease._numbers(store)]) + 1
        store.create(f"lease/{number:05d}.json", holder.to_json())
        beating = Lease(store, number, holder, BEAT_S)
        with pytest.raises(RunHeld, match="far-away"):
            acquire(store, **QUICK)
        beating._end.set()  # it falls silent without releasing the lease
        beating._thread.join()
        acquire(store, **QUICK).release()


def test_taking_over_fences_the_earlier_holder(store: Store) -> None:
    old = acquire(store, **QUICK)
    new = acquire(store, require_free(store, take_over=True), **QUICK)
    with pytest.raises(LeaseLost, match="taken over by"):
        old.fence.require(store)
    until(lambda: old._lost is not None)
    with pytest.raises(LeaseLost):
        old.require()
    new.fence.require(store)
    new.require()
    old.release()  # does not touch the new holder's lease
    assert not last_holder(store).released
    new.release()
    assert last_holder(store).released


def test_a_process_hands_its_lease_over_to_its_replacement(store: Store) -> None:
    lost = acquire(store, **QUICK)
    mine = acquire(store, lost.handover, **QUICK)
    assert mine.number == lost.number + 1
    with pytest.raises(LeaseLost):
        lost.fence.require(store)
    with pytest.raises(RunHeld):  # the lease has another holder by now
        acquire(store, lost.handover, **QUICK)
    mine.release()


def test_a_holder_whose_heartbeat_returns_in_time_keeps_its_lease(store: Store) -> None:
    holder = elsewhere(current_process())
    store.create("lease/00001.json", holder.to_json())
    free = require_free(store, silence_s=0.3, poll_s=0.1)
    awake = Lease(store, 1, holder, BEAT_S)
    until(lambda: last_holder(store).beats > 0)
    with pytest.raises(RunHeld):
        acquire(store, free, **QUICK)
    awake.require()
    awake.release()


def test_a_process_that_took_the_lease_meanwhile_is_noticed(store: Store) -> None:
    free = require_free(store)
    between = acquire(store, **QUICK)
    with pytest.raises(RunHeld):
        require_still_free(store, free)
    between.release()
    require_still_free(store, free)


def test_an_unreadable_lease_is_watched_like_any_other(store: Store) -> None:
    store.create("lease/00001.json", b"not json")
    lease = acquire(store, **QUICK)
    assert lease.number == 2
    store.create("lease/00003.json", b'{"of": "a later version"}')
    with pytest.raises(LeaseLost, match="an unreadable lease"):
        lease.fence.require(store)
    lease.release()


def test_of_processes_that_start_at_the_same_instant_one_holds_the_lease(store: Store) -> None:
    barrier, leases, errors = threading.Barrier(8), [], []

    def start() -> None:
        barrier.wait()
        try:
            leases.append(acquire(store, **QUICK))
        except RunHeld as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(leases), len(errors)) == (1, 7)
    leases[0].release()


def test_a_process_that_was_slow_to_list_cannot_take_a_past_number(store: Store) -> None:
    for _ in range(3):
        with held(store):
            pass
    assert not lease._take(store, 1, current_process())


def test_on_a_store_without_conditional_writes_the_later_holder_wins(
    rclone_s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.5)
    folder = rclone_s3.folder()
    store = Store(folder.url, folder.options).reading_back()
    barrier, results = threading.Barrier(2), []

    def start() -> None:
        holder = current_process()
        barrier.wait()
        results.append((holder.token, lease._take(store, 1, holder)))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [token for token, won in results if won]
    assert winners == [json.loads(store.read("lease/00001.json"))["token"]]


def test_on_a_store_without_conditional_writes_a_replaced_holder_notices(
    rclone_s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.0)
    folder = rclone_s3.folder()
    store = Store(folder.url, folder.options).reading_back()
    first = acquire(store, **QUICK)
    store.put("lease/00001.json", current_process().to_json())
    until(lambda: first._lost is not None)
    first.release()


class StallingStore(Store):
    """A local store whose reads can be made to take long."""

    stall_s = 0.0

    def read(self, path: str) -> bytes:
        time.sleep(self.stall_s)
        return super().read(path)


def test_a_stalled_store_does_not_count_as_silence_of_the_holder(tmp_path: Path) -> None:
    slow, store = StallingStore(str(tmp_path)), Store(str(tmp_path))
    holder = elsewhere(current_process())
    store.create("lease/00001.json", holder.to_json())
    slow.stall_s = 0.8  # longer than a holder may be silent

    def come_back() -> None:
        time.sleep(1.2)
        slow.stall_s = 0.0
        store.put("lease/00001.json", replace(holder, beats=1).to_json())

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


def test_a_store_that_fails_for_a_while_does_not_cost_the_lease(
    failing: FailingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = acquire(failing, **QUICK)
    monkeypatch.setattr(FailingStore, "fails", True)
    time.sleep(4 * BEAT_S)
    monkeypatch.setattr(FailingStore, "fails", False)
    before = last_holder(failing).beats
    until(lambda: last_holder(failing).beats > before)
    kept.require()
    kept.release()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"token": 1}'])
def test_an_unreadable_lease_is_named_as_a_person_would(content: bytes) -> None:
    holder = Holder.from_json(content)
    assert str(holder) == "an unknown process (an unreadable lease file)"
    assert holder.age == ""


def test_the_age_of_a_lease_is_left_out_if_its_time_cannot_be_compared() -> None:
    holder = current_process()
    assert holder.age.endswith(" ago)")
    for since in ("yesterday", "2026-01-02T03:04:05", ""):
        assert replace(holder, since=since).age == ""
