"""What a run says about its gates, and which scores gates may judge by."""

from typing import Any

import pytest

from nightpress.jobs.progress.events import Message
from nightpress.jobs.progress.rejection_limit import RejectionLimit
from nightpress.jobs.runs.gates import (
    MAX_NAMED,
    MIN_HOPELESS,
    GateNotes,
    check_gate_scores,
    gate_lines,
    planned_draws,
)
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.run_directory.estimate import DrawsOfImage
from nightpress.pipelines.scoring.scorer import ScorerInfo
from nightpress.pipelines.shards.events import DrawsJudged


class Told:
    """Events as a run has them, and what is said of them."""

    def __init__(self) -> None:
        self.totals = RejectionLimit(None)
        self.notes = GateNotes(self.totals)
        self.texts: list[str] = []

    def add(self, *rows: tuple[str, int, int], **values: Any) -> None:
        event = DrawsJudged(0, sum(row[1] for row in rows), rows=rows, **values)
        self.totals.add(event)
        self.texts += [message.text for message in self.notes.add(event)]


def test_a_row_is_named_once_when_many_of_its_draws_in_a_row_have_failed() -> None:
    told = Told()
    told.add(("poster", MIN_HOPELESS - 1, 0), ("card", 1, 1))
    assert told.texts == []
    told.add(("poster", 3, 0))
    told.add(("poster", 30, 0))
    assert told.texts == [f"row poster: 0 of its last {MIN_HOPELESS + 2} draws passed"]


@pytest.mark.parametrize(("passing", "number"), [(900, 6), (500, 14), (100, MIN_HOPELESS)])
def test_a_row_is_named_the_sooner_the_more_of_the_other_draws_pass(
    passing: int, number: int
) -> None:
    told = Told()
    told.add(*((f"row{n}", 1, int(n < passing)) for n in range(1000)))
    for _ in range(number - 1):
        told.add(("poster", 1, 0))
        assert told.texts == []
    told.add(("poster", 1, 0))
    assert told.texts == [f"row poster: 0 of its last {number} draws passed"]


def test_while_few_draws_are_judged_no_row_is_named_early() -> None:
    told = Told()
    told.add(*((f"row{n}", 1, 1) for n in range(30)))
    told.add(("poster", MIN_HOPELESS - 1, 0))
    assert told.texts == []


def test_a_draw_that_passes_takes_a_row_out_of_question() -> None:
    told = Told()
    for _ in range(4):
        told.add(("poster", MIN_HOPELESS - 1, 0))
        told.add(("poster", 2, 1))
    assert told.texts == []


def test_only_so_many_rows_are_named() -> None:
    told = Told()
    for number in range(MAX_NAMED + 5):
        told.add((f"row{number}", MIN_HOPELESS, 0))
    assert len(told.texts) == MAX_NAMED + 1
    assert told.texts[-1] == "further rows whose draws do not pass are not named"


def test_damaged_records_of_draws_are_named() -> None:
    told = Told()
    told.add(damaged=("draws/shard-00000/ab.parquet",))
    assert told.texts == [
        "draws/shard-00000/ab.parquet is damaged; the draws that it names are made again"
    ]


def test_the_totals_say_how_many_draws_were_made_and_what_rejected_them() -> None:
    told = Told()
    assert list(told.notes.lines()) == []
    told.add(("a", 60, 30), failed=(("sharpness > 40", 30),), num_unused=5)
    told.add(("b", 40, 40))
    assert list(told.notes.lines()) == [
        Message(
            "100 draws, 70% passed; rejected: 30 by sharpness > 40; 5 more, made ahead in short "
            "batches, were not needed"
        )
    ]


INFOS = {
    "clip": ScorerInfo(fingerprint="f" * 64),
    "kind": ScorerInfo(fingerprint="e" * 64, labels=("cat", "dog")),
}


def test_gates_may_judge_by_measurements_and_by_every_score_of_a_scorer() -> None:
    gates = {"require": ["sharpness > 4", "kind.cat > 0.5"], "best_of": 2, "rank_by": "-clip"}
    check_gate_scores(GatesSpec.model_validate(gates), INFOS)
    check_gate_scores(None, {})


@pytest.mark.parametrize("name", ["kind", "kind.horse", "clip.x", "nsfw", "perceptual_hash"])
def test_a_gate_on_a_score_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=f"no score '{name}'; the scores of this job are: sharp"):
        check_gate_scores(GatesSpec.model_validate({"require": [f"{name} > 1"]}), INFOS)


def lines(measured: DrawsOfImage | None, **values: Any) -> list[str]:
    gates = GatesSpec.model_validate({"require": ["sharpness>40"]} | values)
    return list(gate_lines(gates, planned_draws(gates, 1000, measured)))


def test_a_plan_says_what_images_must_be_and_how_many_draws_that_takes() -> None:
    assert lines(DrawsOfImage(2.5)) == [
        "sharpness > 40",
        "from 1,000 to 16,000 draws, about 2,500 by a run with these gates",
    ]
    foretold = DrawsOfImage(2.5, is_foretold=True)
    assert lines(foretold)[1].endswith("draws, about 2,500 by the scores of an earlier run")
    assert lines(None, best_of=4, rank_by="-clip", exhausted="keep", max_draws=8) == [
        "sharpness > 40; best of 4 by -clip; if none passes, the best by -clip",
        "from 4,000 to 8,000 draws, how many is not known before a run with these scores",
    ]


def test_a_plan_without_gates_says_nothing_of_draws() -> None:
    assert planned_draws(None, 1000, None) is None
    assert list(gate_lines(None, None)) == []
