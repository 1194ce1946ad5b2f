"""What a sample is and draws depends on its place in the run alone."""

import torch

from nightpress.diffusion_core.training.randomness import normal, place_generator, strata
from nightpress.pipelines.training.order import Order


def test_every_pass_shows_each_picture_once() -> None:
    order = Order(seed=3, num_images=10, batch_size=4)
    shown = [image for step in range(5) for image in order.images(step)]
    assert sorted(shown[:10]) == list(range(10))
    assert sorted(shown[10:]) == list(range(10))
    assert shown[:10] != shown[10:]


def test_a_step_is_the_same_whether_one_walks_to_it_or_not() -> None:
    walked = Order(seed=3, num_images=7, batch_size=4)
    for step in range(9):
        walked.images(step)
    assert walked.images(9) == Order(seed=3, num_images=7, batch_size=4).images(9)


def test_workers_share_a_step_without_changing_it() -> None:
    order = Order(seed=1, num_images=20, batch_size=6)

    def drawn(world_size: int) -> dict[int, tuple[float, list[float]]]:
        return {
            pick.image: (pick.uniform, torch.randn(3, generator=pick.generator).tolist())
            for rank in range(world_size)
            for pick in order.picks(5, rank, world_size)
        }

    assert len(drawn(1)) == 6
    assert drawn(1) == drawn(2) == drawn(3)


def test_another_seed_orders_and_draws_otherwise() -> None:
    one, other = (Order(seed=seed, num_images=50, batch_size=8) for seed in (0, 1))
    assert one.images(0) != other.images(0)
    assert [p.uniform for p in one.picks(0)] != [p.uniform for p in other.picks(0)]


def test_a_batch_has_one_number_from_each_stratum() -> None:
    numbers = strata(seed=0, step=11, batch_size=16)
    assert sorted((numbers * 16).long().tolist()) == list(range(16))
    assert float(numbers.max()) < 1


def test_neighbouring_places_draw_unlike_numbers() -> None:
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


def test_noise_of_a_sample_does_not_depend_on_its_companions() -> None:
    alone = normal((4, 2, 2), [place_generator(0, 0, 5)])
    among = normal((4, 2, 2), [place_generator(0, 0, index) for index in range(8)])
    assert torch.equal(alone[0], among[5])
