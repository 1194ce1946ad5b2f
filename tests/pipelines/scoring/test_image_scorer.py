"""Scores of one image: always measured, and scored by the scorers of the job in one thread."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.fakes.fake_scorers import FakeScorer

from nightpress.pipelines.scoring.image_scorer import ImageScorer
from nightpress.pipelines.scoring.measurements import MEASUREMENTS, measure
from nightpress.pipelines.scoring.perceptual_hash import perceptual_hash
from nightpress.pipelines.scoring.scorer import ScoredImage, Scorer

PIXELS = np.random.default_rng(7).integers(0, 256, (48, 64, 3), np.uint8)


def scored(scorers: Mapping[str, Scorer], columns: Mapping[str, object] | None = None):  # type: ignore[no-untyped-def]
    scorer = ImageScorer(scorers)
    try:
        return scorer.score(PIXELS, lambda: columns or {"prompt": "a"})
    finally:
        scorer.close()


def test_every_image_is_measured() -> None:
    found = scored({})
    assert found.scores == measure(PIXELS)
    assert tuple(found.scores) == MEASUREMENTS
    assert found.perceptual_hash == perceptual_hash(PIXELS)
    assert found.errors == {}


def test_scores_have_the_name_of_their_scorer_and_their_label() -> None:
    kinds = FakeScorer(lambda image: {"cat": 0.25, "dog": 0.75})
    found = scored({"clip": FakeScorer(lambda image: {"": 0.5}), "kind": kinds})
    own = {name: found.scores[name] for name in found.scores if name not in MEASUREMENTS}
    assert own == {"clip": 0.5, "kind.cat": 0.25, "kind.dog": 0.75}


def test_a_scorer_sees_the_pixels_and_the_row() -> None:
    seen: list[ScoredImage] = []

    def note(image: ScoredImage) -> dict[str, float]:
        seen.append(image)
        return {"": 1.0}

    scored({"own": FakeScorer(note)}, {"prompt": "a", "mood": "calm"})
    assert seen[0].columns == {"prompt": "a", "mood": "calm"}
    assert np.array_equal(seen[0].pixels, PIXELS)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (lambda image: 1 / 0, "division by zero"),
        (lambda image: {"": float("nan")}, "bad is nan, and a score must be a finite number"),
        (lambda image: {"": "high"}, "could not convert string to float: 'high'"),
    ],
)
def test_a_scorer_that_fails_leaves_its_score_empty_and_the_others_as_they_are(
    score, reason: str
) -> None:  # type: ignore[no-untyped-def]
    found = scored({"bad": FakeScorer(score), "good": FakeScorer(lambda image: {"": 1.0})})
    assert (found.scores["bad"], found.scores["good"]) == (None, 1.0)
    assert found.scores["contrast"] is not None
    assert found.errors == {"bad": reason}


def test_images_are_scored_one_at_a_time_in_one_thread() -> None:
    threads, at_once, most = set[str](), [0], [0]

    def watch(image: ScoredImage) -> dict[str, float]:
        threads.add(threading.current_thread().name)
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        threading.Event().wait(0.005)
        at_once[0] -= 1
        return {"": 1.0}

    notes: list[bool] = []
    scorer = ImageScorer({"own": FakeScorer(watch)}, notes.append)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: scorer.score(PIXELS, dict), range(8)))
    scorer.close()
    assert (len(threads), most) == (1, [1])
    assert notes == [True, False] * 8


def test_it_says_for_how_long_a_scorer_has_been_at_an_image() -> None:
    entered, leave = threading.Event(), threading.Event()

    def wait(image: ScoredImage) -> dict[str, float]:
        entered.set()
        leave.wait(10)
        return {"": 1.0}

    scorer = ImageScorer({"slow": FakeScorer(wait)})
    assert scorer.busy_s == 0
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(scorer.score, PIXELS, dict)
        assert entered.wait(10)
        assert 0 < scorer.busy_s < 10
        leave.set()
        answer.result()
    assert scorer.busy_s == 0
    scorer.close()
