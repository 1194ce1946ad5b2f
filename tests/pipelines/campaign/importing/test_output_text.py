"""Escaped text is read back as the very same text, wherever it stands."""

from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.campaign.importing.output_text import PLAIN, escaped, whole_entry
from nightpress.pipelines.campaign.list_files import read_lists
from nightpress.pipelines.campaign.syntax import Choice, parse

TEXT = st.text(alphabet="ab _{}|$\\:#1<>/.,-%~@!=", max_size=14)


@given(TEXT)
def test_escaped_text_is_that_text_as_an_entry(text: str) -> None:
    entry = whole_entry(escaped(text))
    assert parse(entry).plain == text.strip(" ")
    (found,) = read_lists("a.txt", entry.encode())
    assert found.entries.to_pylist() == ([entry] if entry else [])
    assert found.weights is None


@given(TEXT, TEXT)
def test_escaped_text_is_that_text_as_an_alternative(first: str, second: str) -> None:
    options = "|".join(escaped(each, in_choice=True) for each in (first, second))
    (choice,) = parse(f"{{{options}}}").parts
    assert isinstance(choice, Choice)
    assert [option.plain for option in choice.options] == [first, second]
    assert (choice.least, choice.most, choice.weights) == (1, 1, (1, 1))


@given(TEXT)
def test_plain_text_needs_no_escapes(text: str) -> None:
    if PLAIN.fullmatch(text):
        assert escaped(text) == text
