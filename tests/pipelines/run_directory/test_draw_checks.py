"""Verify knows the draws of gated runs."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.fakes.fake_runs import finished_run

from nightpress.pipelines import Run
from nightpress.pipelines.run_directory.commit import read_commit, recommit_shard
from nightpress.pipelines.run_directory.verify import Damage, Finding, verify

GATES = {"require": ["exposure > 0.45"], "max_draws": 12}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    prompts = [f"picture {n}" for n in range(12)] + ["explode"]
    return Run(*finished_run(tmp_path, prompts, gates=GATES))


def findings(run: Run) -> list[Finding]:
    return [finding for shard in verify(run) for finding in shard.findings]


def change(run: Run, shard: int, row: int, **values: Any) -> None:
    part = read_commit(run.store, shard)
    rows = part.to_pylist()
    rows[row] |= values
    recommit_shard(run.store, shard, pa.Table.from_pylist(rows, schema=part.schema))


def drawn_row(run: Run) -> tuple[int, int]:
    """A shard and a row whose draw is not the first."""
    for shard in run.committed:
        for row, draw in enumerate(read_commit(run.store, shard).column("draw").to_pylist()):
            if draw:
                return shard, row
    raise AssertionError


def test_a_gated_run_is_as_recorded(run: Run) -> None:
    assert findings(run) == []
    assert drawn_row(run)


def test_a_seed_that_is_not_that_of_its_draw_is_found(run: Run) -> None:
    shard, row = drawn_row(run)
    draw = read_commit(run.store, shard).column("draw")[row].as_py()
    change(run, shard, row, draw=draw - 1)
    (finding,) = findings(run)
    assert (finding.damage, finding.shard) == (Damage.METADATA, shard)
    assert f"row {row}, column seed" in finding.text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"draw": None}, "column draw: missing, but the run has gates"),
        ({"draw": 12, "draws": 13}, "draw 12 of 13, but max_draws is 12"),
        ({"draws": 0}, "of 0, but max_draws is 12"),
    ],
)
def test_draws_that_the_gates_do_not_allow_are_found(
    run: Run, values: dict[str, Any], text: str
) -> None:
    change(run, 1, 0, **values)
    (finding,) = findings(run)
    assert text in finding.text


def test_a_draw_in_a_run_without_gates_is_found(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b"]))
    assert findings(run) == []
    change(run, 0, 1, draw=0)
    (finding,) = findings(run)
    assert "row 1, column draw: the run has no gates" in finding.text
