"""Nights full of trouble: nothing is lost, nothing is made twice, and no byte differs."""

from collections.abc import Iterator

import pytest
import tiny_models
from faulty_proxy import proxy
from night import POISON, Night, Place, cluster_of_nodes
from servers import Folder, Server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, seaweed: Server) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("nights")
    model = tiny_models.save("sd", folder / "model")
    log = folder / "sampled"
    log.touch()
    bucket: Folder = seaweed.folder()
    with proxy(seaweed.endpoint) as faulty, cluster_of_nodes(log) as cluster:
        yield Place(folder, bucket, faulty, cluster, model, log)


def test_a_night_with_a_little_of_everything_ends_as_if_nothing_had_happened(
    place: Place,
) -> None:
    tally = Night(place, seed=1, num_faults=4, poison=("SEGFAULT",)).pass_by()
    assert (tally.lost, tally.doubled, tally.different) == (0, 0, 0), str(tally)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(100, 110))
def test_nights_full_of_trouble_end_as_if_nothing_had_happened(place: Place, seed: int) -> None:
    poison = tuple(sorted(POISON))[seed % 5 :][:2] if seed % 2 else ()
    tally = Night(place, seed, num_faults=8, poison=poison).pass_by()
    assert (tally.lost, tally.doubled, tally.different) == (0, 0, 0), str(tally)
