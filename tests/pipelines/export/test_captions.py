"""Captions: a template over the columns."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export.captions import Caption

SCHEMA = pa.schema(
    {
        **dict.fromkeys(("prompt", "style"), pa.string()),
        **{"scale": pa.float64(), "seed": pa.int64()},
        **{"canvas": pa.list_(pa.int32()), "data": pa.binary()},
    }
)


def caption(template: str, **row: object) -> str:
    return Caption.parse(template, SCHEMA).render(row)


def test_columns_are_filled_in() -> None:
    assert caption("{prompt}, {style}", prompt="a cat", style="oil") == "a cat, oil"
    assert caption("{scale:.1f} {{x}}", scale=4.25) == "4.2 {x}"
    assert caption("always the same") == "always the same"


def test_a_null_is_empty_text() -> None:
    assert caption("{prompt}, {style}", prompt="a cat", style=None) == "a cat, "
    assert caption("{scale:.1f}|{scale}", scale=None) == "|"
    assert caption("{scale}", scale=float("nan")) == ""


@settings(max_examples=40)
@given(st.text(), st.text())
def test_values_are_never_read_as_templates(prompt: str, style: str) -> None:
    assert caption("{prompt}{style}", prompt=prompt, style=style) == prompt + style


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{promt}", "there is no column 'promt'; did you mean prompt?"),
        ("{}", "there is no column ''"),
        ("{prompt.upper}", "there is no column 'prompt.upper'"),
        ("{prompt!r}", "!r is not allowed"),
        ("{prompt", "not a template"),
        ("{canvas}", "which has no text form"),
        ("{data}", "which has no text form"),
        ("{seed:.1q}", "{seed:.1q}"),
        ("{prompt:{style}}", "{prompt:{style}}"),
    ],
)
def test_what_is_wrong_with_a_template_is_said(template: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        Caption.parse(template, SCHEMA)
    assert said in str(caught.value)
    assert str(caught.value).startswith("caption: ")
