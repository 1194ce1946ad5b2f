"""Plans of clips: what rows may ask for, and one clear line for what they may not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.plans import MODEL, images_by_id, job, planned, problems_of_rows, write

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.clips import mp4
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check

WALK = {"prompt": "a cat", "to_prompt": "a dog"}
CLIPS: dict[str, Any] = {"images": {"format": "webp"}, "sampling": {"num_frames": 8}}


def clips(tmp_path: Path, *rows: dict[str, Any], **values: Any) -> dict[str, dict[str, Any]]:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **{**CLIPS, **values})
    return {name: row["clip"] for name, row in images_by_id(planned(spec)[1]).items()}


def refusal(tmp_path: Path, *rows: dict[str, Any], **values: Any) -> str:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **values)
    with pytest.raises(SpecError) as caught:
        check(spec, MODEL)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_row_has_its_own_frames_and_rate_or_the_jobs(tmp_path: Path) -> None:
    found = clips(
        tmp_path,
        WALK | {"num_frames": 5, "fps": 23.976},
        WALK,
        {"prompt": "a cat", "to_seed": 9, "fps": "12"},
        images={"format": "webp", "fps": 24},
    )
    nothing = {"to_prompt": None, "to_seed": None, "model_fps": None}
    assert found["00000000_00"] == nothing | {"num_frames": 5, "fps": 23.976, "to_prompt": "a dog"}
    assert found["00000001_00"] == nothing | {"num_frames": 8, "fps": 24.0, "to_prompt": "a dog"}
    assert found["00000002_00"] == nothing | {"num_frames": 8, "fps": 12.0, "to_seed": 9}


def test_the_seed_that_a_walk_ends_at_counts_up_with_the_seed_it_starts_at(tmp_path: Path) -> None:
    row = {"prompt": "a cat", "seed": 7, "to_seed": 100, "num_images": 3}
    assert [each["to_seed"] for each in clips(tmp_path, row).values()] == [100, 101, 102]


def test_batches_are_of_one_number_of_frames(tmp_path: Path) -> None:
    rows = [WALK | {"num_frames": 4 + number % 2} for number in range(6)]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **CLIPS)
    layout, table = planned(spec, batch_size=3)
    assert [clip["num_frames"] for clip in table.column("clip").to_pylist()] == [4] * 3 + [5] * 3
    assert {each.settings.num_frames: each.num_images for each in layout.batches} == {4: 3, 5: 3}


def test_a_plan_of_still_images_has_no_column_for_clips(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", [{"prompt": "a cat"}]))
    _, table = planned(spec)
    assert table.column("clip").null_count == 1
    stored = (tmp_path / "out/run/plan/part-00000.parquet").read_bytes()
    assert b"num_frames" not in stored


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (0, "0 is not between 1 and 2,048 frames"),
        (10_000, "10,000 is not between 1 and 2,048 frames"),
        (-3, "-3 is not between 1 and 2,048 frames"),
        (1, "a walk has 2 frames or more, its start and its end"),
        (7.5, "7.5 is not a whole number"),
        ("many", "'many' is not a number"),
    ],
)
def test_a_wrong_number_of_frames_is_one_line_with_its_row(
    tmp_path: Path, value: Any, problem: str
) -> None:
    rows = [WALK, WALK | {"num_frames": value}, WALK]
    (found,) = problems_of_rows(tmp_path, *rows, **CLIPS)
    assert found == f"m.jsonl, line 2, column num_frames: {problem}"


@pytest.mark.parametrize(
    ("row", "column", "problem"),
    [
        ({"fps": 0}, "fps", "0 is not above 0 and at most 120"),
        ({"fps": "nan"}, "fps", "'nan' is not a number"),
        ({"fps": 1000}, "fps", "1000 is not above 0 and at most 120"),
        ({"to_seed": -1}, "to_seed", "-1 is not between 0 and 2^53 - 1"),
        ({"to_seed": 2**53}, "to_seed", "9007199254740992 is not between 0 and 2^53 - 1"),
        (
            {"to_prompt": " a cat"[1:]},
            "to_prompt",
            "the walk ends where it starts, at the row's own prompt and seed",
        ),
    ],
)
def test_a_wrong_rate_or_end_is_one_line_with_its_row(
    tmp_path: Path, row: dict[str, Any], column: str, problem: str
) -> None:
    (found,) = problems_of_rows(tmp_path, WALK, WALK | row, **CLIPS)
    assert found == f"m.jsonl, line 2, column {column}: {problem}"


def test_a_walk_to_the_rows_own_seed_is_refused(tmp_path: Path) -> None:
    (found,) = problems_of_rows(tmp_path, {"prompt": "a", "seed": 4, "to_seed": 4}, **CLIPS)
    assert "column to_seed: the walk ends where it starts" in found


def test_a_row_that_walks_nowhere_is_refused_with_the_command_that_walks(tmp_path: Path) -> None:
    (found,) = problems_of_rows(tmp_path, WALK, {"prompt": "a", "to_prompt": " "}, **CLIPS)
    assert found.startswith(
        "m.jsonl, line 2, column to_prompt: StableDiffusionPipeline makes still"
    )
    assert "nightpress walk JOB" in found


def test_a_row_without_frames_is_refused_if_the_job_sets_none(tmp_path: Path) -> None:
    (found,) = problems_of_rows(tmp_path, WALK, images={"format": "webp"})
    assert "column num_frames: no num_frames given" in found


def test_a_prompt_to_walk_to_is_checked_as_prompts_are(tmp_path: Path) -> None:
    (found,) = problems_of_rows(tmp_path, WALK | {"to_prompt": "a <lora:dog:1>"}, **CLIPS)
    assert found.startswith("m.jsonl, line 1, column to_prompt: '<lora:dog:1>' loads a LoRA")


@pytest.mark.parametrize("key", ["sampling", "column", "format"])
def test_frames_of_a_model_of_stills_without_an_end_are_one_line_that_names_walk(
    tmp_path: Path, key: str
) -> None:
    row = {"prompt": "a"} | ({"num_frames": 5} if key == "column" else {})
    values: dict[str, Any] = {"images": {"format": "mp4" if key == "format" else "webp"}}
    if key == "sampling":
        values |= {"sampling": {"num_frames": 5}}
    found = refusal(tmp_path, row, **values)
    asked = {
        "sampling": "sampling.num_frames",
        "column": "the column num_frames",
        "format": "images.format: mp4",
    }[key]
    assert found.startswith(f"{asked}: StableDiffusionPipeline makes still images")
    assert "nightpress walk JOB" in found


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_clips_in_a_format_of_stills_are_one_line(tmp_path: Path, kind: str) -> None:
    found = refusal(tmp_path, WALK, **CLIPS | {"images": {"format": kind}})
    assert found == (
        f"images.format: a {kind} file holds one image, but sampling.num_frames asks for clips; "
        "use mp4 or webp"
    )


@pytest.mark.parametrize("images", [{"keep": ["first_frame"]}, {"fps": 24}])
def test_keys_of_clips_in_a_job_of_stills_are_refused(
    tmp_path: Path, images: dict[str, Any]
) -> None:
    found = refusal(tmp_path, {"prompt": "a"}, images=images)
    assert found.startswith(f"images.{next(iter(images))}: it is for clips")


def test_odd_sides_are_refused_where_the_format_has_no_room_for_them(tmp_path: Path) -> None:
    spec = job(
        tmp_path,
        write(tmp_path / "m.jsonl", [WALK | {"width": 33}]),
        **CLIPS | {"images": {"format": "mp4"}},
    )
    with pytest.raises(ValueError, match=r"column width: 33 is not a multiple of 2 between 2 and"):
        check(spec, replace(MODEL, size_multiple=1))
    webp = spec.model_copy(update={"images": spec.images.model_copy(update={"format": "webp"})})
    check(webp, replace(MODEL, size_multiple=1))


def test_mp4_without_av_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mp4, "find_spec", lambda name: None)
    found = refusal(tmp_path, WALK, **CLIPS | {"images": {"format": "mp4"}})
    assert found == (
        "images.format: mp4 needs the package av; pip install 'nightpress[video]' brings it"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        ({"format": "mp4", "quality": 90}, "mp4 has one fixed quality"),
        ({"format": "mp4", "file_name": "{image_id}.png"}, "must end in .mp4"),
        ({"format": "mp4", "packing": "parquet"}, "packing: parquet holds still images"),
        ({"format": "webp", "keep": ["first_frame"], "packing": "webdataset"}, "needs files"),
        ({"format": "webp", "keep": ["last_frame"]}, "'first_frame'"),
        ({"format": "webp", "fps": 0}, "greater than 0"),
        ({"format": "webp", "fps": 121}, "greater than 0 and at most 120"),
        ({"format": "gif"}, "'png', 'webp', 'jpeg' or 'mp4'"),
    ],
)
def test_wrong_keys_are_refused(tmp_path: Path, images: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as caught:
        job(tmp_path, tmp_path / "m.jsonl", images=images)
    assert "\n" not in str(caught.value)


def test_keys_of_clips_join_the_identity_only_when_they_are_set(tmp_path: Path) -> None:
    plain = job(tmp_path, tmp_path / "m.jsonl")
    assert not {"fps", "keep", "packing"} & plain.identity()["images"].keys()
    assert "num_frames" not in plain.identity()["sampling"]
    same = RunSpec.from_dict(plain.as_dict())
    assert same.identity() == plain.identity()
    for values in (
        {"images": {"fps": 24}},
        {"images": {"keep": ["first_frame"]}},
        {"sampling": {"num_frames": 9}},
    ):
        assert job(tmp_path, tmp_path / "m.jsonl", **values).changes(plain)
