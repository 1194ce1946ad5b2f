"""`nightpress gates`, as a person and a program see it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.scored_runs import Scored, made

from nightpress import GatesResult, gates
from nightpress.jobs.cli import command
from nightpress.pipelines import Run
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.log import RunLog

START: dict[str, Any] = {
    "lease": 1,
    "command": "run",
    "started_at": "2027-01-15T22:00:00.000+00:00",
    "elapsed_s": 60.0,
    "num_images": 40,
    "num_done": 40,
    "num_failed": 0,
    "num_made": 40,
    "num_retries": 0,
    "num_actors_lost": 0,
    "actor_s": 100.0,
    "gpus_per_actor": 1.0,
    "cost": 4.0,
    "currency": "EUR",
}

IMAGES = [
    Scored(
        f"{number:03d}",
        scores={"sharpness": 80.0 if number % 2 else 20.0, "clip": number / 100},
        category="glass" if number % 2 == 0 else "wood",
    )
    for number in range(40)
]

OWN = {"require": ["sharpness > 30"], "best_of": 2, "rank_by": "sharpness", "max_draws": 4}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["gates", *arguments])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = made(str(tmp_path), IMAGES, shard_size=16)
    with_log(run)
    return run


def with_log(run: Run) -> None:
    log = RunLog(run.store, 1, lambda: START, flush_s=600)
    log.end(START | {"state": "finished", "exit_code": 0})
    log.close()


def test_a_person_sees_what_would_pass_and_what_it_takes(run: Run) -> None:
    before = {path: path.read_bytes() for path in Path(run.url).rglob("*") if path.is_file()}
    asked = ("--require", "sharpness > 40", "--require", "clip >= 0.1")
    result = invoke(run.url, *asked, "--best-of", "2", "--rank-by", "clip")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"40 draws of {run.url} judged by stored scores",
        "                  pass        rejected",
        "  sharpness > 40  20 (50.0%)  15 by it alone",
        "  clip >= 0.1     30 (75.0%)  5 by it alone",
        "  all of them     15 (37.5%)",
        "draws of an image for the best of 2: 5.32 on average, of at most 16",
        "none passes: 0.05% of the images",
        "both only if all rows have the same chance: no row has two draws to tell",
        "so few draws say that 24.2% to 53.0% pass, and 3.81 to 8.39 draws an image",
        "clip: 0.25 on average of draws that pass, 0.2998 of the best of 2",
        "so far: 40 draws, 32 s of sampling, 1 min 40 s of actors, 4.00 EUR, 0.10 EUR an image",
        "40 images with these gates: 213 draws, 2 min 50 s of sampling, 8 min 52 s of actors, "
        "21.27 EUR, 0.53 EUR an image",
        "these times do not count the scoring of clip, which came after the run",
        "of these clearly fewer pass:",
        "  category = glass  0 of 20 (0.0%)",
    ]
    after = {path: path.read_bytes() for path in Path(run.url).rglob("*") if path.is_file()}
    assert after == before


def test_json_holds_the_same(run: Run) -> None:
    result = invoke(run.url, "--require", "sharpness > 40", "--json")
    values = json.loads(result.stdout)
    assert list(values) == [
        *("url", "num_images", "gates", "num_judged", "num_lost", "passed", "conditions"),
        *(
            "expected_draws",
            "plausible_draws",
            "exhausted",
            "correlation",
            "rank",
            "so_far",
            "with_gates",
        ),
        "uncounted",
        *("low", "scores"),
        *("exit_code", "error"),
    ]
    assert values["gates"]["require"] == ["sharpness > 40"]
    assert values["passed"]["share"] == 0.5
    assert values["expected_draws"] == pytest.approx(2.0, abs=1e-3)
    assert values["with_gates"]["actor_s"] == pytest.approx(200.0, rel=1e-3)
    assert values["with_gates"]["cost"]["amount"] == pytest.approx(8.0, rel=1e-3)
    assert [each["score"] for each in values["scores"]] == ["clip", "sharpness"]


def test_the_gates_of_the_job_are_tried_if_no_others_are_given(tmp_path: Path) -> None:
    run = made(str(tmp_path), IMAGES, gates=OWN)
    found = gates(run)
    assert found.gates is not None
    assert (found.gates.require, found.gates.best_of) == (("sharpness > 30",), 2)
    other = gates(run.url, require=["clip > 0.2"], best_of=1)
    assert other.gates is not None
    assert (other.gates.require, other.gates.rank_by, other.gates.max_draws) == (
        ("clip > 0.2",),
        None,
        4,
    )


def test_without_gates_the_spread_of_the_scores_is_shown(run: Run) -> None:
    assert gates(run).trial is None
    lines = invoke(run.url).stdout.splitlines()
    assert lines[0].split() == [
        *("score", "draws", "least", "5%", "25%", "median", "75%", "95%", "greatest")
    ]
    assert lines[2].split() == ["sharpness", "40", "20", "20", "20", "50", "80", "80", "80"]


def test_a_run_without_log_or_sampling_has_no_times(tmp_path: Path) -> None:
    run = made(str(tmp_path), IMAGES)
    found = gates(run, require=["clip > 0.2"])
    assert isinstance(found, GatesResult)
    assert found.with_gates is not None
    assert (found.with_gates.actor_s, found.with_gates.cost) == (None, None)
    assert found.with_gates.elapsed_s is not None


def test_a_run_without_scores_is_told_how_to_get_them(tmp_path: Path) -> None:
    run = made(str(tmp_path), [Scored("a", scores=None)])
    assert "has a score; nightpress score makes" in invoke(run.url).stdout
    result = invoke(run.url, "--require", "clip > 0.2")
    assert result.exit_code == 2
    assert "nightpress score makes scores" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--require", "sharpness"), "'sharpness' compares nothing"),
        (("--require", "sharpness = 4"), "= is no comparison; equal is =="),
        (("--require", "clop > 1"), "did you mean 'clip'?"),
        (("--best-of", "3"), "best_of: 3 needs rank_by"),
        (("--require", "clip > 0", "--best-of", "0"), "best_of: "),
        (("--require", "clip > 0", "--max-draws", "0"), "max_draws: "),
        (("--require", "clip > 0", "--rank-by", "clip"), "rank_by has no effect"),
        (("--best-of", "20", "--rank-by", "clip"), "max_draws allows 16 draws only"),
        (("--require", "clip > 0", "--require", "clip>0"), "is given twice"),
        (("--best-of", "many"), "'many' is not a valid integer"),
    ],
)
def test_what_are_no_gates_is_refused_in_one_line(
    run: Run, arguments: tuple[str, ...], complaint: str
) -> None:
    result = invoke(run.url, *arguments)
    assert result.exit_code == 2, result.output
    assert complaint in result.stderr
    assert "Traceback" not in result.output


def test_a_text_is_no_list_of_conditions(run: Run) -> None:
    with pytest.raises(SpecError, match="give a list of conditions"):
        gates(run, require="clip > 0.2")
