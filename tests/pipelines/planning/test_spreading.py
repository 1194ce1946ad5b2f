"""`{spread}` in file names: which folders it gives, and what it does not change."""

from pathlib import Path
from typing import Any

import pytest
from support.plans import MODEL, images_by_id, job, planned, problems_of_rows, write

from nightpress.pipelines.planning import check, units
from nightpress.pipelines.planning import checking as checking_module
from nightpress.pipelines.planning.planner import Planner
from nightpress.pipelines.storage import Store

SPREAD = {"file_name": "{spread}/{image_id}.png"}


def rows(number: int, **each: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"prompt {n}", **each} for n in range(number)]


def test_spread_folders_change_every_thousand_rows(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.parquet", rows(2_100))
    _, plan = planned(job(tmp_path, manifest, images=SPREAD))
    files = plan["file"].to_pylist()
    assert files[0] == "images/00/00000000_00.png"
    assert files[999:1_001] == ["images/00/00000999_00.png", "images/80/00001000_00.png"]
    assert files[-1] == "images/40/00002099_00.png"


def test_one_digit_gives_sixteen_folders(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.parquet", rows(1_001))
    images = {"file_name": "{spread:.1}-{image_id}.png"}
    _, plan = planned(job(tmp_path, manifest, images=images))
    assert plan["file"].to_pylist()[-1] == "images/8-00001000_00.png"


def test_spread_changes_only_file_names(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.jsonl", rows(1_100, num_images=3))
    _, plain = planned(job(tmp_path / "plain", manifest))
    _, apart = planned(job(tmp_path / "apart", manifest, images=SPREAD))
    assert apart.schema == plain.schema
    assert apart.drop_columns("file") == plain.drop_columns("file")
    last = [name.rpartition("/")[2] for name in apart["file"].to_pylist()]
    assert [f"images/{name}" for name in last] == plain["file"].to_pylist()


@pytest.mark.parametrize("batch", [{"shard_size": 7}, {"shard_size": 512}, {}])
def test_spread_folders_do_not_depend_on_shards_batches_or_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: dict[str, int]
) -> None:
    mixed = [{**row, "width": 64 + 8 * (n % 3)} for n, row in enumerate(rows(2_500))]
    whole = write(tmp_path / "whole.jsonl", mixed)
    _, wanted = planned(job(tmp_path / "1", whole, images=SPREAD))
    parts = [write(tmp_path / "parts" / f"{n}.jsonl", mixed[n : n + 700]) for n in (0, 700)]
    parts.append(write(tmp_path / "parts" / "2.csv", mixed[1_400:]))
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 400)
    other = job(tmp_path / "2", parts, images=SPREAD, batch=batch)
    _, plan = planned(other, batch_size=5)
    assert images_by_id(plan, "shard") == images_by_id(wanted, "shard")


def test_a_manifest_column_named_spread_takes_precedence(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.jsonl", [{"prompt": "p", "spread": "wide"}])
    _, plan = planned(job(tmp_path, manifest, images=SPREAD))
    assert plan["file"].to_pylist() == ["images/wide/00000000_00.png"]
    assert plan["spread"].to_pylist() == ["wide"]


def test_a_spread_column_that_no_file_name_uses_is_carried(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.jsonl", [{"prompt": "p", "spread": "wide"}])
    _, plan = planned(job(tmp_path, manifest))
    assert plan["spread"].to_pylist() == ["wide"]
    assert plan["file"].to_pylist() == ["images/00000000_00.png"]


def test_a_spread_folder_does_not_make_names_unique(tmp_path: Path) -> None:
    images = {"file_name": "{spread}/cat.png"}
    (problem,) = problems_of_rows(tmp_path, {"prompt": "a"}, {"prompt": "b"}, images=images)
    assert "file name 'images/00/cat.png' is already used by" in problem


def test_a_names_length_includes_its_spread_folder(tmp_path: Path) -> None:
    long = "x" * 80
    row = {"prompt": "p", "a": long, "b": long, "c": long}
    (problem,) = problems_of_rows(
        tmp_path, row, images={"file_name": "{spread}/{a}{b}{c}{image_id}.png"}
    )
    assert "the file name would be too long" in problem


def test_names_made_of_row_numbers_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing millions of names costs time and memory, and is needed only if they can repeat."""
    planners: list[Planner] = []
    plain = checking_module.Planner

    def planner(*arguments: Any) -> Planner:
        planners.append(plain(*arguments))
        return planners[-1]

    monkeypatch.setattr(checking_module, "Planner", planner)
    manifest = write(tmp_path / "m.jsonl", [{"prompt": "p", "mood": "calm"}])
    named = write(tmp_path / "named.jsonl", [{"prompt": "p", "spread": "wide"}])
    for source, name in (
        (manifest, "{image_id}.png"),
        (manifest, "{spread}/{image_id}.png"),
        (manifest, "{spread}/{mood}/{image_id}.png"),
        (manifest, "{spread}.png"),
        (named, "{spread}/{image_id}.png"),
    ):
        check(job(tmp_path, source, images={"file_name": name}), MODEL)
    found = [each.names_are_row_numbers for each in planners]
    assert found == [True, True, False, False, False]


def test_another_spread_is_another_run(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.jsonl", rows(1))
    plain, apart = job(tmp_path, manifest), job(tmp_path, manifest, images=SPREAD)
    assert [change.field for change in plain.changes(apart)] == ["images.file_name"]
    assert Store(apart.url).list() == {}
