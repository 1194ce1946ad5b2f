"""Images that are stored but not committed count as done, and are counted separately too."""

from pathlib import Path

import pytest
from support.fakes.fake_runs import finished_run

from nightpress.pipelines.reporting.collect import collect
from nightpress.pipelines.reporting.report import LIMITS, totals
from nightpress.pipelines.run_directory import stored
from nightpress.pipelines.run_directory.commit import shard_path
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.run_directory.stored import num_stored
from nightpress.pipelines.storage import Store

PROMPTS = [f"a picture of the number {n}" for n in range(20)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run of five shards with four images each."""
    return Run(*finished_run(tmp_path, PROMPTS))


def uncommit(run: Run, *shards: int) -> None:
    for shard in shards:
        run.store.delete(shard_path(shard))


def test_a_finished_run_has_no_other_images_than_the_committed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "present", pytest.fail)  # nothing is looked for
    progress = run.progress()
    assert (progress.num_ok, progress.num_stored, progress.num_done) == (20, 0, 20)


def test_images_of_shards_without_a_commit_are_counted_apart_and_as_done(run: Run) -> None:
    uncommit(run, 1, 4)
    run.store.delete("images/00000005_00.png")
    run.store.put("images/orphan.png", b"of no plan")
    progress = run.progress()
    assert (progress.num_ok, progress.num_failed, progress.num_stored) == (12, 0, 7)
    assert progress.num_done == 19
    assert not progress.complete


def test_a_run_that_was_killed_before_its_first_commit_shows_what_is_stored(run: Run) -> None:
    uncommit(run, *range(5))
    for number in range(12, 20):
        run.store.delete(f"images/{number:08d}_00.png")
    progress = run.progress()
    assert (progress.num_committed_shards, progress.num_done) == (0, 12)
    assert progress.images_per_s is None


def test_a_plan_that_is_not_written_yet_hides_nothing_that_is(run: Run) -> None:
    uncommit(run, *range(5))
    for path in run.store.list("plan"):
        run.store.delete(path)
    assert run.progress().num_stored == 0


def test_only_the_next_images_of_a_large_run_are_looked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncommit(run, 0, 1, 2, 3, 4)
    monkeypatch.setattr(stored, "MAX_LOOKED_FOR", 8)
    assert run.progress().num_stored == 8


@pytest.mark.parametrize("packing", ["webdataset", "parquet"])
def test_packed_images_are_stored_with_their_shard_and_never_count_before(
    tmp_path: Path, packing: str
) -> None:
    run = Run(*finished_run(tmp_path, PROMPTS, packing=packing))
    uncommit(run, 1)
    assert run.progress().num_stored == 0


def test_report_and_progress_have_the_same_numbers_in_the_same_words(run: Run) -> None:
    uncommit(run, 1)
    progress = run.progress()
    found = collect(run, LIMITS)
    assert set(found.totals) == set(run.committed)
    shown = {total.name: total.value for total in totals(progress)}
    assert shown["stored, not yet committed"] == "4"
    assert shown["of all images done"] == "100%"
    assert shown["images/s of sampling time"] == f"{progress.images_per_s:.2f}"


def test_the_record_of_a_run_that_is_only_partly_committed_is_enough(
    run: Run, tmp_path: Path
) -> None:
    record: RunRecord = run.record
    uncommit(run, 3)
    assert num_stored(run.store, record, [0, 1, 2, 4]) == 4
    assert num_stored(run.store, record, range(5)) == 0
