"""Gates tried on stored scores: what would pass, and how often images would be drawn."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.fakes.fake_runs import FakeSampler, make_shard, prepare
from support.scored_runs import Scored, begin, made, part

from nightpress.pipelines import Run
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.run_directory.commit import commit_shard
from nightpress.pipelines.run_directory.draws import LostDraw, store_draws
from nightpress.pipelines.run_directory.gate_trial import score_ranges, try_gates
from nightpress.pipelines.scoring.acceptance import Share, expected_draws
from nightpress.pipelines.scoring.gates import Gates


def image(number: int, **changes: object) -> Scored:
    """Half of them are sharp, three of four are safe, and `clip` rises."""
    scores = {
        "sharpness": 80.0 if number % 2 else 20.0,
        "nsfw": 0.9 if number % 4 == 0 else 0.1,
        "clip": number / 100,
    }
    scored = Scored(f"{number:03d}", scores=scores, category="night" if number < 20 else "day")
    return replace(scored, **changes)


SHARP_AND_SAFE = GatesSpec(require=("sharpness > 40", "nsfw < 0.5"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made(str(tmp_path), [image(n) for n in range(40)], shard_size=16)


def test_each_condition_is_tried_alone_and_with_the_others(run: Run) -> None:
    trial = try_gates(run, SHARP_AND_SAFE)
    assert (trial.num_images, trial.num_lost, trial.passed) == (40, 0, Share(20, 40))
    sharp, safe = trial.conditions
    assert (sharp.condition, sharp.passed, sharp.num_only) == ("sharpness > 40", Share(20, 40), 10)
    assert (safe.condition, safe.passed, safe.num_only) == ("nsfw < 0.5", Share(30, 40), 0)


def test_a_draw_passes_as_it_does_in_a_run(run: Run) -> None:
    judge = Gates(SHARP_AND_SAFE).judge
    rows = run.metadata.to_table(columns=["scores"]).column("scores").to_pylist()
    passed = sum(judge(dict(scores)).passes for scores in rows)
    assert try_gates(run, SHARP_AND_SAFE).passed.num == passed


def test_the_draws_to_expect_follow_from_the_share_that_passes(run: Run) -> None:
    gates = GatesSpec(require=SHARP_AND_SAFE.require, best_of=3, rank_by="clip", max_draws=8)
    trial = try_gates(run, gates)
    assert trial.expected == expected_draws(0.5, 3, 8)
    assert trial.rank is not None
    assert trial.rank.mean == pytest.approx(0.20)
    assert 0.20 < trial.rank.best < 0.39


def test_rows_that_differ_take_more_draws_than_one_chance_for_all(tmp_path: Path) -> None:
    alike = [replace(image(row), variant=n) for row in range(40) for n in range(3)]
    trial = try_gates(made(str(tmp_path), alike, 200), SHARP_AND_SAFE)
    assert (trial.passed, trial.correlation) == (Share(60, 120), pytest.approx(1.0))
    assert trial.expected.draws == pytest.approx(0.5 * 1 + 0.5 * 16)
    assert trial.expected.exhausted == pytest.approx(0.5)
    mixed = [replace(image(n), row=f"{n // 4}", variant=n % 4) for n in range(120)]
    trial = try_gates(made(str(tmp_path / "mixed"), mixed, 200), SHARP_AND_SAFE)
    assert trial.correlation == 0.0
    assert trial.expected == expected_draws(0.5, 1, 16)


@pytest.mark.parametrize("best_of", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_gated_run_takes_the_draws_that_a_run_without_gates_foretells(
    tmp_path: Path, best_of: int
) -> None:
    gates = {"require": ["exposure > 0.45"], "max_draws": 12, "best_of": best_of}
    gates |= {"rank_by": "exposure"} if best_of > 1 else {}
    prompts = [f"picture {n}" for n in range(100)]
    store, record, rows = prepare(tmp_path / "without", prompts, 100)
    make_shard(store, record, rows, FakeSampler())
    foretold = try_gates(Run(store, record), GatesSpec.model_validate(gates))

    store, record, rows = prepare(tmp_path / "with", prompts, 100, gates=gates)
    make_shard(store, record, rows, FakeSampler())
    made = Run(store, record).metadata.to_table(columns=["draws", "scores"])
    assert foretold.expected.draws == pytest.approx(pc.mean(made["draws"]).as_py(), rel=0.2)
    if foretold.rank is not None:
        taken = [dict(scores)["exposure"] for scores in made["scores"].to_pylist()]
        assert foretold.rank.best == pytest.approx(sum(taken) / 100, rel=0.05)
    again = try_gates(Run(store, record), GatesSpec.model_validate(gates))
    assert again.expected.draws == pytest.approx(foretold.expected.draws, rel=0.2)


def test_the_lowest_may_be_the_best(run: Run) -> None:
    gates = GatesSpec(best_of=4, rank_by="-clip")
    trial = try_gates(run, gates)
    assert trial.passed == Share(40, 40)
    assert trial.conditions == ()
    assert trial.rank is not None
    assert trial.rank.best < trial.rank.mean


def test_images_without_a_score_do_not_meet_its_condition(tmp_path: Path) -> None:
    images = [image(1), image(3, scores={"sharpness": None}), image(5, scores=None)]
    trial = try_gates(made(str(tmp_path), images), GatesSpec(require=("sharpness > 40",)))
    assert trial.passed == Share(1, 3)
    assert trial.conditions[0].num_missing == 2


def test_failed_images_are_no_draws(tmp_path: Path) -> None:
    run = made(str(tmp_path), [image(1), image(3, failed=True)])
    assert try_gates(run, SHARP_AND_SAFE).passed == Share(1, 1)


def test_draws_that_lost_to_the_gates_of_the_run_count_too(tmp_path: Path) -> None:
    run = begin(str(tmp_path), 4)
    commit_shard(run.store, 0, part([image(1), image(3), image(5), image(7, failed=True)]))
    lost = [
        LostDraw("001_00", 0, 1, 4, False, "sharpness 20 < 40", None, {"sharpness": 20.0}),
        LostDraw("003_00", 0, 2, 4, True, None, None, {"sharpness": 90.0, "nsfw": 0.1}),
        LostDraw("007_00", 0, 3, 4, False, "Blank", "Blank", {}),
    ]
    store_draws(run.store, 0, lost[:2])
    store_draws(run.store, 0, lost[1:])
    trial = try_gates(run, SHARP_AND_SAFE)
    assert (trial.num_images, trial.num_lost, trial.passed) == (3, 3, Share(4, 6))
    assert [each.num_missing for each in trial.conditions] == [0, 1]


def test_a_run_of_which_every_draw_lost_can_be_tried(tmp_path: Path) -> None:
    run = begin(str(tmp_path), 1)
    with pytest.raises(SpecError, match="no image is committed yet"):
        try_gates(run, SHARP_AND_SAFE)
    lost = LostDraw("001_00", 0, 1, 4, False, "nsfw", None, {"sharpness": 90.0, "nsfw": 0.9})
    store_draws(run.store, 0, [lost])
    assert try_gates(run, SHARP_AND_SAFE).passed == Share(0, 1)
    assert [each.score for each in score_ranges(run)] == ["nsfw", "sharpness"]


def test_values_of_which_clearly_fewer_pass_are_named(tmp_path: Path) -> None:
    images = [image(n, category="glass" if n % 2 == 0 else "wood") for n in range(80)]
    trial = try_gates(made(str(tmp_path), images, shard_size=30), SHARP_AND_SAFE)
    assert [(each.column, each.value, each.passed) for each in trial.low] == [
        ("category", "glass", Share(0, 40))
    ]


def test_values_with_too_few_draws_or_chance_differences_are_not(tmp_path: Path) -> None:
    images = [image(n, category="few" if n < 8 else f"c{n % 3}") for n in range(0, 80)]
    assert try_gates(made(str(tmp_path), images, shard_size=30), SHARP_AND_SAFE).low == ()


def test_null_is_no_value_and_nested_columns_are_left_out(tmp_path: Path) -> None:
    run = begin(str(tmp_path), 40, 40)
    images = [image(n, category=None if n % 2 == 0 else "wood") for n in range(40)]
    tags = pa.array([["a"]] * 40)
    commit_shard(run.store, 0, part(images, tags=tags, nothing=pa.nulls(40)))
    assert try_gates(run, SHARP_AND_SAFE).low == ()


def test_rows_that_never_pass_are_named_by_their_id(tmp_path: Path) -> None:
    good = [replace(image(2 * n + 1), variant=0) for n in range(60)]
    hopeless = [replace(image(0), row="hopeless", variant=n) for n in range(12)]
    trial = try_gates(made(str(tmp_path), [*good, *hopeless], 100), SHARP_AND_SAFE)
    assert ("id", "hopeless", Share(0, 12)) in [
        (each.column, each.value, each.passed) for each in trial.low
    ]


def test_scores_are_shown_as_they_are_spread(run: Run) -> None:
    ranges = {each.score: each for each in score_ranges(run)}
    assert list(ranges) == ["clip", "nsfw", "sharpness"]
    assert ranges["clip"].num_draws == 40
    assert ranges["clip"].quantiles[0] == 0
    assert ranges["clip"].quantiles[-1] == 0.39
    assert ranges["sharpness"].quantiles == (20, 20, 20, 50, 80, 80, 80)


def test_a_score_that_no_image_has_is_refused_with_those_that_there_are(run: Run) -> None:
    with pytest.raises(SpecError, match=r"has a score 'clop'; did you mean 'clip'\?"):
        try_gates(run, GatesSpec(require=("clop > 1",)))
    with pytest.raises(SpecError, match=r"'face'.*its scores are: clip, nsfw, sharpness"):
        try_gates(run, GatesSpec(require=("clip > 1",), best_of=2, rank_by="face"))
