"""File names: what templates may contain, and how values are made safe."""

import string
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.naming import (
    SPREAD_ROWS,
    Field,
    Template,
    overlong,
    safe_text,
    spread,
)

TYPES = {
    "image_id": pa.string(),
    "id": pa.string(),
    "variant": pa.int32(),
    "category": pa.string(),
    "score": pa.float64(),
    "tags": pa.list_(pa.string()),
}


def rendered(text: str, **columns: list[Any]) -> list[str]:
    arrays = {name: pa.array(values, TYPES[name]) for name, values in columns.items()}
    return Template.parse(text, TYPES).render(arrays).to_pylist()


def text_of(value: str | None, name: str = "category") -> str:
    (text,) = safe_text(Field(name, ""), pa.array([value], pa.string())).to_pylist()
    return text


def test_a_template_fills_in_whole_columns() -> None:
    names = rendered(
        "{category}/{image_id}.png", category=["Food", "Animals"], image_id=["1_00", "2_00"]
    )
    assert names == ["images/Food/1_00.png", "images/Animals/2_00.png"]


def test_format_specs_are_those_of_python() -> None:
    names = rendered(
        "{variant:04d}-{score:.1f}-{category:.3}.png",
        variant=[7, 7],
        score=[0.25, 10.0],
        category=["vehicles", None],
    )
    assert names == ["images/0007-0.2-veh.png", "images/0007-10.0-_.png"]


def test_double_braces_are_braces() -> None:
    assert rendered("{{{id}}}.png", id=["a"]) == ["images/{a}.png"]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (
            "{nope}.png",
            "no column {nope}; the columns are: category, id, image_id, score, tags, variant",
        ),
        ("{}.png", "no column {}"),
        ("{id.__class__}.png", "no column {id.__class__}"),
        ("{id[0]}.png", "no column {id[0]}"),
        ("{id!r}.png", "!r is not allowed; write {id}"),
        ("{id:{variant}}.png", "cannot contain another column"),
        ("{id:04d}.png", "{id:04d}: Unknown format code 'd'"),
        ("{tags}.png", "column {tags} is of type list"),
        ("{id", "not a template"),
        ("/abs/{id}.png", "relative to the run's images/ folder"),
        ("C:/{id}.png", "relative to the run's images/ folder"),
        ("s3://bucket/{id}.png", "relative to the run's images/ folder"),
        ("../{id}.png", "no path component may be empty, . or .."),
        ("a/../../{id}.png", "no path component may be empty, . or .."),
        ("a//{id}.png", "no path component may be empty, . or .."),
        ("a\\{id}.png", "are not allowed"),
        ("a\n{id}.png", "are not allowed"),
        ("a?{id}.png", "are not allowed"),
        ("x" * 201 + "{id}.png", "longer than 200 bytes"),
        ("a /{id}.png", "may begin or end with a space or a dot"),
        ("a./{id}.png", "may begin or end with a space or a dot"),
        (" a/{id}.png", "may begin or end with a space or a dot"),
        (".a/{id}.png", "may begin or end with a space or a dot"),
        ("aux/{id}.png", "'aux' is a device name on Windows"),
        ("Com1.x/{id}.png", "'Com1.x' is a device name on Windows"),
        ("nul.{id}.png", "is a device name on Windows"),
        ("a\u202e/{id}.png", "invisible characters are not allowed"),
    ],
)
def test_an_invalid_template_is_refused(template: str, why: str) -> None:
    with pytest.raises(SpecError) as caught:
        Template.parse(template, TYPES)
    assert str(caught.value).startswith(f"images.file_name: {template!r}: ")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a/b\\c", "a_b_c"),
        ('<>:"|?*', "_______"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "_"),
        (".hidden", "hidden"),
        ("  spaced.  ", "spaced"),
        ("", "_"),
        (None, "_"),
        ("tab\tnewline\n\x7f\x85", "tab_newline___"),
        ("line\u2028separator", "line_separator"),
        ("to\u202egnp.exe", "to_gnp.exe"),
        ("zero\u200bwidth\ufeff", "zero_width_"),
        ("soft\xadhyphen", "soft_hyphen"),
        ("\u3000wide\xa0", "wide"),
        ("family \U0001f468\u200d\U0001f469", "family \U0001f468\u200d\U0001f469"),
        ("Überraschung 猫 🐈", "Überraschung 猫 🐈"),
        ("x" * 200, "x" * 80),
        ("é" * 100, "é" * 80),
    ],
)
def test_values_become_safe(value: str | None, text: str) -> None:
    assert text_of(value) == text


def test_ids_are_never_cut() -> None:
    assert text_of("x" * 200, "image_id") == "x" * 200


@given(st.text(), st.text())
def test_no_value_leaves_the_images_folder(one: str, other: str) -> None:
    (name,) = rendered("{category}/{id}.png", category=[one], id=[other])
    components = name.split("/")
    assert components[0] == "images"
    assert len(components) == 3
    assert not {"", ".", ".."} & set(components)
    assert not any(char in name.removeprefix("images/") for char in '\\<>:"|?*\n\r\t\0')


@given(st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=80))
def test_plain_values_stay_as_they_are(value: str) -> None:
    assert text_of(value) == value


@given(st.lists(st.text()))
def test_a_value_gives_the_same_text_whatever_other_values_there_are(values: list[str]) -> None:
    together = safe_text(Field("category", ""), pa.array(values, pa.string())).to_pylist()
    assert together == [text_of(value) for value in values]


@pytest.mark.parametrize(
    ("template", "apart"),
    [
        ("{image_id}.png", True),
        ("{category}/{image_id}.png", True),
        ("{category}/{variant}/cat-{image_id}.png", True),
        ("{category}{image_id}.png", False),
        ("{image_id:.3}.png", False),
        ("{id}_{variant:02d}.png", False),
        ("{category}.png", False),
    ],
)
def test_a_template_tells_whether_its_names_are_unique(template: str, apart: bool) -> None:
    assert Template.parse(template, TYPES).tells_images_apart is apart


def test_overlong_components_and_names_are_found() -> None:
    names = pa.array(
        [
            "images/" + "x" * 240,
            "images/" + "x" * 241,
            "images/" + "é" * 121,
            "images/" + "/".join(["x" * 200] * 4),
            "images/" + "/".join(["x" * 200] * 5),
            "images/a.png",
        ]
    )
    assert overlong(names).tolist() == [False, True, True, False, True, False]


def folders_of(blocks: range) -> list[str]:
    folders: list[str] = spread(np.array(blocks) * SPREAD_ROWS).to_pylist()
    return folders


def test_consecutive_rows_share_a_folder() -> None:
    rows = np.arange(3 * SPREAD_ROWS)
    folders = spread(rows).to_pylist()
    assert folders == ["00"] * SPREAD_ROWS + ["80"] * SPREAD_ROWS + ["40"] * SPREAD_ROWS
    assert spread(rows[SPREAD_ROWS - 1 : SPREAD_ROWS + 1]).to_pylist() == ["00", "80"]
    assert spread(rows[:0]).to_pylist() == []


@given(st.integers(0, 2**40), st.integers(0, 8))
def test_consecutive_blocks_are_spread_evenly(first: int, log_size: int) -> None:
    """Of 2^k blocks, one is in each 2^k-th of the names' range; by one digit, of each 16th."""
    size = 2**log_size
    folders = folders_of(range(first, first + size))
    assert sorted(int(folder, 16) * size // 256 for folder in folders) == list(range(size))
    digits = [int(folder[:1], 16) for folder in folders]
    assert max(map(digits.count, digits)) == max(1, size // 16)
