"""Reading runs, finished or not: metadata, images and progress."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from PIL import Image
from support.fakes.fake_runs import finished_run
from support.made_runs import BEGIN, begin, colour, commit, finish, made, record_of

from nightpress.pipelines import open_run
from nightpress.pipelines.errors import ImageNotFound, RunNotFound
from nightpress.pipelines.records import METADATA_SCHEMA, ImageFacts
from nightpress.pipelines.run_directory.commit import (
    amend_commit,
    metadata_columns,
    read_commit,
)
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.summary import PAUSE_S
from nightpress.pipelines.storage import Store


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin(str(tmp_path))


def test_without_a_run_the_error_names_the_url_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match=r"nothing-here.*run\.json") as caught:
        open_run(str(tmp_path / "nothing-here"))
    assert "\n" not in str(caught.value)


def test_a_run_has_its_job_and_its_url(run: Run, tmp_path: Path) -> None:
    assert run.spec == record_of(str(tmp_path)).spec
    assert run.url in repr(run)


def test_a_run_that_has_just_begun_has_no_rows_and_the_metadata_columns(run: Run) -> None:
    assert run.metadata.schema == METADATA_SCHEMA
    assert run.metadata.count_rows() == 0
    assert list(run.images()) == []
    progress = run.progress()
    assert (progress.num_images, progress.num_ok, progress.num_committed_shards) == (10, 0, 0)
    assert (progress.images_per_s, progress.first_at, progress.last_at) == (None, None, None)
    assert not progress.complete


def test_the_metadata_has_every_row_in_sampling_order_and_the_carried_columns(run: Run) -> None:
    finish(run)
    table = run.metadata.to_table()
    assert table.schema.names == [*METADATA_SCHEMA.names, "topic"]
    assert table.column("id").to_pylist() == [str(n) for n in range(10)]
    assert table.column("topic").to_pylist() == [f"topic {n}" for n in range(10)]


def test_carried_columns_are_read_however_a_shard_has_encoded_them(run: Run) -> None:
    words = pa.array(["x", "y", "x", "x"])
    commit(run, 0, [made(run, n) for n in range(4)], topic=words.dictionary_encode())
    commit(run, 1, [made(run, n) for n in range(4, 8)], topic=words)
    assert run.metadata.schema.field("topic").type == pa.string()
    assert run.metadata.to_table().column("topic").to_pylist() == words.to_pylist() * 2


def test_metadata_follows_the_run_as_it_grows(run: Run) -> None:
    commit(run, 1, [made(run, n) for n in range(4, 8)])
    assert run.metadata.count_rows() == 4
    commit(run, 0, [made(run, n) for n in range(4)])
    assert run.metadata.to_table().column("id").to_pylist() == [str(n) for n in range(8)]


def test_an_image_is_found_by_its_id(run: Run) -> None:
    finish(run)
    image = run.image("7_00")
    assert isinstance(image, Image.Image)
    assert image.getpixel((3, 3)) == colour(7)


def test_the_error_names_an_image_that_failed_or_is_unknown(run: Run) -> None:
    finish(run)
    with pytest.raises(ImageNotFound, match="'5_00' failed: NonFinite: not finite"):
        run.image("5_00")
    with pytest.raises(LookupError, match="no image 'nobody' is committed"):
        run.image("nobody")


def test_images_come_with_their_rows_and_failed_ones_are_left_out(run: Run) -> None:
    finish(run)
    found = list(run.images())
    assert [row["id"] for row, _ in found] == [str(n) for n in range(10) if n != 5]
    for row, image in found:
        assert image.getpixel((0, 0)) == colour(row["seed"])
        assert row["topic"] == f"topic {row['id']}"


def test_images_can_be_chosen_by_any_column(run: Run) -> None:
    finish(run)
    chosen = run.images(ds.field("topic").isin(["topic 2", "topic 5", "topic 8"]))
    assert [row["id"] for row, _ in chosen] == ["2", "8"]


def test_progress_counts_what_is_committed(run: Run) -> None:
    finish(run)
    progress = run.progress()
    sizes = run.metadata.to_table(columns=["num_bytes"]).column("num_bytes").to_pylist()
    assert (progress.num_ok, progress.num_failed, progress.num_images) == (9, 1, 10)
    assert (progress.num_committed_shards, progress.num_shards) == (3, 3)
    assert progress.num_bytes == sum(size or 0 for size in sizes)
    assert progress.complete


def test_progress_has_the_rate_and_the_times_of_sampling(run: Run) -> None:
    finish(run)
    progress = run.progress()
    assert progress.active_s == pytest.approx(10.0)
    assert progress.images_per_s == pytest.approx(9 / 10.0)
    assert progress.first_at == "2027-01-15T08:00:00+00:00"
    assert progress.last_at == "2027-01-15T08:00:10+00:00"


def test_a_pause_between_two_starts_does_not_count(run: Run) -> None:
    pause_s = PAUSE_S + 3_600
    later = [made(run, n, started_at=BEGIN + 4 + pause_s) for n in (4, 5)]
    commit(run, 0, [made(run, n) for n in range(4)])
    commit(run, 1, later)
    assert run.progress().active_s == pytest.approx(6.0)
    assert run.progress().images_per_s == pytest.approx(1.0)


def test_time_in_which_several_workers_sample_counts_once(run: Run) -> None:
    commit(run, 0, [made(run, n, started_at=BEGIN + n % 2 * 0.25) for n in range(4)])
    assert run.progress().active_s == pytest.approx(2.25)


def test_adopted_images_are_counted_but_not_timed(run: Run) -> None:
    commit(run, 0, [made(run, n, sampling_s=None) for n in range(4)])
    progress = run.progress()
    assert (progress.num_ok, progress.active_s, progress.images_per_s) == (4, 0.0, None)


def test_an_image_is_found_by_reading_the_commit_of_its_shard_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(*finished_run(tmp_path, [f"picture {n}" for n in range(40)]))
    read: list[str] = []
    read_whole = Store.read

    def counted(store: Store, path: str) -> bytes:
        read.append(path)
        return read_whole(store, path)

    monkeypatch.setattr(Store, "read", counted)
    monkeypatch.setattr(Store, "list", None)
    run.image("00000022_00")
    assert read == ["metadata/shard-00005.parquet", "images/00000022_00.png"]


def test_an_image_is_found_after_its_commit_was_amended(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "nan", "c"]))
    with pytest.raises(ImageNotFound, match="failed: NonFinite"):
        run.image("00000001_00")
    amend_commit(run.store, 0, {1: replace(made(run, 1), facts=facts_of(run, 1))})
    assert run.image("00000001_00").getpixel((0, 0)) == colour(1)


def facts_of(run: Run, row: int) -> ImageFacts:
    (values,) = metadata_columns(read_commit(run.store, 0)).slice(row, 1).to_pylist()
    return ImageFacts.from_dict(values)


def test_an_image_of_a_shard_without_a_commit_is_not_found(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, [f"picture {n}" for n in range(8)]))
    run.store.delete("metadata/shard-00001.parquet")
    run.image("00000003_00")
    with pytest.raises(ImageNotFound, match="no image '00000004_00' is committed"):
        run.image("00000004_00")
