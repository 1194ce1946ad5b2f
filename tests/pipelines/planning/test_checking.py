"""How rows are read, and what is reported about bad ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.plans import (
    MODEL,
    SIZELESS,
    images_by_id,
    job,
    planned,
    problems_of,
    problems_of_rows,
    write,
)

from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.pipelines.errors import ManifestError, SpecError
from nightpress.pipelines.job.sections import MAX_PIXELS
from nightpress.pipelines.planning import check

SAMPLERS = "default, ddim, euler, dpmsolver++"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": ""}, "column prompt: the prompt is empty"),
        ({"prompt": " \t\u3000"}, "column prompt: the prompt is empty"),
        ({"prompt": None}, "column prompt: the prompt is empty"),
        ({"width": 100}, "column width: 100 is not a multiple of 8 between 8 and 16,384"),
        ({"width": 0}, "column width: 0 is not a multiple of 8 between 8 and 16,384"),
        ({"height": -64}, "column height: -64 is not a multiple of 8 between 8 and 16,384"),
        ({"height": 16_392}, "column height: 16392 is not a multiple of 8 between 8 and 16,384"),
        (
            {"width": 16_384, "height": 16_384},
            "column width: 16,384 x 16,384 pixels are more than 89,478,485, above which Pillow "
            "does not open an image without a warning",
        ),
        ({"width": 64.5}, "column width: 64.5 is not a whole number"),
        ({"width": "wide"}, "column width: 'wide' is not a number"),
        ({"width": "64.5"}, "column width: '64.5' is not a whole number"),
        ({"num_images": 0}, "column num_images: 0 is not between 1 and 100,000"),
        ({"num_images": 100_001}, "column num_images: 100001 is not between 1 and 100,000"),
        ({"num_inference_steps": 0}, "column num_inference_steps: 0 is not between 1 and 10,000"),
        ({"guidance_scale": -1}, "column guidance_scale: -1.0 is not a finite number of 0 or more"),
        ({"guidance_scale": "x"}, "column guidance_scale: 'x' is not a number"),
        ({"seed": -1}, "column seed: -1 is not between 0 and 2^53 - 1"),
        ({"seed": 1e30}, "column seed: 1e+30 is out of range"),
        ({"seed": 2**53}, f"column seed: {2**53} is not between 0 and 2^53 - 1"),
        (
            {"seed": 2**53 - 2, "num_images": 3},
            f"column seed: the seeds of the 3 images of this row, from {2**53 - 2} up, would "
            "exceed 2^53 - 1",
        ),
        (
            {"scheduler": "plms"},
            "column scheduler: sampler 'plms' of other programs has no equal here; the nearest: "
            "ddim, dpmsolver++",
        ),
        (
            {"scheduler": "plums"},
            f"column scheduler: there is no sampler 'plums'; choose one of: {SAMPLERS}",
        ),
        (
            {"scheduler": "Euler a"},
            "column scheduler: sampler 'Euler a', which is euler-ancestral, does not work with "
            f"this model; choose one of: {SAMPLERS}",
        ),
        (
            {"scheduler": "flow-euler"},
            "column scheduler: sampler 'flow-euler' does not work with this model; choose one of: "
            f"{SAMPLERS}",
        ),
        ({"id": ""}, "column id: the id is empty"),
        ({"id": "é" * 101}, "column id: the id has 202 bytes, but at most 200 are allowed"),
    ],
)
def test_a_bad_row_is_reported_with_its_position_and_what_is_allowed(
    tmp_path: Path, row: dict[str, Any], problem: str
) -> None:
    good = {"prompt": "fine"} | ({"id": "other"} if "id" in row else {})
    assert problems_of_rows(tmp_path, good, {"prompt": "p"} | row) == [
        f"m.jsonl, line 2, {problem}"
    ]


def test_nan_and_infinity_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    values = pa.array([1.0, float("nan"), float("inf")])
    pq.write_table(pa.table({"prompt": ["a"] * 3, "guidance_scale": values}), path)
    assert problems_of(job(tmp_path, path)) == [
        f"m.parquet, row {row} (counted from 0), column guidance_scale: {value} is not a finite "
        "number of 0 or more"
        for row, value in ((1, "nan"), (2, "inf"))
    ]


def test_the_first_twenty_problems_are_reported_in_order(tmp_path: Path) -> None:
    rows = [{"prompt": "", "width": 7}] * 15
    paths = [write(tmp_path / f"{name}.csv", rows) for name in "ab"]
    with pytest.raises(ManifestError) as caught:
        check(job(tmp_path, paths), MODEL)
    assert caught.value.total == 60
    assert len(caught.value.problems) == 20
    assert [(p.row, p.column) for p in caught.value.problems[:4]] == [
        (0, "prompt"),
        (0, "width"),
        (1, "prompt"),
        (1, "width"),
    ]
    assert str(caught.value).endswith("... and 40 more")


def test_numbers_in_text_columns_are_read(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "p",
            "seed": " 9007199254740990 ",
            "num_images": "2.0",
            "width": "64",
            "height": "6.4e1",
            "num_inference_steps": "+5",
            "guidance_scale": "7.5",
        },
        {"prompt": "p", "seed": "", "width": " "},
    ]
    _, plan = planned(job(tmp_path, write(tmp_path / "m.csv", rows)))
    images = images_by_id(plan)
    assert len(images) == 3
    assert images["00000000_01"]["seed"] == 2**53 - 1
    assert images["00000000_01"]["height"] == 64
    assert images["00000000_01"]["num_inference_steps"] == 5
    assert images["00000000_01"]["guidance_scale"] == 7.5
    assert images["00000001_00"]["width"] == MODEL.width


def test_a_float32_keeps_its_shortest_decimal_form(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["p"], "guidance_scale": pa.array([7.1], pa.float32())})
    pq.write_table(table, tmp_path / "m.parquet")
    _, plan = planned(job(tmp_path, tmp_path / "m.parquet"))
    assert plan["guidance_scale"].to_pylist() == [7.1]


def test_missing_settings_come_from_the_job_and_then_from_the_model(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "width": 64, "scheduler": "ddim"}, {"prompt": "b"}]
    sampling = {"width": 32, "scheduler": "euler", "negative_prompt": "blur", "num_images": 2}
    _, plan = planned(job(tmp_path, write(tmp_path / "m.jsonl", rows), sampling=sampling))
    images = images_by_id(plan)
    assert len(images) == 4
    said, silent = images["00000000_00"], images["00000001_01"]
    assert (said["width"], said["height"], said["scheduler"]) == (64, MODEL.height, "ddim")
    assert (silent["width"], silent["height"], silent["scheduler"]) == (32, MODEL.height, "euler")
    assert silent["negative_prompt"] == "blur"
    assert silent["num_inference_steps"] == MODEL.num_inference_steps
    assert silent["guidance_scale"] == MODEL.guidance_scale


def test_an_empty_negative_prompt_is_kept_and_a_missing_one_is_the_jobs(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "negative_prompt": ""}, {"prompt": "b"}]
    manifest = write(tmp_path / "m.jsonl", rows)
    _, plan = planned(job(tmp_path, manifest, sampling={"negative_prompt": "blur"}))
    assert plan["negative_prompt"].to_pylist() == ["", "blur"]


def test_a_negative_prompt_is_refused_if_the_model_takes_none(tmp_path: Path) -> None:
    model = replace(MODEL, takes_negative_prompt=False)
    manifest = write(tmp_path / "m.jsonl", [{"prompt": "a", "negative_prompt": "b"}])
    assert problems_of(job(tmp_path, manifest), model) == [
        "m.jsonl, line 1, column negative_prompt: this model takes no negative prompt"
    ]
    silent = write(tmp_path / "n.jsonl", [{"prompt": "a", "negative_prompt": " "}])
    assert check(job(tmp_path, silent), model).num_images == 1
    with pytest.raises(SpecError, match=r"sampling\.negative_prompt: this model takes no"):
        check(job(tmp_path, silent, sampling={"negative_prompt": "x"}), model)


def test_a_guidance_scale_without_any_effect_is_refused(tmp_path: Path) -> None:
    model = replace(MODEL, takes_guidance=False, guidance_scale=1.0)
    rows = [{"prompt": "a", "guidance_scale": scale} for scale in (3.5, 1.0, 0.0, None)]
    manifest = write(tmp_path / "m.jsonl", rows)
    assert problems_of(job(tmp_path, manifest), model) == [
        "m.jsonl, line 1, column guidance_scale: this model takes no guidance; 3.5 would have no "
        "effect"
    ]
    silent = write(tmp_path / "n.jsonl", rows[1:])
    assert check(job(tmp_path, silent), model).num_images == 3
    with pytest.raises(SpecError, match=r"sampling\.guidance_scale: this model takes no guidance"):
        check(job(tmp_path, silent, sampling={"guidance_scale": 2.0}), model)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"width": 100}, "sampling.width: 100 is not a multiple of 8 up to 16,384"),
        ({"height": 20_000}, "sampling.height: 20000 is not a multiple of 8 up to 16,384"),
        (
            {"scheduler": "flow-euler"},
            "sampling.scheduler: 'flow-euler' does not work with this model; choose one of: "
            f"{SAMPLERS}",
        ),
    ],
)
def test_the_jobs_defaults_must_suit_the_model(
    tmp_path: Path, sampling: dict[str, Any], message: str
) -> None:
    manifest = write(tmp_path / "m.jsonl", [{"prompt": "a"}])
    with pytest.raises(SpecError) as caught:
        check(job(tmp_path, manifest, sampling=sampling), MODEL)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("column", ["shot", "id", "size", "variant", "scheduler", "score.clip"])
def test_images_may_be_stacked_by_what_the_page_has(tmp_path: Path, column: str) -> None:
    manifest = write(tmp_path / "m.jsonl", [{"prompt": "a", "shot": "x"}])
    assert check(job(tmp_path, manifest, review={"group_by": column}), MODEL).num_images == 1


@pytest.mark.parametrize("column", ["shto", "sha256", "scores", "inputs"])
def test_images_are_not_stacked_by_a_column_that_they_do_not_have(
    tmp_path: Path, column: str
) -> None:
    manifest = write(tmp_path / "m.jsonl", [{"prompt": "a", "shot": "x"}])
    with pytest.raises(SpecError) as caught:
        check(job(tmp_path, manifest, review={"group_by": column}), MODEL)
    assert str(caught.value).startswith(f"review.group_by: {column!r} is no column of the images")
    assert "the manifest carries (shot)" in str(caught.value)
    assert ("did you mean 'shot'?" in str(caught.value)) == (column == "shto")


def test_the_largest_images_are_those_that_pillow_and_the_format_allow(tmp_path: Path) -> None:
    def largest(width: int, height: int, images: str) -> int:
        row = {"prompt": "a", "width": width, "height": height}
        manifest = write(tmp_path / "m.jsonl", [row])
        return check(job(tmp_path, manifest, images={"format": images}), MODEL).num_images

    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS
    assert largest(16_384, 5_456, "png") == largest(9_456, 9_456, "jpeg") == 1
    assert largest(16_376, 5_456, "webp") == 1
    with pytest.raises(ManifestError, match=r"between 8 and 16,383"):
        largest(16_384, 64, "webp")
    with pytest.raises(ManifestError, match=r"9,464 x 9,456 pixels are more than"):
        largest(9_464, 9_456, "png")


def test_a_size_must_come_from_the_row_the_job_or_the_model(tmp_path: Path) -> None:
    none = job(tmp_path, write(tmp_path / "m.jsonl", [{"prompt": "a"}]))
    with pytest.raises(SpecError, match=r"sampling\.width: not set, and neither the model nor"):
        check(none, SIZELESS)
    rows = [{"prompt": "a", "width": 64, "height": 64}, {"prompt": "b", "width": 64}]
    some = job(tmp_path, write(tmp_path / "some.jsonl", rows))
    assert problems_of(some, SIZELESS) == [
        "some.jsonl, line 2, column height: no height given, and neither the job nor the model "
        "sets a default"
    ]
    given = job(tmp_path, write(tmp_path / "given.jsonl", rows[:1]))
    assert check(given, SIZELESS).num_images == 1


def test_every_sampler_of_the_model_is_accepted(tmp_path: Path) -> None:
    model = replace(MODEL, samplers=SAMPLER_NAMES)
    rows = [{"prompt": "p", "scheduler": name} for name in SAMPLER_NAMES]
    _, plan = planned(job(tmp_path, write(tmp_path / "m.csv", rows)), model)
    assert sorted(plan["scheduler"].to_pylist()) == sorted(SAMPLER_NAMES)


def test_names_of_other_programs_are_planned_as_the_same_sampler(tmp_path: Path) -> None:
    model = replace(MODEL, samplers=SAMPLER_NAMES)
    spelled = {"a": "DPM++ 2M Karras", "b": "dpmpp_2m + karras", "c": "Euler a", "d": " EULER "}
    rows = [{"id": key, "prompt": "p", "scheduler": name} for key, name in spelled.items()]
    _, plan = planned(job(tmp_path, write(tmp_path / "m.csv", rows)), model)
    names = dict(zip(plan["id"].to_pylist(), plan["scheduler"].to_pylist(), strict=True))
    karras = "dpmsolver++-karras"
    assert names == {"a": karras, "b": karras, "c": "euler-ancestral", "d": "euler"}


def test_codes_may_stand_for_names_of_other_programs(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "sampler": 1}, {"prompt": "q", "sampler": 2}]
    columns = {"scheduler": {"column": "sampler", "values": {1: "DDIM", 2: "dpmpp_2m"}}}
    spec = job(tmp_path, write(tmp_path / "m.csv", rows), columns=columns)
    _, plan = planned(spec, MODEL)
    assert sorted(plan["scheduler"].to_pylist()) == ["ddim", "dpmsolver++"]


def test_ids_may_be_whole_numbers(tmp_path: Path) -> None:
    for name, type_ in (("i", pa.int64()), ("u", pa.uint16()), ("f", pa.float64())):
        table = pa.table({"prompt": ["a", "b"], "id": pa.array([7, 12], type_)})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        _, plan = planned(job(tmp_path / name, tmp_path / f"{name}.parquet"))
        assert plan["image_id"].to_pylist() == ["7_00", "12_00"]


def test_repeated_ids_are_reported_with_both_rows(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", [{"id": "x", "prompt": "p"}, {"id": "y", "prompt": "p"}])
    two = write(tmp_path / "b.csv", [{"id": "z", "prompt": "p"}, {"id": "y", "prompt": "p"}] * 2)
    assert problems_of(job(tmp_path, [one, two])) == [
        "b.csv, line 3, column id: id 'y' is already used by a.csv, line 3",
        "b.csv, line 4, column id: id 'z' is already used by b.csv, line 2",
        "b.csv, line 5, column id: id 'y' is already used by a.csv, line 3",
    ]


def test_many_repeated_ids_are_counted(tmp_path: Path) -> None:
    rows = [{"id": f"{n % 100}", "prompt": "p"} for n in range(300)]
    with pytest.raises(ManifestError) as caught:
        check(job(tmp_path, write(tmp_path / "m.csv", rows)), MODEL)
    assert caught.value.total == 200
    assert [problem.row for problem in caught.value.problems] == list(range(100, 120))


def test_equal_file_names_are_reported_with_a_hint(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "kind": "Cat"}, {"prompt": "q", "kind": "cat"}]
    manifest = write(tmp_path / "m.csv", rows)
    assert problems_of(job(tmp_path, manifest, images={"file_name": "{kind}.png"})) == [
        "m.csv, line 3, column images.file_name: file name 'images/cat.png' is already used by "
        "m.csv, line 2 ('images/Cat.png' differs only in letter case); add {image_id} to "
        "images.file_name to make the names unique"
    ]
    _, plan = planned(job(tmp_path, manifest, images={"file_name": "{kind}/{image_id}.png"}))
    assert plan["file"].to_pylist() == ["images/Cat/00000000_00.png", "images/cat/00000001_00.png"]


def test_names_that_other_systems_merge_or_reserve_are_reported(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "kind": kind} for kind in ("caf\xe9", "cafe\u0301", "aux", "x")]
    manifest = write(tmp_path / "m.csv", rows)
    problems = problems_of(job(tmp_path, manifest, images={"file_name": "{kind}.png"}))
    assert problems == [
        "m.csv, line 4, column images.file_name: the file name would hold a name that Windows "
        "reserves, such as con or aux"
    ]
    manifest = write(tmp_path / "m.csv", rows[:2])
    (problem,) = problems_of(job(tmp_path, manifest, images={"file_name": "{kind}.png"}))
    assert "differs only in case, Unicode form or invisible characters" in problem


def test_variants_with_the_same_file_name_are_reported_once(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "product": f"x{n}", "num_images": 1 + n % 4} for n in range(50)]
    manifest = write(tmp_path / "m.csv", rows)
    problems = problems_of(job(tmp_path, manifest, images={"file_name": "{product}.png"}))
    assert len(problems) == 1
    assert "line 3" in problems[0]
    assert "column images.file_name: its 2 images would all be named 'images/x1.png'" in problems[0]
    assert problems[0].endswith("; add {variant} or {image_id} to images.file_name")
    named = job(tmp_path, manifest, images={"file_name": "{product}_{variant}.png"})
    assert len(set(planned(named)[1]["file"].to_pylist())) == 123


def test_a_file_name_of_many_rows_is_one_problem(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "kind": kind} for kind in "aba" * 500 + "c"]
    with pytest.raises(ManifestError) as caught:
        check(
            job(
                tmp_path,
                write(tmp_path / "m.jsonl", rows),
                images={"file_name": "{kind}.png"},
                sampling={"num_images": 4},
            ),
            MODEL,
        )
    texts = [problem.message for problem in caught.value.problems]
    assert caught.value.total == len(texts) == 3
    assert "its 4 images would all be named 'images/a.png'" in texts[0]
    assert "file name 'images/a.png' is already used by" in texts[1]
    assert "file name 'images/b.png' is already used by" in texts[2]


@pytest.mark.parametrize("file_name", ["x.png", "a/x.png", "{{x}}.png"])
def test_a_file_name_without_columns_is_for_a_single_image(tmp_path: Path, file_name: str) -> None:
    images = {"file_name": file_name}
    (tmp_path / "m.txt").write_text("a cat\n")
    _, plan = planned(job(tmp_path, tmp_path / "m.txt", images=images))
    assert plan["file"].to_pylist() == [f"images/{file_name.format()}"]
    (tmp_path / "m.txt").write_text("a cat\n" * 3)
    with pytest.raises(SpecError) as caught:
        check(job(tmp_path, tmp_path / "m.txt", images=images), MODEL)
    why = "all 3 images would have this name; add {image_id} to it"
    assert str(caught.value) == f"images.file_name: {file_name!r}: {why}"


def test_different_ids_that_give_the_same_file_name_are_reported(tmp_path: Path) -> None:
    rows = [{"id": "a/b", "prompt": "p"}, {"id": "a_b", "prompt": "p"}]
    (problem,) = problems_of(job(tmp_path, write(tmp_path / "m.csv", rows)))
    assert "file name 'images/a_b_00.png' is already used by m.csv, line 2" in problem


def test_hash_collisions_are_not_duplicates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "nightpress.pipelines.planning.units.hash64", lambda texts, seed: _few(texts)
    )
    rows = [{"id": f"{n}", "prompt": "p"} for n in range(200)]
    assert check(job(tmp_path, write(tmp_path / "m.csv", rows)), MODEL).num_images == 200
    rows.append({"id": "199", "prompt": "p"})
    assert problems_of(job(tmp_path, write(tmp_path / "n.csv", rows))) == [
        "n.csv, line 202, column id: id '199' is already used by n.csv, line 201"
    ]


def _few(texts: pa.Array) -> Any:
    return np.array([len(text) for text in texts.to_pylist()], np.uint64)


def test_overlong_file_names_are_reported(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", [{"prompt": "猫" * 100}])
    (problem,) = problems_of(job(tmp_path, manifest, images={"file_name": "{prompt}-{id}.png"}))
    assert "the file name would be too long; shorten a value, as in {prompt:.30}" in problem
    fine = job(tmp_path, manifest, images={"file_name": "{prompt:.30}-{id}.png"})
    assert planned(fine)[1]["file"].to_pylist() == [f"images/{'猫' * 30}-00000000.png"]


def test_too_many_steps_for_a_sampler_are_reported(tmp_path: Path) -> None:
    model = replace(MODEL, samplers=("euler", "lcm"), max_steps=100)
    rows = [
        {"prompt": "a", "scheduler": "lcm", "num_inference_steps": 50},
        {"prompt": "b", "scheduler": "lcm", "num_inference_steps": 51},
        {"prompt": "c", "scheduler": "euler", "num_inference_steps": 101},
    ]
    manifest = write(tmp_path / "m.csv", rows)
    assert problems_of(job(tmp_path, manifest), model) == [
        "m.csv, line 3, column num_inference_steps: 51 steps are more than the 50 that lcm allows",
        "m.csv, line 4, column num_inference_steps: 101 steps are more than the 100 that "
        "euler allows",
    ]
    spec = job(tmp_path, manifest, sampling={"num_inference_steps": 200})
    said = r"sampling\.num_inference_steps: 200 steps are more than the 100 that the model allows"
    with pytest.raises(SpecError, match=said):
        check(spec, model)


def test_a_number_of_trailing_steps_that_diffusers_would_change_is_reported(tmp_path: Path) -> None:
    model = replace(MODEL, samplers=("euler", "euler-trailing"), max_steps=1000)
    rows = [
        {"prompt": "a", "scheduler": "euler", "num_inference_steps": 61},
        {"prompt": "b", "scheduler": "euler-trailing", "num_inference_steps": 61},
        {"prompt": "c", "scheduler": "euler-trailing", "num_inference_steps": 60},
    ]
    manifest = write(tmp_path / "m.csv", rows)
    assert problems_of(job(tmp_path, manifest), model) == [
        "m.csv, line 3, column num_inference_steps: diffusers would make 62 trailing timesteps "
        "instead of 61; use one step more or less"
    ]


def test_only_the_most_frequent_settings_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightpress.pipelines.planning.units.MAX_SETTINGS", 3)
    monkeypatch.setattr("nightpress.pipelines.planning.checking.MAX_SETTINGS", 3)
    monkeypatch.setattr("nightpress.pipelines.manifest.parquet.BATCH_ROWS", 10)
    rows = [{"prompt": "p", "guidance_scale": 1.0 if n % 2 else n / 7} for n in range(200)]
    layout = check(job(tmp_path, write(tmp_path / "m.parquet", rows)), MODEL)
    assert len(layout.batches) == 3
    assert layout.batches[0].settings.guidance_scale == 1.0
    assert layout.batches[0].num_images == 100
