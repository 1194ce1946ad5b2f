"""Pick rates: counted by every setting and column, with intervals and costs."""

import json
from dataclasses import asdict
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from support.made_runs import begin, commit, failed, made
from support.marked_runs import say

from nightpress.jobs import write_rates
from nightpress.jobs.cli import command
from nightpress.pipelines.errors import SpecError, StoreError
from nightpress.pipelines.reporting import pick_rates as module
from nightpress.pipelines.reporting.pick_rates import (
    PICK_RATES_FILE,
    PickRate,
    PickRates,
    pick_rates,
    wilson,
)
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.run_directory.marks_merge import Policy
from nightpress.pipelines.run_directory.reader import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ten images of two moods in three commits, of which number 5 failed."""
    run = begin(str(tmp_path))
    for shard, numbers in enumerate((range(4), range(4, 8), range(8, 10))):
        records = [failed(run, n) if n == 5 else made(run, n, sampling_s=1.0 + n) for n in numbers]
        moods = pa.array(["calm" if n < 5 else "wild" for n in numbers])
        commit(run, shard, records, mood=moods, code=pa.array([f"c{n}" for n in numbers]))
    return run


def mark(run: Run) -> None:
    say(run, "anna", (0, "flag", "pick"), (1, "flag", "pick"), (6, "flag", "pick"))
    say(run, "ben", (0, "flag", "reject"), (2, "flag", "reject"), (7, "stars", 2))
    say(run, "ben", (8, "flag", "pick"), n=1, sha256="e" * 64)


def by_value(rates: PickRates, column: str) -> dict[str | None, PickRate]:
    return {each.value: each for each in rates.rows if each.column == column}


def test_images_are_counted_by_the_values_of_columns(run: Run) -> None:
    mark(run)
    rates = pick_rates(run)
    assert rates is not None
    whole, *others = rates.rows
    assert (whole.column, whole.num_images, whole.num_marked) == ("all", 9, 5)
    assert (whole.num_picked, whole.num_rejected) == (3, 1)
    assert {each.column for each in others} == {"mood"}
    counts = {
        value: (each.num_images, each.num_marked, each.num_picked, each.num_rejected)
        for value, each in by_value(rates, "mood").items()
    }
    assert counts == {"calm": (5, 3, 2, 1), "wild": (4, 2, 1, 0)}
    assert [each.value for each in others] == ["calm", "wild"]
    assert rates.left_out == ("code",)


def test_columns_called_as_what_is_counted_here_are_told_apart(tmp_path: Path) -> None:
    run = begin(str(tmp_path))
    columns = {
        "size": ["wide", "tall"] * 3,
        "all": ["x", "y", "z"] * 2,
        "price": pa.array([Decimal("1.50"), Decimal("2.00")] * 3),
        "day": pa.array([date(2026, 11, 1 + n % 2) for n in range(6)]),
        "tags": pa.array([["a"], ["b"]] * 3),
    }
    commit(run, 0, [made(run, n) for n in range(6)], **columns)
    say(run, "anna", (0, "flag", "pick"))
    rates = pick_rates(run)
    assert rates is not None
    assert [each.num_images for each in rates.rows if each.column == "all"] == [6]
    assert by_value(rates, "size") == {}  # all images have one
    assert set(by_value(rates, "manifest_size")) == {"wide", "tall"}
    assert set(by_value(rates, "manifest_all")) == {"x", "y", "z"}
    assert set(by_value(rates, "price")) == {"1.50", "2.00"}
    assert set(by_value(rates, "day")) == {"2026-11-01", "2026-11-02"}
    assert rates.left_out == ("tags",)


def test_the_policy_decides_what_is_picked(run: Run) -> None:
    mark(run)
    rates = pick_rates(run, Policy.of("lead", "ben"))
    assert rates is not None
    assert (rates.rows[0].num_picked, rates.rows[0].num_rejected) == (0, 2)
    assert rates.policy == "lead: ben"


def test_columns_with_many_values_are_named_and_not_counted(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(run)
    monkeypatch.setattr(module, "MOST_VALUES", 1)
    rates = pick_rates(run)
    assert rates is not None
    assert rates.left_out == ("code", "mood")


def test_costs_are_shared_out_by_sampling_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    mark(run)
    monkeypatch.setattr(module, "read_starts", lambda store: [])
    monkeypatch.setattr(module, "cost_of", lambda starts, n: module.Cost(98.0, "EUR", None))
    rates = pick_rates(run)
    assert rates is not None
    moods = by_value(rates, "mood")
    seconds = {"calm": 1.0 + 2 + 3 + 4 + 5, "wild": 7.0 + 8 + 9 + 10}
    total = sum(seconds.values())
    assert moods["calm"].cost_per_picked == pytest.approx(98 * seconds["calm"] / total / 2)
    assert moods["wild"].cost_per_picked == pytest.approx(98 * seconds["wild"] / total / 1)
    assert rates.rows[0].cost_per_picked == pytest.approx(98 / 3)
    assert moods["calm"].currency == "EUR"


@pytest.mark.parametrize(
    ("picked", "images", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
    ],
)
def test_the_interval_is_that_of_wilson(picked: int, images: int, low: float, high: float) -> None:
    assert wilson(picked, images) == pytest.approx((low, high), abs=5e-5)


def test_rates_are_in_the_report_and_as_parquet(run: Run) -> None:
    write_report(run, run.store)
    assert run.store.size(PICK_RATES_FILE) is None
    assert b'id="picks"' not in run.store.read("report.html")
    mark(run)
    rates = write_rates(run.url, "majority")
    table = pq.read_table(Path(run.url) / PICK_RATES_FILE)
    assert table.num_rows == len(rates.rows) == 3
    assert table.schema.metadata[b"nightpress.policy"] == b"majority"
    page = run.store.read("report.html").decode()
    assert 'id="picks"' in page
    assert "policy majority; too many values: code" in page
    assert "22.2%" in page  # 2 of 9: image 0 is a tie


def test_a_run_without_marks_has_no_rates(run: Run) -> None:
    assert pick_rates(run) is None
    with pytest.raises(SpecError, match="nobody has marked an image of it yet"):
        write_rates(run)


def test_the_review_command_prints_the_rates(run: Run) -> None:
    mark(run)
    result = CliRunner().invoke(command, ["review", run.url, "--rates", "--policy", "majority"])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][:5] == ["column", "value", "images", "marked", "picked"]
    assert lines[1][:4] == ["all", "9", "5", "2"]
    assert lines[2][:5] == ["mood", "wild", "4", "2", "1"]
    assert "too many values to compare: code" in result.stdout
    refused = CliRunner().invoke(command, ["review", run.url, "--rates", "--port", "0"])
    assert refused.exit_code == 2
    assert "--port does not go with --rates" in refused.output


def test_rates_are_printed_as_json_and_status_has_those_of_any_pick(run: Run) -> None:
    assert status(run)["pick_rates"] is None
    mark(run)
    ran = CliRunner().invoke(
        command, ["review", run.url, "--rates", "--policy", "majority", "--json"]
    )
    assert ran.exit_code == 0, ran.output
    printed = json.loads(ran.stdout)
    assert (printed["policy"], printed["left_out"], printed["error"]) == (
        "majority",
        ["code"],
        None,
    )
    by_majority, by_any = pick_rates(run, Policy("majority")), pick_rates(run)
    assert by_majority is not None
    assert by_any is not None
    assert printed["rows"] == [asdict(row) for row in by_majority.rows]
    assert status(run)["pick_rates"] == json.loads(json.dumps(asdict(by_any)))
    told = CliRunner().invoke(command, ["status", run.url])
    assert (
        "picked   3 of 9 images (33.3%), 1 rejected, by the marks on 5; policy any" in told.stdout
    )


def test_a_status_says_that_marks_cannot_be_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: Any) -> None:
        raise StoreError("the store is away")

    monkeypatch.setattr("nightpress.jobs.runs.status.pick_rates", unreadable)
    found = status(run)
    assert (found["pick_rates"], found["pick_rates_error"]) == (None, "the store is away")
    told = CliRunner().invoke(command, ["status", run.url])
    assert "picked   unknown: the marks cannot be read: the store is away" in told.stdout


def test_json_goes_with_what_prints_a_result(run: Run) -> None:
    served = CliRunner().invoke(command, ["review", run.url, "--json", "--no-open"])
    assert served.exit_code == 2
    assert "--json goes with --rates, --import or --static" in served.output


def status(run: Run) -> dict[str, Any]:
    result = CliRunner().invoke(command, ["status", run.url, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_objects_with_marks_that_are_ignored_are_said_everywhere(run: Run) -> None:
    mark(run)
    run.store.put("review/marks/zoe/s-0.json", b"{")
    printed = CliRunner().invoke(command, ["review", run.url, "--rates"]).stdout
    assert "ignored: review/marks/zoe/s-0.json: not JSON" in printed
    assert (
        "policy any; 1 object with marks ignored"
        in CliRunner().invoke(command, ["status", run.url]).stdout
    )
    (ignored,) = status(run)["pick_rates"]["ignored"]
    assert ignored.startswith("review/marks/zoe/s-0.json: not JSON")
    write_report(run, run.store)
    assert "1 object with marks ignored" in run.store.read("report.html").decode()
