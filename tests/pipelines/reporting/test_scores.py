"""The table of scores in the report: every score, the late ones too, and who lacks one."""

from pathlib import Path

import pyarrow as pa
import pytest
from support.fakes.fake_runs import finished_run
from support.fakes.fake_scorers import loaded

from nightpress.pipelines import Run
from nightpress.pipelines.records import SCORES_TYPE
from nightpress.pipelines.reporting import scores as module
from nightpress.pipelines.reporting.report import REPORT_FILE, write_report
from nightpress.pipelines.reporting.scores import ScoreRow, ScoreSummary, ScoreTable, run_scores
from nightpress.pipelines.shards.late_scoring import LateScorer


def maps(*rows: dict[str, float | None] | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(rows, SCORES_TYPE)])


def test_a_row_has_the_ends_and_the_percentiles_of_its_score() -> None:
    table = ScoreTable(101)
    table.add(maps(*({"clip": n / 100} for n in range(60))), 60)
    table.add(maps(*({"clip": n / 100} for n in range(60, 101))), 41)
    (row,) = table.rows()
    assert row == ScoreSummary(
        "clip", 101, 0, 0.0, *(pytest.approx(x) for x in (0.05, 0.5, 0.95)), 1.0
    )
    assert ScoreRow.of(row) == ScoreRow("clip", "101", "0", "0", "0.05", "0.5", "0.95", "1")


def test_images_without_a_score_are_counted() -> None:
    table = ScoreTable(5)
    table.add(maps({"clip": 0.5, "text": None}, None, {"clip": 0.25}), 2)  # one has failed
    table.add(maps({"text": 1.0}, {"clip": 0.75}), 2)
    found = {row.name: (row.num_images, row.num_missing) for row in table.rows()}
    assert found == {"clip": (3, 1), "text": (1, 3)}


def test_a_scorer_that_has_scored_nothing_is_named() -> None:
    table = ScoreTable(2, ["clip", "kind", "text"])
    table.add(maps({"kind.cat": 0.5, "kind.dog": 0.5, "text": None}, {"kind.cat": 1.0}), 2)
    found = {row.name: row.num_missing for row in table.rows()}
    assert found == {"kind.cat": 0, "kind.dog": 1, "clip": 2, "text": 2}
    assert ScoreTable(2, ["clip"]).rows() == []  # no image lacks it yet


def test_of_many_values_an_even_sample_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VALUES", 100)
    table = ScoreTable(10_000)
    for start in range(0, 10_000, 1000):
        table.add(maps(*({"clip": float(n)} for n in range(start, start + 1000))), 1000)
    kept = sum(len(values) for values in table._values["clip"])
    assert kept == 100
    (row,) = table.rows()
    assert (row.num_images, row.lowest, row.highest) == (10_000, 0.0, 9999.0)
    assert row.median == pytest.approx(5000, rel=0.02)


def test_the_report_has_the_scores_of_the_run_and_the_late_ones(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b", "nan", "c", "d"]))
    LateScorer(run, {"mood": loaded(lambda image: {"": 0.625})}).score(0)
    write_report(run, run.store)
    page = run.store.read(REPORT_FILE).decode()
    section = page[page.index('<h2 id="scores">') :]
    section = section[: section.index("</table>")]
    for name in ("sharpness", "exposure", "clipping", "contrast", "mood"):
        assert f"<td>{name}</td>" in section
    mood = section[section.index("<td>mood</td>") :]
    assert mood.count("0.625") == 5
    assert '<td class="num bad">1</td>' in mood  # the image of the second shard
    assert "mood 0.625" in page  # of an image in the gallery


def test_the_scores_of_a_run_are_those_of_its_report_or_of_some_of_its_commits(
    tmp_path: Path,
) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b", "nan", "c", "d"]))
    LateScorer(run, {"mood": loaded(lambda image: {"": 0.625})}).score(0)
    everything = run_scores(run)
    assert everything == write_report(run, run.store)
    assert (everything.num_images, everything.is_sample) == (4, False)
    assert {each.name: each.num_missing for each in everything.scores}["mood"] == 1
    some = run_scores(run, max_shards=1)
    assert (some.num_shards, some.num_committed_shards, some.is_sample) == (1, 2, True)
    assert {each.name: each.num_missing for each in some.scores}["mood"] == 0


def test_a_run_without_scores_has_no_such_table(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["nan"]))
    write_report(run, run.store)
    assert 'id="scores"' not in run.store.read(REPORT_FILE).decode()
