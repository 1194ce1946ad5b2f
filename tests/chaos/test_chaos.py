"""Nights with faults: no image is lost, doubled or different."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from environment import (
    ACTORS_PER_NODE,
    NOTICE_S,
    Environment,
    actors_on,
    environment_in,
    notify,
)
from gated_night import GatedNight
from night import POISON, Night
from signed_night import SignedNight
from support.servers import Server
from support.signers import Studio

from nightpress.pipelines.image_files.content_credentials.signing_key import KEY
from nightpress.pipelines.run_directory.commit import committed_shards
from nightpress.pipelines.storage import Store

pytestmark = pytest.mark.timeout(1800)
"""Longer than `GIVE_UP_S` of a night, whose own error says more about what went wrong."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, seaweed: Server) -> Iterator[Environment]:
    with environment_in(tmp_path_factory.mktemp("nights"), seaweed) as here:
        yield here


def run_without_damage(night: Night) -> None:
    with night:
        tally = night.run_to_end()
    assert tally.is_whole, str(tally)


@pytest.mark.chaos
def test_a_night_with_a_few_faults_damages_nothing(
    environment: Environment,
) -> None:
    run_without_damage(
        Night(environment, 1, num_faults=2, poison=("CRAMPED", "BLANK"), num_healthy=16)
    )


def poison_of(seed: int) -> tuple[str, ...]:
    """Three kinds of poison in every other night, which cover all kinds in three such nights."""
    kinds = sorted(POISON)
    return tuple(kinds[(seed + shift) % len(kinds)] for shift in (0, 3, 6)) if seed % 2 else ()


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(101, 106))
def test_nights_with_many_faults_damage_nothing(environment: Environment, seed: int) -> None:
    run_without_damage(Night(environment, seed, num_faults=8, poison=poison_of(seed)))


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(900, 902))
def test_nights_whose_gates_reject_half_take_the_draws_of_a_quiet_night(
    environment: Environment, seed: int
) -> None:
    run_without_damage(GatedNight(environment, seed, num_faults=6, num_healthy=16))


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("seed", "algorithm", "embed"), [(950, "es256", "full"), (951, "ed25519", "minimal")]
)
def test_signed_nights_end_with_the_bytes_of_a_quiet_night_and_credentials_that_readers_trust(
    environment: Environment,
    seed: int,
    algorithm: str,
    embed: Literal["full", "minimal"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    studio = Studio.new(algorithm)
    monkeypatch.setenv(KEY, studio.signer.key_pem)
    run_without_damage(SignedNight(environment, seed, 6, 16, studio, embed))


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(200, 202))
def test_nights_in_a_folder_on_a_disk_that_is_full_at_times_damage_nothing(
    tmp_path: Path, seed: int
) -> None:
    with environment_in(tmp_path, None) as here:
        run_without_damage(Night(here, seed, num_faults=8, poison=poison_of(seed)))


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(300, 302))
def test_nights_on_a_store_without_conditional_writes_damage_nothing(
    tmp_path: Path, rclone_s3: Server, seed: int
) -> None:
    with environment_in(tmp_path, rclone_s3) as here:
        run_without_damage(Night(here, seed, num_faults=8, poison=poison_of(seed)))


@pytest.mark.chaos
def test_a_store_that_is_silent_for_two_minutes_is_waited_for(environment: Environment) -> None:
    with Night(environment, seed=400, num_faults=0, poison=()) as night:
        store = Store(night.spec.url, environment.bucket.options)
        night.start()
        while not committed_shards(store):
            assert night.await_end(0.2) is None
        assert environment.proxy is not None
        environment.proxy.fall_silent(120)
        assert night.await_end(400) == 0, night.report()
        night.check()
        assert night.tally.starts == 1
        assert night.tally.resampled == 0


@pytest.mark.chaos
def test_a_driver_killed_fifty_times_loses_nothing(environment: Environment) -> None:
    with Night(environment, seed=500, num_faults=0, poison=()) as night:
        for _ in range(50):
            night.start()
            time.sleep(night.random.uniform(2.0, 14.0))
            night.inject("driver_killed")
            night.await_end(10)
        night.start()
        assert night.await_end(300) == 0, night.report()
        night.check()
        assert night.tally.is_whole, str(night.tally)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(600, 605))
def test_of_two_drivers_started_at_once_only_one_makes_the_images(
    environment: Environment, seed: int
) -> None:
    with Night(environment, seed, num_faults=0, poison=()) as night:
        night.start()
        other = night.command("run")
        code = night.await_end(300)
        said, _ = other.communicate(timeout=300)
        assert sorted([code, other.returncode]) in ([0, 0], [0, 5]), night.report() + said
        night.check()
        assert night.tally.is_whole, str(night.tally)
        assert night.tally.resampled == 0


@pytest.mark.chaos
def test_a_spot_machine_that_gives_notice_costs_no_image(environment: Environment) -> None:
    with Night(environment, seed=700, num_faults=0, poison=()) as night:
        store = Store(night.spec.url, environment.bucket.options)
        night.start()
        while len(committed_shards(store)) < 2:
            assert night.await_end(0.2) is None
        node = next(node for node in environment.cluster.worker_nodes if actors_on(node))
        notify(environment.cluster, node)
        end = time.monotonic() + NOTICE_S
        while actors_on(node) and time.monotonic() < end:
            time.sleep(0.1)
        assert not actors_on(node)
        assert night.await_end(0.1) is None
        environment.cluster.remove_node(node, allow_graceful=False)
        environment.cluster.add_node(num_cpus=ACTORS_PER_NODE)
        assert night.await_end(300) == 0, night.report()
        night.check()
        assert night.tally.is_whole, str(night.tally)
        assert night.tally.resampled == 0


@pytest.mark.chaos
def test_extends_killed_at_random_make_what_came_and_nothing_again(
    environment: Environment,
) -> None:
    with Night(environment, seed=800, num_faults=0, poison=(), num_healthy=16) as night:
        night.start()
        assert night.await_end(300) == 0, night.report()
        store = Store(night.spec.url, environment.bucket.options)
        before = {path: store.read(path) for path in store.list("images")}
        for _ in range(3):
            night.grow(8)
            for _ in range(4):
                night.start()
                time.sleep(night.random.uniform(1.0, 12.0))
                night.inject("driver_killed")
                night.await_end(10)
            night.start()
            assert night.await_end(300) == 0, night.report()
        night.check()
        assert night.tally.is_whole, str(night.tally)
        assert night.num_sampled(range(16)) == 16
        assert {path: store.read(path) for path in before} == before
        assert len([path for path in store.list("editions") if path.endswith(".json")]) == 3


@pytest.mark.chaos
def test_a_night_with_faults_whose_manifest_grows_in_between_damages_nothing(
    environment: Environment,
) -> None:
    with Night(environment, seed=810, num_faults=8, poison=(), num_healthy=24) as night:
        night.start()
        time.sleep(night.random.uniform(5.0, 15.0))
        night.inject("driver_killed")
        night.await_end(10)
        store = Store(night.spec.url, environment.bucket.options)
        if not store.list("plan"):  # it was killed before it had planned
            night.start()
            assert night.await_end(300) == 0, night.report()
        night.grow(16, edition="-2")
        tally = night.run_to_end()
        assert tally.is_whole, str(tally)
