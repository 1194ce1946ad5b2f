"""The columns that condition images: what is allowed, and what the plan makes of them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plans import MODEL, images_by_id, job, planned, problems_of, write

from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.models.modes import modes_of
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.sections import ColumnMap
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.conditions import ConditionReader, RowSizes
from nightpress.pipelines.manifest.row_problems import RowProblems
from nightpress.pipelines.planning import check

SD = replace(MODEL, modes=modes_of("StableDiffusionPipeline"))

ONE_OF_EACH = replace(
    MODEL,
    modes=modes_of("StableDiffusionPipeline", has_controls=True, has_references=True),
    controlnets=(LoraInfo("depth", "d" * 64, 0.9),),
    references=(LoraInfo("style", "s" * 64, 0.6),),
)

TWO_OF_EACH = replace(
    ONE_OF_EACH,
    controlnets=(*ONE_OF_EACH.controlnets, LoraInfo("canny", "c" * 64, 1.0)),
    references=(*ONE_OF_EACH.references, LoraInfo("face", "f" * 64, 0.5)),
)

EDITS = replace(MODEL, modes=("edit", "edit+reference"), pipeline="QwenImageEditPlusPipeline")

Row = dict[str, Any]
Planned = tuple[dict[str, Any], list[tuple[str, str | bytes]]]
"""The conditioning as JSON values, and the role and the URL or bytes of each picture."""


def conditions(
    folder: Path, info: ModelInfo, rows: Sequence[Row], suffix: str = ".jsonl", **values: Any
) -> list[Planned]:
    """What the plan says about each row, in the manifest's order."""
    manifest = write(folder / f"m{suffix}", [{"prompt": "p", **row} for row in rows])
    _, plan = planned(job(folder, manifest, **values), info)
    images = images_by_id(plan)
    return [_conditions_of(images[name]) for name in sorted(images)]


def _conditions_of(image: Mapping[str, Any]) -> Planned:
    pictures = [(each["role"], each["url"] or each["data"]) for each in image["inputs"] or ()]
    return json.loads(image["conditioning"] or "{}"), pictures


def problem(folder: Path, info: ModelInfo, row: Row, suffix: str = ".jsonl", **values: Any) -> str:
    """The one problem of a row, without its place."""
    manifest = write(folder / f"m{suffix}", [{"prompt": "p", **row}])
    (found,) = problems_of(job(folder, manifest, **values), info)
    place = "row 0 (counted from 0)" if suffix == ".parquet" else "line"
    assert found.startswith(f"m{suffix}, {place}"), found
    return found.partition("column ")[2]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv", ".tsv"])
def test_what_a_row_gives_decides_its_mode(tmp_path: Path, suffix: str) -> None:
    nothing = {"init_image": None, "strength": None, "mask_image": None, "canvas": None}
    rows: list[Row] = [
        nothing,
        nothing | {"init_image": " a.png "},
        nothing | {"init_image": "a.png", "strength": 0.5},
        nothing | {"init_image": "s3://b/a.png", "mask_image": "/m.png"},
        nothing | {"init_image": "a.png", "canvas": "0,64,0,8"},
        nothing | {"init_image": "a.png", "mask_image": "m.png", "canvas": " 8 8 8 8"},
        nothing | {"init_image": "run://hero/a_00", "strength": 1},
        nothing | {"init_image": ""},
    ]
    init, mask = ("init_image", "a.png"), ("mask_image", "m.png")
    assert conditions(tmp_path, SD, rows, suffix) == [
        ({}, []),
        ({"mode": "image"}, [init]),
        ({"mode": "image", "strength": 0.5}, [init]),
        ({"mode": "inpaint"}, [("init_image", "s3://b/a.png"), ("mask_image", "/m.png")]),
        ({"mode": "outpaint", "canvas": [0, 64, 0, 8]}, [init]),
        ({"mode": "outpaint", "canvas": [8, 8, 8, 8]}, [init, mask]),
        ({"mode": "image", "strength": 1.0}, [("init_image", "run://hero/a_00")]),
        ({}, []),
    ]


def test_a_manifest_of_text_alone_is_planned_without_conditioning(tmp_path: Path) -> None:
    assert conditions(tmp_path, SD, [{}, {"init_image": None, "control_image.x": None}]) == [
        ({}, []),
        ({}, []),
    ]


def test_the_jobs_columns_name_any_of_them_and_codes_have_meanings(tmp_path: Path) -> None:
    rows = [{"photo": "a.png", "edges": "e.png", "how": "low"}, {"photo": None, "edges": "f.png"}]
    columns = {
        "init_image": "photo",
        "control_image.depth": "edges",
        "strength": {"column": "how", "values": {"low": 0.25, "high": 0.75}},
    }
    planned_rows = conditions(tmp_path, ONE_OF_EACH, rows, columns=columns)
    assert planned_rows == [
        (
            {
                "mode": "image+control",
                "strength": 0.25,
                "controls": ["depth"],
                "control_scales": [0.9],
            },
            [("init_image", "a.png"), ("control_image.depth", "e.png")],
        ),
        (
            {"mode": "text+control", "controls": ["depth"], "control_scales": [0.9]},
            [("control_image.depth", "f.png")],
        ),
    ]


def test_a_column_can_be_carried_although_it_has_the_name_of_a_setting(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.jsonl", [{"prompt": "p", "control_image.x": 1, "canvas": "c"}])
    columns = {"control_image.x": None, "canvas": None}
    _, plan = planned(job(tmp_path, manifest, columns=columns), SD)
    assert plan.select(["control_image.x", "manifest_canvas"]).to_pylist() == [
        {"control_image.x": 1, "manifest_canvas": "c"}
    ]


def test_a_job_cannot_map_a_name_that_is_no_setting(tmp_path: Path) -> None:
    for name in ("init_image.x", "control_image.", "controls.depth"):
        with pytest.raises(SpecError, match="is not a setting"):
            job(tmp_path, tmp_path / "m.csv", columns={name: "x"})


CONTROLS: list[tuple[Row, dict[str, Any]]] = [
    ({"control_image.depth": "d"}, {"controls": ["depth"], "control_scales": [0.9]}),
    (
        {"control_image.canny": "c", "control_image.depth": "d", "control_scale.depth": 0.25},
        {"controls": ["depth", "canny"], "control_scales": [0.25, 1.0]},
    ),
    ({"control_image": ["d", "c"]}, {"controls": ["depth", "canny"], "control_scales": [0.9, 1.0]}),
    ({"control_image": [None, "c"]}, {"controls": ["canny"], "control_scales": [1.0]}),
    (
        {"control_image": ["d", "c"], "control_scale": 0.5},
        {"controls": ["depth", "canny"], "control_scales": [0.5, 0.5]},
    ),
    (
        {"control_image": ["d", "c"], "control_scale": [None, 0.5]},
        {"controls": ["depth", "canny"], "control_scales": [0.9, 0.5]},
    ),
]


@pytest.mark.parametrize(("row", "expected"), CONTROLS)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_control_images_and_scales_reach_their_controlnets_in_the_jobs_order(
    tmp_path: Path, suffix: str, row: Row, expected: dict[str, Any]
) -> None:
    if suffix == ".csv":
        row = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
    ((found, pictures),) = conditions(tmp_path, TWO_OF_EACH, [row], suffix)
    assert found == {"mode": "text+control", **expected}
    assert [url for _, url in pictures] == [name[0] for name in expected["controls"]]


def test_references_come_after_controls_and_a_list_gives_one_adapter_several(
    tmp_path: Path,
) -> None:
    row = {
        "reference_image.face": "f",
        "reference_image.style": ["s", None, "t"],
        "reference_scale.style": 0.25,
        "control_image.canny": "c",
        "mask_image": "m",
        "init_image": "i",
    }
    ((found, pictures),) = conditions(tmp_path, TWO_OF_EACH, [row])
    assert Conditioning.from_dict(found) == Conditioning(
        mode="inpaint+control+reference",
        controls=("canny",),
        control_scales=(1.0,),
        adapters=("style", "face"),
        num_references=(2, 1),
        reference_scales=(0.25, 0.5),
    )
    assert pictures == [
        ("init_image", "i"),
        ("mask_image", "m"),
        ("control_image.canny", "c"),
        ("reference_image.style", "s"),
        ("reference_image.style", "t"),
        ("reference_image.face", "f"),
    ]


def test_the_only_adapter_of_a_kind_needs_no_name(tmp_path: Path) -> None:
    row = {"control_image": "c", "reference_image": ["r", "s"], "reference_scale": 0}
    ((found, pictures),) = conditions(tmp_path, ONE_OF_EACH, [row])
    assert (found["controls"], found["num_references"]) == (["depth"], [2])
    assert found["reference_scales"] == [0.0]
    assert [role for role, _ in pictures] == ["control_image", *["reference_image"] * 2]


def test_a_model_that_edits_takes_further_pictures_without_an_adapter(tmp_path: Path) -> None:
    rows: list[Row] = [{"init_image": "a"}, {"init_image": "a", "reference_image": ["b", "c"]}]
    assert conditions(tmp_path, EDITS, rows) == [
        ({"mode": "edit"}, [("init_image", "a")]),
        (
            {"mode": "edit+reference", "num_references": [2]},
            [("init_image", "a"), ("reference_image", "b"), ("reference_image", "c")],
        ),
    ]


def test_the_manifest_may_hold_the_bytes_of_pictures(tmp_path: Path) -> None:
    of_datasets = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "prompt": ["p", "p", "p"],
            "init_image": pa.array([b"one", None, b"three"], pa.large_binary()),
            "mask_image": pa.array(
                [{"bytes": b"m", "path": "x.png"}, None, {"bytes": None, "path": "y.png"}],
                of_datasets,
            ),
            "reference_image": pa.array([[b"r", b"s"], [], None], pa.list_(pa.binary())),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    _, plan = planned(job(tmp_path, tmp_path / "m.parquet"), ONE_OF_EACH)
    images = images_by_id(plan)
    assert [_conditions_of(images[name])[1] for name in sorted(images)] == [
        [
            ("init_image", b"one"),
            ("mask_image", b"m"),
            ("reference_image", b"r"),
            ("reference_image", b"s"),
        ],
        [],
        [("init_image", b"three"), ("mask_image", "y.png")],
    ]


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("init_image", pa.array([["a"]]), "text (URLs or paths) or the bytes of pictures"),
        ("mask_image", pa.array([1]), "text (URLs or paths) or the bytes of pictures"),
        ("control_image", pa.array([[1]]), "text (URLs or paths) or the bytes of pictures"),
        ("reference_image.x", pa.array([{"path": "a"}]), "the bytes of pictures"),
        ("canvas", pa.array([1]), "text such as 0,64,0,64 or a list of four whole numbers"),
        ("control_scale", pa.array([["a"]]), "numbers or lists of numbers"),
        ("strength", pa.array([[0.5]]), "a number"),
    ],
)
def test_a_column_of_another_type_is_refused(
    tmp_path: Path, name: str, values: pa.Array, wanted: str
) -> None:
    pq.write_table(pa.table({"prompt": ["p"], name: values}), tmp_path / "m.parquet")
    (found,) = problems_of(job(tmp_path, tmp_path / "m.parquet"), TWO_OF_EACH)
    assert found.startswith(f"m.parquet, column {name}: its type is ")
    assert found.endswith(wanted)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"mask_image": "m"}, "mask_image: a mask needs an init_image in the same row"),
        ({"canvas": [8, 0, 0, 0]}, "canvas: a canvas needs an init_image in the same row"),
        ({"strength": 0.5}, "strength: the strength is 0.5, but the row has no init_image"),
        ({"init_image": "a", "strength": 0}, "strength: 0 is not above 0 and at most 1"),
        ({"init_image": "a", "strength": 1.2}, "strength: 1.2 is not above 0 and at most 1"),
        ({"init_image": "a", "strength": math.inf}, "strength: inf is not above 0 and at most 1"),
        ({"init_image": "a", "strength": math.nan}, "strength: nan is not above 0 and at most 1"),
        (
            {"init_image": "a", "strength": 0.049},
            "strength: the strength 0.049 leaves none of 20 steps to take; with that many it must "
            "be at least 0.05",
        ),
        (
            {"init_image": "a", "num_inference_steps": 1},
            "strength: the strength 0.8 leaves none of 1 step to take",
        ),
        ({"init_image": "a", "canvas": "8,8"}, "canvas: '8,8' is not four whole numbers of pixels"),
        ({"init_image": "a", "canvas": [8, 8, 8]}, "canvas: '[8, 8, 8]' is not four whole numbers"),
        ({"init_image": "a", "canvas": [0.5, 8, 8, 8]}, "canvas: '[0.5, 8.0, 8.0, 8.0]' is not"),
        ({"init_image": "a", "canvas": "[8,8,8,8"}, "canvas: '[8,8,8,8' is not four whole numbers"),
        ({"init_image": "a", "canvas": [-8, 0, 0, 0]}, "canvas: -8,0,0,0 has a negative number"),
        ({"init_image": "a", "canvas": [0, 0, 0, 0]}, "canvas: 0,0,0,0 adds no pixels"),
        (
            {"init_image": "a", "canvas": [0, 4, 0, 0]},
            "canvas: 0,4,0,0: this model needs multiples",
        ),
        (
            {"init_image": "a", "canvas": [64, 0, 64, 0]},
            "canvas: 64,0,64,0 leaves no room for the init_image, as the finished image has "
            "128 x 96 pixels with the canvas; leave at least 8 x 8",
        ),
        (
            {"control_image": "c"},
            "control_image: a control image needs a ControlNet in the job's model.controlnets; "
            "this model has the modes text, image, inpaint, outpaint",
        ),
        (
            {"reference_image": "r"},
            "reference_image: a reference needs an IP-Adapter in the job's model.references; this "
            "model has the modes text, image, inpaint, outpaint",
        ),
        ({"control_scale": 1}, "control_scale: the scale is 1, but the row has no control_image"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused(tmp_path: Path, row: Row, expected: str) -> None:
    strengths = (("image", 0.8), ("inpaint", 1.0))
    assert problem(tmp_path, replace(SD, default_strengths=strengths), row).startswith(expected)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"control_image": "d"},
            "control_image: the job has 2 ControlNets (depth, canny); name one in the column's "
            "name, as in control_image.depth, or give a list",
        ),
        ({"control_image": ["a", "b", "c"]}, "control_image: the list has more pictures than the"),
        (
            {"control_image.dep": "a"},
            "control_image.dep: model.controlnets has no ControlNet 'dep'; choose one of: depth, "
            "canny",
        ),
        (
            {"control_image": ["a"], "control_image.depth": "b"},
            "control_image.depth: another column gives a picture for this ControlNet too",
        ),
        ({"control_image.depth": ["a", "b"]}, "control_image.depth: the list has several pictures"),
        ({"control_image.depth": '["a"'}, "control_image.depth: '[\"a\"' is neither a path nor a"),
        (
            {"control_image.depth": "a", "control_scale": [1, 2]},
            "control_scale: the scale is 2, but the row has no control_image for canny",
        ),
        (
            {"control_image.depth": "a", "control_scale.canny": 2},
            "control_scale.canny: the scale is 2, but the row has no control_image for canny",
        ),
        (
            {"control_image.depth": "a", "control_scale": -1},
            "control_scale: -1 is not a finite number of 0 or more",
        ),
        (
            {"control_image.depth": "a", "control_scale": "[1"},
            "control_scale: '[1' is not a list of numbers",
        ),
        (
            {"control_image.depth": "a", "control_scale.depth": 1, "control_scale": 1},
            "control_scale.depth: another column gives the scale of this ControlNet too",
        ),
        (
            {"reference_image": "a"},
            "reference_image: the job has 2 IP-Adapters (style, face); name one in the column's "
            "name, as in reference_image.style",
        ),
        ({"reference_scale.face": 1}, "reference_scale.face: the scale is 1, but the row has no"),
    ],
)
def test_a_picture_or_scale_for_no_adapter_or_for_several_is_refused(
    tmp_path: Path, row: Row, expected: str
) -> None:
    assert problem(tmp_path, TWO_OF_EACH, row).startswith(expected)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, "init_image: this model cannot make an image from text alone; it has the modes edit"),
        ({"init_image": "a", "strength": 0.5}, "strength: this model edits the init_image, and"),
        (
            {"init_image": "a", "mask_image": "m"},
            "mask_image: this model cannot do what the row asks for, inpaint; it has the modes",
        ),
        (
            {"init_image": "a", "reference_image": "b", "reference_scale": 1},
            "reference_scale: this model edits images, and takes no scale for a reference",
        ),
        ({"init_image": "a", "reference_image.x": "b"}, "reference_image.x: the job has no IP-"),
    ],
)
def test_what_an_editing_model_does_not_do_is_refused(
    tmp_path: Path, row: Row, expected: str
) -> None:
    assert problem(tmp_path, EDITS, row).startswith(expected)


@pytest.mark.parametrize(("width", "height"), [(64, 56), (56, 64), (576, 64), (64, 576)])
def test_a_picture_that_flux2_cannot_edit_at_the_rows_size_is_refused(
    tmp_path: Path, width: int, height: int
) -> None:
    flux2 = replace(MODEL, modes=("text", "edit"), pipeline="Flux2KleinPipeline")
    row = {"init_image": "a", "width": width, "height": height}
    assert problem(tmp_path, flux2, row) == (
        f"width: the init_image would have {width} x {height} pixels, but FLUX.2 takes pictures of "
        "at least 64 pixels a side, at most 8 times as long as wide"
    )
    kontext = replace(flux2, pipeline="FluxKontextPipeline")
    for info, other in (
        (flux2, {"width": width, "height": height}),
        (flux2, row | {"width": 512, "height": 64}),
        (kontext, row),
    ):
        manifest = write(tmp_path / "m.jsonl", [{"prompt": "p", **other}])
        assert check(job(tmp_path, manifest, inputs={"check": "none"}), info).num_images == 1


def test_a_mode_that_the_model_lacks_is_refused_for_the_column_that_asks_for_it(
    tmp_path: Path,
) -> None:
    info = replace(ONE_OF_EACH, modes=("text", "image", "text+control"))
    for row, column in (
        ({"init_image": "a", "control_image": "c"}, "control_image"),
        ({"init_image": "a", "mask_image": "m"}, "mask_image"),
        ({"init_image": "a", "canvas": [8, 0, 0, 0]}, "canvas"),
        ({"reference_image": "r"}, "reference_image"),
    ):
        assert problem(tmp_path, info, row).startswith(f"{column}: this model cannot do what")
    assert problem(tmp_path, MODEL, {"init_image": "a"}).endswith(
        "this model cannot do what the row asks for, image; it has the modes text"
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("../x.png", "'../x.png' could leave inputs.root by its '..'"),
        ("a/../../x.png", "'a/../../x.png' could leave inputs.root"),
        ("..", "'..' could leave inputs.root"),
        ("s3://key:hidden@bucket/a.png", "the URL s3://bucket/a.png contains credentials"),
        ("https://a.b/c.png?X-Amz-Signature=hidden", "the URL https://a.b/c.png contains cred"),
        ("https://a.b/c.png?w=1&token=hidden", "the URL https://a.b/c.png contains credentials"),
        ("gopher://a/b.png", "'gopher://a/b.png' has no protocol that pictures can be read by"),
        ("zip://a.png::b.zip", "'zip://a.png::b.zip' has no protocol"),
        ("run://hero", "'run://hero' is not of the form run://NAME/IMAGE_ID"),
        ("file://a.png", "'file://a.png' is not an absolute path"),
        ("data:image/png;base64,aGlkZGVu", "data: URLs are not read"),
        ("a\x00.png", "it has a NUL character, which is not text"),
    ],
)
def test_a_url_that_cannot_or_must_not_be_read_is_refused(
    tmp_path: Path, url: str, expected: str
) -> None:
    found = problem(tmp_path, SD, {"init_image": url})
    assert found.startswith(f"init_image: {expected}")
    assert "hidden" not in found


@pytest.mark.parametrize(
    "url",
    [
        *(
            "S3://b/k.png",
            "https://a.b/c.png?w=100",
            "file:///a.png",
            "/a/../b.png",
            "a b/c@2x.png",
        ),
        *("..png", "a..b/c.png", "notes::old.png", "run://hero/a/b_00", "run:///runs/hero/a_00"),
        "run://s3://b/runs/hero/a_00",
    ],
)
def test_an_unusual_name_that_can_be_read_is_kept_as_it_is(tmp_path: Path, url: str) -> None:
    assert conditions(tmp_path, SD, [{"init_image": url}])[0][1] == [("init_image", url)]


def test_problems_name_the_rows_of_a_large_manifest_in_order(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "init_image": "../x" if n % 50 == 7 else f"{n}.png"} for n in range(200)
    ]
    problems = problems_of(job(tmp_path, write(tmp_path / "m.csv", rows)), SD)
    assert [each.partition(", column")[0] for each in problems] == [
        f"m.csv, line {n + 2}" for n in range(7, 200, 50)
    ]


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "init_image": st.sampled_from([None, "a", "b"]),
            "strength": st.sampled_from([None, 0.25, 0.5]),
            "control_image": st.sampled_from([None, ["d"], [None, "c"], ["d", "c"]]),
            "control_scale": st.sampled_from([None, 0.5]),
        }
    ),
    min_size=1,
    max_size=12,
)


@given(ROWS)
@settings(max_examples=50, deadline=None)
def test_whole_columns_give_what_each_row_alone_gives(rows: list[Row]) -> None:
    for row in rows:
        row["strength"] = row["strength"] if row["init_image"] else None
        row["control_scale"] = row["control_scale"] if row["control_image"] else None
    names = list(rows[0])
    reader = ConditionReader(
        TWO_OF_EACH, Columns({name: ColumnMap(column=name) for name in names}, ())
    )
    table = pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            [
                ("init_image", pa.string()),
                ("strength", pa.float64()),
                ("control_image", pa.list_(pa.string())),
                ("control_scale", pa.float64()),
            ]
        ),
    )

    def read(some: pa.Table) -> list[tuple[str | None, Any]]:
        sides = np.full(len(some), 64)
        problems = RowProblems("m", 0)
        texts, inputs = reader.read(some, RowSizes(sides, sides, sides, sides * 0), problems)
        assert not problems.total
        return list(zip(texts.to_pylist(), inputs.to_pylist(), strict=True))

    alone = [found for n in range(len(rows)) for found in read(table.slice(n, 1))]
    assert read(table) == alone


def test_a_plan_counts_the_images_of_each_mode(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "num_images": 3},
        {"prompt": "p", "init_image": "a", "strength": 0.5},
        {"prompt": "p", "init_image": "b", "num_images": 2},
        {"prompt": "p", "init_image": "b", "mask_image": "m"},
    ]
    layout = check(job(tmp_path, write(tmp_path / "m.jsonl", rows)), SD)
    assert layout.modes == {"text": 3, "image": 3, "inpaint": 1}
