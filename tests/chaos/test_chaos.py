"""Nights full of trouble: nothing is lost, nothing is made twice, and no byte differs."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from night import POISON, Night
from place import ACTORS_PER_NODE, NOTICE_S, Place, actors_on, notify, place_at
from support.servers import Server

from nightpress.pipelines.run_directory.commit import committed_shards
from nightpress.pipelines.storage import Store

pytestmark = pytest.mark.timeout(1800)
"""Longer than a night's own patience with a driver, which says more about what went wrong."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, seaweed: Server) -> Iterator[Place]:
    with place_at(tmp_path_factory.mktemp("nights"), seaweed) as here:
        yield here


def nothing_is_wrong(night: Night) -> None:
    with night:
        tally = night.pass_by()
    assert tally.is_whole, str(tally)


def test_a_night_with_a_little_of_everything_ends_as_if_nothing_had_happened(
    place: Place,
) -> None:
    nothing_is_wrong(Night(place, 1, num_faults=2, poison=("CRAMPED", "BLANK"), num_healthy=16))


def poison_of(seed: int) -> tuple[str, ...]:
    """Three kinds every other night, and all of them in three of those."""
    kinds = sorted(POISON)
    return tuple(kinds[(seed + shift) % len(kinds)] for shift in (0, 3, 6)) if seed % 2 else ()


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(101, 106))
def test_nights_full_of_trouble_end_as_if_nothing_had_happened(place: Place, seed: int) -> None:
    nothing_is_wrong(Night(place, seed, num_faults=8, poison=poison_of(seed)))


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(200, 202))
def test_nights_in_a_folder_of_a_disk_that_is_full_at_times(tmp_path: Path, seed: int) -> None:
    with place_at(tmp_path, None) as here:
        nothing_is_wrong(Night(here, seed, num_faults=8, poison=poison_of(seed)))


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(300, 302))
def test_nights_on_a_store_that_lets_names_be_written_twice(
    tmp_path: Path, rclone_s3: Server, seed: int
) -> None:
    with place_at(tmp_path, rclone_s3) as here:
        nothing_is_wrong(Night(here, seed, num_faults=8, poison=poison_of(seed)))


@pytest.mark.chaos
def test_a_store_that_is_silent_for_two_minutes_is_waited_for(place: Place) -> None:
    with Night(place, seed=400, num_faults=0, poison=()) as night:
        store = Store(night.spec.url, place.bucket.options)
        night.start()
        while not committed_shards(store):
            assert night.await_end(0.2) is None
        assert place.proxy is not None
        place.proxy.fall_silent(120)
        assert night.await_end(400) == 0, night.story()
        night.prove()
        assert night.tally.starts == 1
        assert night.tally.resampled == 0


@pytest.mark.chaos
def test_a_driver_killed_fifty_times_loses_nothing(place: Place) -> None:
    with Night(place, seed=500, num_faults=0, poison=()) as night:
        for _ in range(50):
            night.start()
            time.sleep(night.random.uniform(2.0, 14.0))
            night.befall("driver_killed")
            night.await_end(10)
        night.start()
        assert night.await_end(300) == 0, night.story()
        night.prove()
        assert night.tally.is_whole, str(night.tally)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(600, 605))
def test_of_two_drivers_started_at_the_same_instant_one_makes_the_images(
    place: Place, seed: int
) -> None:
    with Night(place, seed, num_faults=0, poison=()) as night:
        night.start()
        other = night.command("run")
        code = night.await_end(300)
        said, _ = other.communicate(timeout=300)
        assert sorted([code, other.returncode]) in ([0, 0], [0, 5]), night.story() + said
        night.prove()
        assert night.tally.is_whole, str(night.tally)
        assert night.tally.resampled == 0


@pytest.mark.chaos
def test_a_spot_machine_that_gives_notice_costs_no_image(place: Place) -> None:
    with Night(place, seed=700, num_faults=0, poison=()) as night:
        store = Store(night.spec.url, place.bucket.options)
        night.start()
        while len(committed_shards(store)) < 2:
            assert night.await_end(0.2) is None
        node = next(node for node in place.cluster.worker_nodes if actors_on(node))
        notify(place.cluster, node)
        end = time.monotonic() + NOTICE_S
        while actors_on(node) and time.monotonic() < end:
            time.sleep(0.1)
        assert not actors_on(node)
        assert night.await_end(0.1) is None
        place.cluster.remove_node(node, allow_graceful=False)
        place.cluster.add_node(num_cpus=ACTORS_PER_NODE)
        assert night.await_end(300) == 0, night.story()
        night.prove()
        assert night.tally.is_whole, str(night.tally)
        assert night.tally.resampled == 0
