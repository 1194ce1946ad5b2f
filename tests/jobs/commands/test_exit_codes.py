"""Exit code 4 means that the same command goes on; 2 means that nothing was written."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.fakes.fake_runs import finished_run

from nightpress.jobs.cli import command, exit_code
from nightpress.jobs.errors import RunBlocked, RunStopped
from nightpress.jobs.runs.shared import failures_as_run_stopped
from nightpress.pipelines import Run
from nightpress.pipelines.errors import Change, ChangedRunError, Damaged, StoreError
from nightpress.pipelines.run_directory.commit import shard_path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(*finished_run(tmp_path, [f"picture {n}" for n in range(6)] + ["nan"]))


@pytest.mark.parametrize("words", [["status"], ["retry", "--address", "local"]])
def test_a_damaged_commit_is_1_with_what_mends_it_and_not_4_for_ever(
    run: Run, words: list[str]
) -> None:
    path = Path(run.url, shard_path(1))
    path.write_bytes(path.read_bytes()[:-20])
    result = CliRunner().invoke(command, [*words, run.url])
    assert result.exit_code == 1, result.output
    assert f"{run.url}/{shard_path(1)} is damaged" in result.output
    assert "nightpress verify --repair makes it again" in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Damaged("metadata/shard-00003.parquet is damaged", 3), 1),
        (ChangedRunError("s3://runs/night", [Change("manifest", "a", "b")]), 1),
        (StoreError("the store keeps failing"), 4),
    ],
    ids=["a damaged commit", "a changed manifest", "a store that is away"],
)
def test_what_stops_a_run_in_the_middle_says_whether_the_same_command_goes_on(
    error: Exception, code: int
) -> None:
    with pytest.raises((RunStopped, RunBlocked)) as caught, failures_as_run_stopped():
        raise error
    assert exit_code(caught.value) == code
    assert str(error) in str(caught.value)
    assert ("what is committed is kept" in str(caught.value)) == (code == 1)
