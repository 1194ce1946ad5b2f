"""The queue of draws: full batches, no draw without need, and the same decision in any order."""

import random
from collections import deque

import pytest

from nightpress.pipelines.scoring.draws import Decision, DrawRule, decide
from nightpress.pipelines.scoring.verdicts import ENDS, Miss, Verdict
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.draw_queue import Draw, DrawQueue, Place

SIZE = 4


def image(number: int, steps: int = 20, lora: str | None = None) -> PlannedImage:
    return PlannedImage(
        image_id=f"{number}_00",
        id=str(number),
        variant=0,
        shard=0,
        file=f"images/{number}_00.png",
        prompt="a cat",
        negative_prompt="",
        seed=number,
        width=16,
        height=16,
        num_inference_steps=steps,
        guidance_scale=4.5,
        scheduler="euler",
        lora=lora,
        lora_scale=None if lora is None else 1.0,
    )


def places(count: int, kinds: int = 1) -> list[Place]:
    return [Place(image(n, 20 + n % kinds)) for n in range(count)]


def verdict_of(draw: Draw, share: float = 0.5) -> Verdict:
    """A verdict that the seed of a draw decides."""
    chance = random.Random(draw.image.seed)
    rank = float(chance.randrange(5))
    misses = () if chance.random() < share else (Miss("score > 1", "score 0 < 1", 1.0),)
    return Verdict(misses, rank)


def run(queue: DrawQueue, rule: DrawRule, chance: random.Random, share: float = 0.5) -> list[int]:
    """Sample everything, with verdicts up to three batches late; returns the batches' sizes."""
    sizes, late = [], deque[list[Draw]]()
    while not queue.is_finished:
        batch = queue.next_batch()
        if batch:
            sizes.append(len(batch))
            late.append(batch)
        if late and (not batch or len(late) > chance.randint(0, 3)):
            judged = {draw.key: verdict_of(draw, share) for draw in late.popleft()}
            queue.add_verdicts(judged, judged)
            for image_id in {image_id for image_id, _ in judged}:
                queue[image_id].drop_beaten(rule)
    return sizes


def by_definition(place: Place, rule: DrawRule, share: float = 0.5) -> Decision | None:
    draws = [Draw(place.image.drawn(number), number) for number in range(rule.max_draws)]
    return decide({draw.number: verdict_of(draw, share) for draw in draws}, rule)


@pytest.mark.parametrize("seed", range(60))
def test_places_are_decided_as_if_each_were_drawn_alone(seed: int) -> None:
    chance = random.Random(seed)
    most = chance.randint(1, 12)
    rule = DrawRule(chance.randint(1, most), most, chance.choice(["fail", "keep"]))  # type: ignore[arg-type]
    open_places = places(chance.randint(1, 30), chance.randint(1, 3))
    sizes = chance.randint(1, 8)
    run(DrawQueue(open_places, rule, lambda image: sizes), rule, chance)
    for place in open_places:
        decision = place.decision(rule)
        assert decision == by_definition(place, rule)
        assert decision is not None
        assert place.held == ({decision.winner} if decision.winner is not None else set())


def test_while_many_places_are_open_every_batch_is_full_and_no_draw_is_in_vain() -> None:
    rule = DrawRule(1, 16)
    open_places = places(400)
    sizes = run(DrawQueue(open_places, rule, lambda image: SIZE), rule, random.Random(1))
    considered = sum(by_definition(place, rule).num_draws for place in open_places)  # type: ignore[union-attr]
    assert set(sizes) == {SIZE}
    assert sum(sizes) <= considered + 2 * SIZE


def test_the_room_of_a_last_batch_is_shared_evenly_by_the_places_that_are_open() -> None:
    queue = DrawQueue(places(2), DrawRule(1, 16), lambda image: 6)
    assert [draw.key for draw in queue.next_batch()] == [
        ("0_00", 0),
        ("1_00", 0),
        ("0_00", 1),
        ("1_00", 1),
        ("0_00", 2),
        ("1_00", 2),
    ]


def test_best_of_asks_for_all_draws_that_are_needed_for_certain() -> None:
    queue = DrawQueue(places(2), DrawRule(3, 16), lambda image: 3)
    numbers = [[draw.number for draw in queue.next_batch()] for _ in range(2)]
    assert numbers == [[0, 1, 2], [0, 1, 2]]


def test_a_batch_that_is_not_full_waits_for_verdicts_and_other_settings_come_first() -> None:
    queue = DrawQueue(places(7, kinds=2), DrawRule(1, 16), lambda image: 3)
    first = queue.next_batch()
    assert [draw.image.image_id for draw in first] == ["0_00", "2_00", "4_00"]
    assert [draw.image.image_id for draw in queue.next_batch()] == ["1_00", "3_00", "5_00"]
    assert queue.next_batch() == []
    queue.add_verdicts({draw.key: Verdict() for draw in first}, [draw.key for draw in first])
    assert [draw.key for draw in queue.next_batch()] == [
        ("6_00", 0),
        ("6_00", 1),
        ("6_00", 2),
    ]


def test_groups_with_the_same_lora_follow_each_other() -> None:
    loras = ["a", "b", "a", "b"]
    open_places = [Place(image(n, 20 + n, lora)) for n, lora in enumerate(loras)]
    queue = DrawQueue(open_places, DrawRule(1, 1), lambda image: 1)
    assert [queue.next_batch()[0].image.lora for _ in loras] == ["a", "a", "b", "b"]


def test_single_draws_are_alone_in_their_batches() -> None:
    queue = DrawQueue(places(2), DrawRule(2, 4), lambda image: SIZE, singly=True)
    assert [len(queue.next_batch()) for _ in range(4)] == [1, 1, 1, 1]
    assert queue.next_batch() == []


def test_a_winner_of_which_only_the_verdict_is_known_is_made_again() -> None:
    rule = DrawRule(2, 4)
    place = Place(image(0), {0: Verdict(rank=2.0), 1: Verdict(rank=1.0)})
    queue = DrawQueue([place], rule, lambda image: SIZE)
    batch = queue.next_batch()
    assert [draw.number for draw in batch] == [0]
    queue.add_verdicts({batch[0].key: Verdict(rank=2.0)}, [batch[0].key])
    assert queue.is_finished
    assert place.is_done(rule)


def test_a_place_that_fails_for_another_reason_than_its_draws_asks_for_nothing_more() -> None:
    rule = DrawRule(3, 4)
    place = Place(image(0))
    queue = DrawQueue([place], rule, lambda image: 2)
    first, second = queue.next_batch()
    queue.add_verdicts({first.key: ENDS})
    queue.add_verdicts({second.key: Verdict()}, [second.key])
    assert place.drop_beaten(rule) == [1]
    assert queue.is_finished
    assert place.decision(rule) == Decision(None, 1)


def test_a_draw_ahead_of_its_turn_is_held_until_those_before_it_are_known() -> None:
    rule = DrawRule(1, 4)
    place = Place(image(0), {1: Verdict(rank=1.0), 3: Verdict(rank=9.0)}, held={1, 3})
    assert place.drop_beaten(rule) == []
    place.verdicts[0] = Verdict((Miss("score > 1", "score 0 < 1"),))
    assert place.drop_beaten(rule) == [3]
    assert place.decision(rule) == Decision(1, 2)
