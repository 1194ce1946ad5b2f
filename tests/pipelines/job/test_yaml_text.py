"""Job files are read exactly, or refused with the line: nothing is dropped, guessed or expanded."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.reader import apply_overrides
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.job.yaml_text import NotPlain, parsed
from nightpress.pipelines.training.spec import read_train_spec, train_spec

JOB = "manifest: a.csv\noutput: out\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdef", "bcdefg", strict=True)
)


def refusal(text: str) -> str:
    with pytest.raises(NotPlain) as caught:
        parsed(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 7", 7),
        ("a: -7", -7),
        ("a: 0", 0),
        ("a: 0x1F", 31),
        ("a: 7.5", 7.5),
        ("a: 1e-4", 1e-4),
        ("a: 2E3", 2000.0),
        ("a: .5", 0.5),
        ("a: 5.", 5.0),
        ("a: 9007199254740993", 9007199254740993),
        ("a: true", True),
        ("a: False", False),
        ("a: ~", None),
        ("a:", None),
        ("a: '0123'", "0123"),
        ("a: !!str 0123", "0123"),
        ("a: !!str no", "no"),
        ('a: "yes"', "yes"),
        ("a: 2024-01-01", "2024-01-01"),
        ("a: 2024-01-01 10:20:30", "2024-01-01 10:20:30"),
        ("a: v1.0.0", "v1.0.0"),
        ("a: 7,5", "7,5"),
        ("a: y", "y"),
        ("a: =", "="),
        ("a: truE", "truE"),
        ("a: >-\n  one\n  two", "one two"),
        ("a: http://127.0.0.1:8333", "http://127.0.0.1:8333"),
        ("a: 0xZZ", "0xZZ"),
        ("a: {}", {}),
        ("a: [1, 'x']", [1, "x"]),
        ("﻿a: 1", 1),
    ],
)
def test_a_plain_value_is_read_exactly(text: str, value: Any) -> None:
    found = parsed(text)["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        *("0123", "-0123", "00", "08", "0o17", "0b11", "1_000", "1_0.5", "0x_1F", "-0x1F"),
        *("1:30", "190:20:30.15", "-1:30", "yes", "No", "ON", "off", "1_000e3"),
    ],
)
def test_what_readers_of_yaml_read_differently_is_refused(text: str) -> None:
    message = refusal(f"a: 1\nb:\n  c: {text}\n")
    assert message.startswith(f"line 3: {text} means different things")
    assert f"'{text}' in quotes" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "line 2: the key 'a' is given twice, first on line 1"),
        ("a:\n  b: 1\n  c: 1\n  b: 2", "line 4: the key 'b' is given twice, first on line 2"),
        ("a: [{b: 1, b: 2}]", "line 1: the key 'b' is given twice"),
        ('a: 1\n"a": 2', "line 2: the key 'a' is given twice, first on line 1"),
        ("1: a\n'1': b", "line 2: the key '1' is given twice, first on line 1"),
        (
            "a: &x {k: 1}\nb:\n  <<: *x\n  <<: *x",
            "line 4: the key '<<' is given twice, first on line 3",
        ),
        ("a: .inf", "line 1: .inf is not a finite number"),
        ("a: .NaN", "line 1: .NaN is not a finite number"),
        ("a: 1e999", "line 1: 1e999 is too large"),
        ("a: " + "9" * 5000, "line 1: the number has too many digits (5,000)"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: the tag !!python/object/apply:os."),
        ("a: !!binary aGk=", "line 1: the tag !!binary is not allowed"),
        ("a: !!int 0123", "line 1: the tag !!int is not allowed"),
        ("a: !!float 'nan'", "line 1: the tag !!float is not allowed"),
        ("a: !!set {x}", "line 1: the tag !!set is not allowed"),
        ("a: !mine x", "line 1: the tag !mine is not allowed"),
        ("!!python/name:os x: 1", "line 1: the tag !!python/name:os is not allowed"),
        ("? [a]\n: 1", "line 1: a key must be text"),
        ("a: 1\n---\nb: 1", "line 2: a second document begins here"),
        ("a:\n\tb: 1", "line 2: not valid YAML: found character '\\t'"),
        ("a: b: c", "line 1: not valid YAML: mapping values are not allowed here"),
        ("a: *none", "line 1: not valid YAML: found undefined alias 'none'"),
        ("a: 1\nb: \x07", "line 2: the character U+0007 is not allowed"),
        ("a: &a [*a]", "line 1: an alias refers to the value that it is part of"),
        ("a: &a {<<: *a}", "line 1: an alias refers to the value that it is part of"),
        (BOMB, "more than 100,000 values"),
        ("a: {<<: 1}", "line 1: the value of << must be a mapping"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("[" * 3000, "nested too deeply"),
    ],
)
def test_what_is_dropped_or_expanded_elsewhere_is_refused(text: str, words: str) -> None:
    assert words in refusal(text)


def test_keys_are_text_as_written() -> None:
    assert parsed("{1: a, 01: b, 1.0: c, true: d, no: e, ~: f, 0x1: g}") == {
        **{"1": "a", "01": "b", "1.0": "c", "true": "d"},
        **{"no": "e", "~": "f", "0x1": "g"},
    }


def test_merge_keys_and_aliases_are_read_as_yaml_defines_them() -> None:
    text = """
    base: &base {a: 1, b: 2}
    more: &more {b: 3, c: 4}
    one: {<<: *base, b: 9}
    two: {<<: [*base, *more]}
    """
    assert parsed(text) == yaml.safe_load(text)


SCALARS = st.text(st.sampled_from("0123456789abefxXo_:.+-eEnyYNsS~<=T "), min_size=1, max_size=8)


@given(SCALARS)
def test_a_value_is_refused_or_read_as_the_standard_reader_reads_it(text: str) -> None:
    try:
        value = parsed(f"a: {text}")
    except NotPlain:
        return
    try:
        expected = yaml.safe_load(f"a: {text}")
    except (yaml.YAMLError, ValueError):  # `=`, and impossible dates
        return
    if not isinstance(value["a"], str) and isinstance(expected["a"], str):
        assert math.isclose(value["a"], float(text))  # 1e4 is a number in YAML 1.2 only
    elif isinstance(value["a"], str):
        assert value["a"] == text.strip() or value == expected
    else:
        assert value == expected


def test_a_job_file_with_a_key_twice_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    path.write_text(JOB + "sampling: {width: 64}\nseed: 1\nsampling: {height: 64}\n")
    with pytest.raises(SpecError) as caught:
        RunSpec.from_file(path)
    assert (
        str(caught.value) == f"{path}: line 5: the key 'sampling' is given twice, first on line 3"
    )
    path.write_text("recipe: lora\nname: x\nname: y\n")
    with pytest.raises(SpecError, match="line 3: the key 'name' is given twice, first on line 2"):
        read_train_spec(path)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=0123"], "--set seed=0123: 0123 means different things"),
        (["sampling={width: 8, width: 16}"], "the key 'width' is given twice"),
        (["seed=1", "seed=2"], "--set seed=2: seed is already set by --set seed=1"),
        (["batch.size=1", "batch={shard_size: 16}"], "batch.size is already set by"),
        (["batch={size: 1}", "batch.size=2"], "batch is already set by"),
        (["batch=1", "batch.size=2"], "batch is already set by"),
        (["name={id}/x"], "a text needs quotes: name='...'"),
    ],
)
def test_an_override_is_exact_too(overrides: list[str], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_dict({"name": "a", "manifest": "a.csv", "output": "out"}, overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["{product}/x.png", "{scene}/{image_id}.png", "{image_id}", "[a] #1.png", "@{id}: x.png", "7"],
)
def test_a_file_name_on_the_command_line_needs_no_quotes(name: str) -> None:
    job = {"name": "a", "manifest": "a.csv", "output": "out"}
    for text in (name, f"'{name}'", f'"{name}"'):
        values: dict[str, Any] = dict(job)
        apply_overrides(values, [f"images.file_name={text}"])
        assert values["images"]["file_name"] == name


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        (
            "sampling.negative_prompt=bad: art, {worst}",
            "sampling",
            {"negative_prompt": "bad: art, {worst}"},
        ),
        ("manifest=*.csv", "manifest", "*.csv"),
        ("manifest=[a.csv, b.csv]", "manifest", ["a.csv", "b.csv"]),
        ("images.file_name=null", "images", {"file_name": None}),
        ("output=[night] #1", "output", "[night] #1"),
    ],
)
def test_texts_on_the_command_line_are_taken_as_they_are(
    override: str, key: str, value: object
) -> None:
    values: dict[str, Any] = {}
    apply_overrides(values, [override])
    assert values[key] == value


def test_overrides_that_belong_together_are_allowed() -> None:
    job = {"name": "a", "manifest": "a.csv", "output": "out"}
    overrides = ["model=ours", "model.dtype=bfloat16", "batch={size: 4}", "batch.shard_size=16"]
    spec = RunSpec.from_dict(job, overrides)
    assert (spec.model.source, spec.model.dtype) == ("ours", "bfloat16")
    assert (spec.batch.size, spec.batch.shard_size) == (4, 16)


NOT_TEXT = [
    (r"\ud800", "half a character, the lone surrogate U+D800"),
    (r"x\0y", "a NUL character"),
    (r"\x7f", "the control character U+007F"),
    (r"a\N", "the control character U+0085"),
]


@pytest.mark.parametrize(("escaped", "what"), NOT_TEXT)
@pytest.mark.parametrize("line", ['a: "%s"', '"%s": 1', 'a: {b: [1, "%s"]}', 'a: !!str "%s"'])
def test_what_is_no_text_in_a_manifest_is_no_text_in_a_job(
    line: str, escaped: str, what: str
) -> None:
    assert refusal(f"x: 1\n{line % escaped}") == f"line 2: it has {what}, which is not text"


@pytest.mark.parametrize("text", [r"a\tb", r"two\nlines", r"\U0001F431", r"caf\xe9"])
def test_tabs_and_line_ends_are_text(text: str) -> None:
    assert parsed(f'"{text}"') == text.encode().decode("unicode_escape")


@pytest.mark.parametrize("text", ["\ud800", "x\0y", "a \udcff b"])
def test_python_and_overrides_follow_the_rule_of_job_files(text: str) -> None:
    job = {"name": "a", "manifest": "a.csv", "output": "out"}
    column = {"column": "c", "values": {"1": text}}
    for values, key in (
        ({"sampling": {"negative_prompt": text}}, "sampling.negative_prompt"),
        ({"columns": {"negative_prompt": column}}, "columns.negative_prompt.values.1"),
        ({"manifest": ["a.csv", text]}, "manifest"),
    ):
        with pytest.raises(SpecError, match=rf"^job: {key}: it has .*, which is not text$"):
            RunSpec.from_dict(job | values)
    with pytest.raises(SpecError, match=r"^job: sampling\.negative_prompt: it has "):
        RunSpec.from_dict(job, [f"sampling.negative_prompt={text}"])
    with pytest.raises(SpecError, match=r"^job: output: it has "):
        train_spec({"recipe": "autoencoder", "name": "a", "output": text})
