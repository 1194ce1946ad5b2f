"""Names that Windows reserves are found, and names that any file system merges are the same."""

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.image_files.portability import folded, reserved

DEVICES = (
    *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
    *(f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"),
)


def is_device(component: str) -> bool:
    """What Windows does: the name up to its first dot, without trailing spaces, in upper case."""
    return component.partition(".")[0].rstrip(" ").upper() in DEVICES


def found(*names: str) -> list[bool]:
    flags: list[bool] = reserved(pa.array(names, pa.string())).tolist()
    return flags


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_name_is_found_in_any_component(device: str) -> None:
    names = [f"images/{device}", f"images/{device.lower()}.png", f"images/{device}.tar.gz/a.png"]
    names += [f"images/a/{device.title()} .png", f"images/{device}/a.png"]
    assert found(*names) == [True] * len(names)
    others = [f"images/{device}x.png", f"images/x{device}.png", f"images/x.{device}"]
    assert found(*others) == [False] * len(others)


def test_ordinary_names_are_not_reserved() -> None:
    assert found("images/concept.png", "images/contour/a.png", "images/com10.png") == [False] * 3
    assert found("images/auxiliary.png", "images/null.png", "images/0_00.png") == [False] * 3
    assert found() == []


COMPONENTS = st.text(st.sampled_from("conaulptxCONPRM019¹$. "), min_size=1, max_size=8)


@given(st.lists(st.lists(COMPONENTS, min_size=1, max_size=3).map("/".join), max_size=5))
def test_reserved_names_are_those_that_windows_reserves(names: list[str]) -> None:
    inside = [f"images/{name}" for name in names]
    whole = pa.array(["images/aux", *inside, "images/aux"], pa.string()).slice(1, len(names))
    expected = [any(is_device(each) for each in name.split("/")) for name in names]
    assert reserved(whole).tolist() == expected


def merged(one: str, other: str) -> bool:
    keys = folded(pa.array([one, other, "x"])).to_pylist()
    return bool(keys[0] == keys[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("images/Ä.PNG", "images/ä.png"),
        ("images/é.png", "images/e\u0301.png"),
        ("images/한.png", "images/\u1112\u1161\u11ab.png"),
        ("images/Å.png", "images/\u212b.png"),
        ("images/ﬁsh.png", "images/FISH.png"),
        ("images/\uff21\uff22.png", "images/ab.png"),
        ("images/straße.png", "images/STRASSE.png"),
        ("images/ς.png", "images/Σ.png"),
        ("images/x\u200d.png", "images/x.png"),
        ("images/❤\ufe0f.png", "images/❤.png"),
        ("images/a\xa0b.png", "images/a b.png"),
        ("images/ǰ.png", "images/J\u030c.png"),
        ("images/\u1fb3.png", "images/\u0391\u0399.png"),
    ],
)
def test_names_that_some_system_merges_are_the_same(one: str, other: str) -> None:
    assert merged(one, other)


def test_different_names_stay_different() -> None:
    assert not merged("images/a.png", "images/b.png")
    assert not merged("images/ä.png", "images/a.png")
    assert not merged("images/猫.png", "images/犬.png")


@given(st.text(max_size=5), st.sampled_from([str.upper, str.lower, str.casefold, str.title, str]))
def test_canonical_caseless_equals_are_merged(text: str, case: type[str]) -> None:
    """Unicode's definition D145, which APFS follows."""
    text = re.sub("[\u0130\u0131]", "", text)  # the Turkish letters have no single answer
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, case(text))
        canonical = [
            unicodedata.normalize("NFD", unicodedata.normalize("NFD", each).casefold())
            for each in (text, other)
        ]
        if canonical[0] == canonical[1]:
            assert merged(text, other)


def test_ascii_names_are_compared_without_their_case_alone() -> None:
    names = pa.array(["before", "images/A b.PNG", "images/x.png"]).slice(1)
    assert folded(names).to_pylist() == ["images/a b.png", "images/x.png"]
    assert np.array(reserved(names)).sum() == 0


def test_no_pair_of_upper_and_lower_case_is_taken_for_two_names() -> None:
    letters = [char for char in map(chr, range(0x80, 0x30000)) if char.casefold() != char]
    letters = [char for char in letters if char not in "\u0130\u0131"]
    assert len(letters) > 1000
    assert folded(pa.array(letters)) == folded(pa.array([each.casefold() for each in letters]))
    assert folded(pa.array(letters)) == folded(pa.array([each.lower() for each in letters]))
