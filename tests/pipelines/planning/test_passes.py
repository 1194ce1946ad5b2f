"""Passes are known when the run is planned: final sizes, and rows that cannot have them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.plans import MODEL, job, planned, problems_of, write

from nightpress.diffusion_core.conditioning.passes import passes_from_text
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check
from nightpress.pipelines.planning.batch_sizes import ImageKind
from nightpress.pipelines.run_directory.record import new_record
from nightpress.pipelines.shards.batching import batches, planned_images

PASSES = [
    {"scale": 1.5, "strength": 0.35, "num_inference_steps": 20},
    {"scale": 1.1, "strength": 0.5, "num_inference_steps": 10},
]
IMAGES = replace(MODEL, modes=("text", "image", "inpaint", "outpaint"))


def spec_of(tmp_path: Path, *rows: dict[str, Any], **values: Any) -> RunSpec:
    return job(tmp_path, write(tmp_path / "m.jsonl", rows), **({"passes": PASSES} | values))


def problems(tmp_path: Path, row: dict[str, Any], **values: Any) -> list[str]:
    return problems_of(spec_of(tmp_path, row, **values), IMAGES)


def test_the_plan_has_the_size_of_the_finished_image_and_how_it_gets_there(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        {"prompt": "a", "width": 64, "height": 96},
        {"prompt": "b", "width": 128, "height": 64},
        {"prompt": "c", "width": 64, "height": 96},
        images={"file_name": "{image_id}-{width}.png"},
    )
    layout, table = planned(spec, IMAGES, 2)
    rows = {row["prompt"]: row for row in table.to_pylist()}
    assert {k: (v["width"], v["height"]) for k, v in rows.items()} == {
        "a": (104, 160),  # 96 x 144, then 105.6 x 158.4
        "b": (208, 104),
        "c": (104, 160),
    }
    assert rows["a"]["file"] == "images/00000000_00-104.png"
    first, second = passes_from_text(rows["a"]["passes"])
    assert (first.from_width, first.from_height, first.width, first.height) == (64, 96, 96, 144)
    assert (second.from_width, second.width) == (96, 104)
    images = planned_images(table)
    assert {image.params.width for image in images} == {64, 128}
    assert {image.params.final_size for image in images} == {(104, 160), (208, 104)}
    assert {count.settings for count in layout.batches} == {image.params for image in images}
    kind = ImageKind.of(images[0].params)
    assert (kind.width, kind.height) == images[0].params.final_size


def test_images_with_passes_share_batches_only_at_equal_guidance(tmp_path: Path) -> None:
    """The image mode takes one guidance scale for a batch, unlike text alone."""
    rows = [{"prompt": f"{n}", "guidance_scale": 3 + n % 2} for n in range(8)]
    _, table = planned(spec_of(tmp_path, *rows), IMAGES, 4)
    made = list(batches(planned_images(table), lambda image: 4, supports_per_image_guidance=True))
    assert [len(batch) for batch in made] == [4, 4]
    assert all(len({image.guidance_scale for image in batch}) == 1 for batch in made)


def test_a_model_without_the_image_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="passes: a pass needs the mode image, but this model has"):
        check(spec_of(tmp_path, {"prompt": "a"}), MODEL)


def test_a_pass_that_a_latent_consistency_model_has_too_few_timesteps_for_is_refused(
    tmp_path: Path,
) -> None:
    lcm = replace(IMAGES, pipeline="LatentConsistencyModelPipeline")
    passes = [{"scale": 2.0, "strength": 0.1, "num_inference_steps": 10}]
    with pytest.raises(SpecError, match=r"passes\.0: the strength 0\.1 leaves 5 of 50 timesteps"):
        check(spec_of(tmp_path, {"prompt": "a"}, passes=passes), lcm)


def test_more_steps_than_the_model_has_are_refused(tmp_path: Path) -> None:
    passes = [{"scale": 2.0, "strength": 0.5, "num_inference_steps": 1001}]
    with pytest.raises(SpecError, match=r"passes\.0\.num_inference_steps: 1001 steps are more"):
        check(spec_of(tmp_path, {"prompt": "a"}, passes=passes), IMAGES)


@pytest.mark.parametrize(
    ("row", "scale", "words"),
    [
        ({"width": 11_000, "height": 64}, 1.5, "width: passes: 11,000 x 64 pixels at scale 1.5"),
        ({"width": 8_000, "height": 8_000}, 1.5, "which are more than 89,478,485 pixels"),
        ({"width": 64, "height": 64}, 1.05, "not larger on both sides; use a larger scale"),
        (
            {"width": 64, "height": 64, "init_image": "a.png", "mask_image": "b.png"},
            1.5,
            "mask_image: passes: a pass samples the whole image again, also the part that inpaint",
        ),
    ],
)
def test_a_row_that_cannot_have_the_passes_is_refused(
    tmp_path: Path, row: dict[str, Any], scale: float, words: str
) -> None:
    passes = [{"scale": scale, "strength": 0.5, "num_inference_steps": 4}]
    extra = {"inputs": {"check": "none"}}
    (problem,) = problems(tmp_path, {"prompt": "a"} | row, passes=passes, **extra)
    assert words in problem


@pytest.mark.parametrize(
    ("sampler", "steps", "words"),
    [
        (
            "unipc",
            4,
            "scheduler: passes: sampler unipc does not work with this model in mode image; choose "
            "one of: flow-euler, lcm, euler-trailing",
        ),
        ("lcm", 60, "scheduler: passes: 60 steps are more than the 50 that lcm allows"),
        ("euler-trailing", 61, "trailing timesteps instead of 61; use one step more or less"),
    ],
)
def test_a_sampler_that_cannot_make_the_passes_is_refused(
    tmp_path: Path, sampler: str, steps: int, words: str
) -> None:
    info = replace(IMAGES, samplers=("flow-euler", "unipc", "lcm", "euler-trailing"))
    passes = [{"scale": 2.0, "strength": 0.5, "num_inference_steps": steps}]
    row = {"prompt": "a", "width": 64, "height": 64, "scheduler": sampler}
    (problem,) = problems_of(spec_of(tmp_path, row, passes=passes), info)
    assert words in problem


def test_passes_join_the_identity_of_a_run_only_if_there_are_any(tmp_path: Path) -> None:
    plain, larger = (spec_of(tmp_path, {"prompt": "a"}, passes=p) for p in ([], PASSES))
    assert "passes" not in plain.identity()
    layouts = [check(spec, IMAGES) for spec in (plain, larger)]
    records = [
        new_record(s, IMAGES, "cpu", 1, x) for s, x in zip((plain, larger), layouts, strict=True)
    ]
    assert records[0].fingerprint != records[1].fingerprint
    assert [change.field for change in plain.changes(larger)] == ["passes"]
