"""Selections of real runs, and what `verify` says of them."""

from pathlib import Path

import pyarrow as pa
import pytest
from support.fakes.fake_runs import finished_run
from support.growing_runs import begin, cats, extend, make

from nightpress import select, verify
from nightpress.jobs.commands.verify import as_text, as_values
from nightpress.pipelines import Run
from nightpress.pipelines.run_directory.commit import commit_shard, shard_path
from nightpress.pipelines.run_directory.committed_parts import committed_parts

PROMPTS = [f"picture {n}" for n in range(7)] + ["nan"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(*finished_run(tmp_path, PROMPTS))


def test_images_of_a_run_are_ranked_by_what_was_measured_in_them(run: Run) -> None:
    rows = [row for row, _ in run.images()]
    rows.sort(key=lambda row: (-row["scores"]["sharpness"], row["image_id"]))
    images = select(run, "sharp", by="sharpness", top=5).images.to_pylist()
    assert [(each["image_id"], each["sha256"], each["rank"]) for each in images] == [
        (row["image_id"], row["sha256"], rank) for rank, row in enumerate(rows[:5], start=1)
    ]
    near = select(run, "distinct", dedup="near")
    assert near.num_chosen + sum(drop.num_images for drop in near.drops) == len(PROMPTS)


def test_packs_are_chosen_from_like_files(tmp_path: Path) -> None:
    runs = [
        Run(*finished_run(tmp_path / packing, PROMPTS, packing=packing))
        for packing in ("none", "webdataset")
    ]
    chosen = [select(run, "all", dedup="exact").images["image_id"].to_pylist() for run in runs]
    assert chosen[0] == chosen[1]


def test_all_editions_of_a_run_are_chosen_from(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2))
    make(spec)
    first = select(spec, "first")
    extend(spec, [*cats(1, 2), *cats(3, 4, mood="calm")])
    make(spec)
    assert first.num_images == 2
    second = select(spec, "second")
    assert second.images["image_id"].to_pylist() == ["r1_00", "r2_00", "r3_00", "r4_00"]
    assert second.num_images == 4
    calm = select(spec, "calm", where="mood = 'calm'", by="exposure", top=1, per="mood")
    assert calm.num_chosen == 1
    assert {drop.reason: drop.num_images for drop in calm.drops} == {
        "condition not met": 2,
        "beyond the first 1 of each mood": 1,
    }


def test_verify_tells_of_images_that_were_made_again_since(run: Run) -> None:
    select(run, "all")
    select(run, "few", where="image_id = '00000006_00'")
    result = verify(run)
    assert (result.selections, result.is_sound) == ((), True)
    _record_other_hashes(run)
    (found,) = verify(run).selections
    assert (found.name, found.num_images, found.num_missing) == ("all", 7, 0)
    assert found.num_remade > 0
    told = f"selection all: of 7 images, {found.num_remade} made again with other bytes since"
    assert told in as_text(verify(run))
    values = as_values(verify(run))["selections"]
    assert isinstance(values, list)
    assert values[0]["num_remade"] == found.num_remade


def test_verify_finds_a_damaged_selection(run: Run) -> None:
    select(run, "all")
    path = Path(run.url, "selections", "all.parquet")
    path.write_bytes(path.read_bytes()[:100])
    result = verify(run)
    assert (result.findings, result.is_sound) == ((), False)
    assert "all.parquet: not a selection" in as_text(result)


def _record_other_hashes(run: Run) -> None:
    """Commit the first shard with other hashes, as if its images had been made again."""
    (first,) = [each.rows for each in committed_parts(run, run.metadata.schema) if each.shard == 0]
    place, field = first.column_names.index("sha256"), first.schema.field("sha256")
    Path(run.url, shard_path(0)).unlink()
    hashes = pa.array(["0" * 64] * len(first))
    commit_shard(run.store, 0, first.set_column(place, field, hashes))
