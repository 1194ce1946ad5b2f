"""The metadata that benchmarks of large runs commit is as large as that of real runs."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.run_directory.commit import metadata_part
from nightpress.pipelines.scoring.measurements import MEASUREMENTS
from nightpress.pipelines.scoring.perceptual_hash import distance

NUM_IMAGES = 2_000


@pytest.fixture
def internet_runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import internet_runs

    return internet_runs


@pytest.fixture
def planned(internet_runs: Any, tmp_path: Path) -> pa.Table:
    """The first shard of a plan; its first image is to fail."""
    internet_runs.make_plan(tmp_path, NUM_IMAGES)
    run = internet_runs.run_of(tmp_path, NUM_IMAGES)
    return read_shard(run.store, run.record.layout, 0)


def test_every_image_has_hashes_and_measurements_of_its_own(
    internet_runs: Any, planned: pa.Table
) -> None:
    failed, *rows = internet_runs.committed_rows(planned).to_pylist()
    assert (failed["sha256"], failed["perceptual_hash"], failed["scores"]) == (None, None, None)
    for name in ("sha256", "perceptual_hash"):
        assert len({row[name] for row in rows}) == len(rows) == internet_runs.SHARD_SIZE - 1
    assert {len(row["sha256"]) for row in rows} == {64}
    assert distance(rows[0]["perceptual_hash"], rows[1]["perceptual_hash"]).bits > 0
    assert {tuple(dict(row["scores"])) for row in rows} == {MEASUREMENTS}


def test_records_make_the_same_rows(internet_runs: Any, planned: pa.Table) -> None:
    made = metadata_part(internet_runs.records_of(planned), planned)
    expected = internet_runs.committed_rows(planned)
    assert made.column_names == expected.column_names
    names = expected.column_names
    assert [name for name in names if not made.column(name).equals(expected.column(name))] == []
