"""Scores of one image: always measured, and scored by the scorers of the job in one thread."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.fakes.fake_scorers import Function, loaded

from nightpress.pipelines.scoring.image_scorer import ImageScorer, ImageScores
from nightpress.pipelines.scoring.measurements import MEASUREMENTS, measure
from nightpress.pipelines.scoring.perceptual_hash import perceptual_hash
from nightpress.pipelines.scoring.scorer import LoadedScorer, ScoredImage, ScorerNote

PIXELS = np.random.default_rng(7).integers(0, 256, (48, 64, 3), np.uint8)


def scored(
    scorers: Mapping[str, LoadedScorer], columns: Mapping[str, object] | None = None
) -> tuple[ImageScores, tuple[ScorerNote, ...]]:
    scorer = ImageScorer(scorers)
    try:
        return scorer.score(PIXELS, lambda: columns or {"prompt": "a"}), scorer.take_notes()
    finally:
        scorer.close()


def test_every_image_is_measured() -> None:
    found, notes = scored({})
    assert found.scores == measure(PIXELS)
    assert tuple(found.scores) == MEASUREMENTS
    assert found.perceptual_hash == perceptual_hash(PIXELS)
    assert notes == ()


def test_scores_have_the_name_of_their_scorer_and_their_label() -> None:
    kinds = loaded(lambda image: {"cat": 0.25, "dog": 0.75})
    found, _ = scored({"clip": loaded(lambda image: {"": 0.5}), "kind": kinds})
    own = {name: found.scores[name] for name in found.scores if name not in MEASUREMENTS}
    assert own == {"clip": 0.5, "kind.cat": 0.25, "kind.dog": 0.75}


def test_a_scorer_sees_the_pixels_and_the_row() -> None:
    seen: list[ScoredImage] = []

    def note(image: ScoredImage) -> dict[str, float]:
        seen.append(image)
        return {"": 1.0}

    scored({"own": loaded(note)}, {"prompt": "a", "mood": "calm"})
    assert seen[0].columns == {"prompt": "a", "mood": "calm"}
    assert np.array_equal(seen[0].pixels, PIXELS)


@pytest.mark.parametrize("labels", [(), ("cat", "dog")])
@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (lambda image: 1 / 0, "division by zero"),
        (lambda image: {"": float("nan")}, "bad is nan, and a score must be a finite number"),
        (lambda image: {"": "high"}, "could not convert string to float: 'high'"),
    ],
)
def test_a_scorer_that_fails_leaves_its_score_empty_and_the_others_as_they_are(
    score: Function, reason: str, labels: tuple[str, ...]
) -> None:
    names = [f"bad.{label}" for label in labels] or ["bad"]
    found, notes = scored({"bad": loaded(score, *labels), "good": loaded(lambda image: {"": 1.0})})
    assert [found.scores.get(name) for name in (*names, "good")] == [None] * len(names) + [1.0]
    assert set(names) < set(found.scores)
    assert found.scores["contrast"] is not None
    assert notes == (ScorerNote("bad", reason, 1, True),)


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
    scorer = ImageScorer({"own": loaded(watch)}, notes.append)
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

    scorer = ImageScorer({"slow": loaded(wait)})
    assert scorer.busy_s == 0
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(scorer.score, PIXELS, dict)
        assert entered.wait(10)
        assert 0 < scorer.busy_s < 10
        leave.set()
        answer.result()
    assert scorer.busy_s == 0
    scorer.close()


class Remarkable:
    """A scorer that remarks on every second image."""

    fingerprint = "f" * 64

    def __init__(self) -> None:
        self.number = 0

    def score(self, image: ScoredImage) -> dict[str, float]:
        self.number += 1
        if self.number % 2:
            raise ValueError(f"number {self.number}")
        return {"": 1.0}

    def remarks(self) -> dict[str, int]:
        return {"its text was cut": self.number // 2} if self.number > 1 else {}


def test_failures_and_remarks_are_told_once_with_the_number_of_images() -> None:
    scorer = ImageScorer({"clip": LoadedScorer(Remarkable())})
    told = []
    for number in (1, 4, 0):
        for _ in range(number):
            scorer.score(PIXELS, dict)
        told.append(scorer.take_notes())
    scorer.close()
    cut = "its text was cut"
    assert told == [
        (ScorerNote("clip", "number 1", 1, True),),
        (ScorerNote("clip", "number 3", 2, True), ScorerNote("clip", cut, 2, False)),
        (),
    ]
