"""Plans of models that make clips: frames, rates and modes by their rules."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.plans import MODEL, images_by_id, job, planned, problems_of, write

from nightpress.diffusion_core.models.clip_rules import ClipRules
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.planning import check
from nightpress.pipelines.shards.batching import planned_images

RULES = ClipRules(
    default_num_frames=9,
    default_fps=16,
    frame_multiple=4,
    frame_offset=1,
    modes=("text", "image", "first-last"),
)
VIDEO = replace(MODEL, pipeline="WanPipeline", clips=RULES)
OF_PICTURES = replace(VIDEO, pipeline="WanImageToVideoPipeline", modes=("image", "first-last"))
MP4 = {"images": {"format": "mp4"}}
UNCHECKED = MP4 | {"inputs": {"check": "none"}}


def clips(tmp_path: Path, *rows: dict[str, Any], **values: Any) -> list[dict[str, Any]]:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **MP4 | values)
    return list(images_by_id(planned(spec, VIDEO)[1]).values())


def test_a_row_has_its_own_frames_and_rate_or_the_jobs_or_the_models(tmp_path: Path) -> None:
    rows = ({"prompt": "a"}, {"prompt": "b", "num_frames": 13, "fps": 24})
    found = [row["clip"] for row in clips(tmp_path, *rows)]
    assert [(each["num_frames"], each["fps"]) for each in found] == [(9, 16.0), (13, 24.0)]
    assert [each["model_fps"] for each in found] == [None, None]
    found = [row["clip"] for row in clips(tmp_path / "job", *rows, sampling={"num_frames": 5})]
    assert [each["num_frames"] for each in found] == [5, 13]


def test_a_model_that_reads_the_rate_is_told_it_and_batches_are_of_one_rate(
    tmp_path: Path,
) -> None:
    info = replace(VIDEO, clips=replace(RULES, takes_fps=True))
    rows = [{"prompt": "a", "fps": fps} for fps in (24, 12, 24)]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **MP4)
    layout, table = planned(spec, info)
    params = [image.params for image in planned_images(table)]
    assert [each.fps for each in params] == [12, 24, 24]
    assert {each.settings.fps: each.num_images for each in layout.batches} == {24: 2, 12: 1}


@pytest.mark.parametrize("value", [0, 10_000, 10, 1])
def test_a_number_of_frames_that_the_model_would_round_is_one_line_with_its_neighbours(
    tmp_path: Path, value: int
) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b", "num_frames": value}]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **MP4)
    (found,) = problems_of(spec, VIDEO)
    assert found == f"m.jsonl, line 2, column num_frames: {RULES.why_not(value)}"
    if value == 10:
        assert "use 9 or 13" in found


def test_first_and_last_pictures_choose_the_mode(tmp_path: Path) -> None:
    rows = [
        {"prompt": "b", "init_image": "1.png"},
        {"prompt": "c", "init_image": "1.png", "last_image": "2.png"},
    ]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **UNCHECKED)
    images = {each.prompt: each for each in planned_images(planned(spec, OF_PICTURES)[1])}
    assert [each.role for each in images["b"].inputs] == ["init_image"]
    assert [each.role for each in images["c"].inputs] == ["init_image", "last_image"]
    modes = {prompt: each.params.conditioning.mode for prompt, each in images.items()}
    assert modes == {"b": "image", "c": "first-last"}


@pytest.mark.parametrize(
    ("row", "column", "problem"),
    [
        ({"to_prompt": "b"}, "to_prompt", "WanPipeline makes clips of its own"),
        ({"to_seed": 3}, "to_seed", "WanPipeline makes clips of its own"),
    ],
)
def test_what_a_model_of_clips_cannot_do_is_one_line(
    tmp_path: Path, row: dict[str, Any], column: str, problem: str
) -> None:
    rows = [{"prompt": "a"}, {"prompt": "a"} | row]
    found = problems_of(job(tmp_path, write(tmp_path / "m.jsonl", rows), **UNCHECKED), VIDEO)
    assert found[0].startswith(f"m.jsonl, line 2, column {column}: ")
    assert problem in found[0]


@pytest.mark.parametrize(
    ("row", "column", "problem"),
    [
        ({"init_image": None, "last_image": "2.png"}, "last_image", "needs an init_image"),
        ({"strength": 0.5}, "strength", "is the first frame of the clip"),
    ],
)
def test_what_pictures_of_a_clip_cannot_do_is_one_line(
    tmp_path: Path, row: dict[str, Any], column: str, problem: str
) -> None:
    whole = {"prompt": "a", "init_image": "1.png"}
    spec = job(tmp_path, write(tmp_path / "m.jsonl", [whole, whole | row]), **UNCHECKED)
    found = problems_of(spec, OF_PICTURES)
    assert found[0].startswith(f"m.jsonl, line 2, column {column}: ")
    assert problem in found[0]


def test_a_model_that_reads_no_prompt_takes_rows_without_one_and_no_other(tmp_path: Path) -> None:
    info = replace(VIDEO, clips=replace(RULES, takes_prompt=False))
    rows = [{"prompt": "", "id": "a"}, {"prompt": "a cat", "id": "b"}]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **MP4)
    (found,) = problems_of(spec, info)
    assert found == "m.jsonl, line 2, column prompt: this model reads no prompt; leave it empty"
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows[:1]), **MP4)
    assert planned(spec, info)[1].column("prompt").to_pylist() == [""]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "images.format: a png file holds one image, but WanPipeline makes clips"),
        (MP4 | {"passes": [{"scale": 2, "strength": 0.5, "num_inference_steps": 4}]}, "passes"),
    ],
)
def test_a_job_that_cannot_hold_its_clips_is_one_line(
    tmp_path: Path, values: dict[str, Any], problem: str
) -> None:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", [{"prompt": "a"}]), **values)
    with pytest.raises(SpecError, match=problem) as caught:
        check(spec, VIDEO)
    assert "\n" not in str(caught.value)
