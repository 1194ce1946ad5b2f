"""A batch item and its random numbers depend only on seed, step and index."""

import torch

from nightpress.diffusion_core.training.randomness import normal, place_generator, strata
from nightpress.pipelines.training.sample_order import SampleOrder


def test_every_epoch_shows_each_image_once() -> None:
    order = SampleOrder(seed=3, num_images=10, batch_size=4)
    shown = [image for step in range(5) for image in order.images(step)]
    assert sorted(shown[:10]) == list(range(10))
    assert sorted(shown[10:]) == list(range(10))
    assert shown[:10] != shown[10:]


def test_a_step_does_not_depend_on_the_steps_computed_before_it() -> None:
    order = SampleOrder(seed=3, num_images=7, batch_size=4)
    for step in range(9):
        order.images(step)
    assert order.images(9) == SampleOrder(seed=3, num_images=7, batch_size=4).images(9)


def test_the_items_of_a_step_do_not_depend_on_the_number_of_workers() -> None:
    order = SampleOrder(seed=1, num_images=20, batch_size=6)

    def drawn(world_size: int) -> dict[int, tuple[float, list[float]]]:
        return {
            item.image: (item.uniform, torch.randn(3, generator=item.generator).tolist())
            for rank in range(world_size)
            for item in order.batch_items(5, rank, world_size)
        }

    assert len(drawn(1)) == 6
    assert drawn(1) == drawn(2) == drawn(3)


def test_another_seed_gives_another_order_and_other_random_numbers() -> None:
    one, other = (SampleOrder(seed=seed, num_images=50, batch_size=8) for seed in (0, 1))
    assert one.images(0) != other.images(0)
    assert [p.uniform for p in one.batch_items(0)] != [p.uniform for p in other.batch_items(0)]


def test_a_batch_has_one_number_from_each_stratum() -> None:
    numbers = strata(seed=0, step=11, batch_size=16)
    assert sorted((numbers * 16).long().tolist()) == list(range(16))
    assert float(numbers.max()) < 1


def test_random_numbers_of_neighbouring_items_are_uncorrelated() -> None:
    draws = torch.stack(
        [
            torch.randn(64, generator=place_generator(seed, step, index))
            for seed in range(3)
            for step in range(3)
            for index in range(3)
        ]
    )
    correlation = torch.corrcoef(draws) - torch.eye(27)
    assert float(correlation.abs().max()) < 0.6


def test_the_noise_of_an_item_does_not_depend_on_the_rest_of_the_batch() -> None:
    alone = normal((4, 2, 2), [place_generator(0, 0, 5)])
    among = normal((4, 2, 2), [place_generator(0, 0, index) for index in range(8)])
    assert torch.equal(alone[0], among[5])
