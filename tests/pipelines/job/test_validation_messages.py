"""What is said about values that a job file must not have: plain words, for every key there is."""

import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, Field, ValidationError

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.job.schema import json_schema
from nightpress.pipelines.job.scores_section import OwnSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.job.validation_messages import explain

SMALLEST = {"name": "night", "manifest": "prompts.txt", "output": "runs"}
EXPORT = {"name": "set", "from": "runs/night", "output": "sets"}

WRONG_VALUES: tuple[Any, ...] = ("?", -3.5, [[-1]], {"?": -1}, {1: [-1]})
"""A text, a number, a list and mappings, each of which few keys take."""

LEAKS = (
    "valid dictionary",
    "instance of",
    "valid tuple",
    "string should match pattern",
    "nput should",
    "eys should be",
    "after validation",
    "^[",
)
"""Words of pydantic that say nothing to the author of a job file."""

SAYS_WHAT_IS_ALLOWED = (
    r"must (be|have|not|begin|end)|begins with|allowed|required|one of|there are|takes|needs"
)

PYRAMID = "spatial_attention_timestep_skip_range"


Path = tuple[str | int, ...]


def sections(annotation: Any) -> Iterator[tuple[Path, type[BaseModel]]]:
    """The sections in an annotation, with the keys that lead to each."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield (), annotation
    elif origin is Annotated:
        yield from sections(arguments[0])
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from sections(argument)
    elif origin in (tuple, list):
        yield from (((0, *path), section) for path, section in sections(arguments[0]))
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from ((("x", *path), section) for path, section in sections(arguments[1]))


def scorer_of(section: type[BaseModel]) -> dict[str, Any]:
    """What says which of several sections is meant: the key `scorer`, if it has one."""
    if section is OwnSpec:
        return {"scorer": "mine.py:Mine"}
    field = section.model_fields.get("scorer")
    return {} if field is None else {"scorer": get_args(field.annotation)[0]}


def keys_of(root: type[BaseModel], prefix: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The keys of all sections, with the other keys that their section needs for being meant."""
    for name, field in root.model_fields.items():
        path = (*prefix, field.alias or name)
        yield path, scorer_of(root)
        for inner, section in sections(field.annotation):
            yield from keys_of(section, (*path, *inner))


def nested(path: Path, beside: Mapping[str, Any], value: Any) -> Any:
    """A value behind its keys: `("notify", 0, "on")` gives `{"notify": [{"on": value}]}`."""
    first, *rest = path
    if not rest:
        return {**beside, first: value}
    inner = nested(tuple(rest), beside, value)
    return [inner] if first == 0 else {first: inner}


def problems(values: Mapping[str, Any], root: Any = RunSpec) -> list[str]:
    """The lines that refuse a job."""
    smallest = SMALLEST if root is RunSpec else EXPORT
    try:
        root.from_dict({**smallest, **values})
    except SpecError as error:
        return str(error).splitlines()
    return []


def every_key() -> Iterator[Any]:
    for root in (RunSpec, ExportSpec):
        for path, beside in keys_of(root):
            name = f"{root.__name__}-{'.'.join(map(str, path))}-{beside.get('scorer', '')}"
            yield pytest.param(root, path, beside, id=name)


@pytest.mark.parametrize(("root", "path", "beside"), [*every_key()])
def test_each_key_refuses_wrong_values_by_name_and_in_plain_words(
    root: Any, path: Path, beside: dict[str, Any]
) -> None:
    key = ".".join(map(str, path))
    refused = 0
    for value in WRONG_VALUES:
        lines = problems(nested(path, beside, value), root)
        assert [line for line in lines for words in LEAKS if words in line] == []
        about = key.removesuffix(".scorer")  # a wrong scorer is refused with its section
        of_it = [line for line in lines if line.partition(": ")[2].startswith(about)]
        refused += bool(of_it)
        assert [line for line in of_it if not re.search(SAYS_WHAT_IS_ALLOWED, line)] == []
    assert refused >= 2


def test_there_are_many_keys_to_try() -> None:
    assert len([*every_key()]) > 200


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"cluster": {"actors": 0}},
            "cluster.actors: 0: must be an integer greater than 0, 'auto', or a mapping with the "
            "keys min, max",
        ),
        (
            {"batch": {"size": "many"}},
            "batch.size: 'many': must be an integer greater than 0 or 'auto'",
        ),
        (
            {"batch": {"order": "score"}},
            "batch.order: 'score': must be a list of texts, such as ['score']",
        ),
        (
            {"images": {"keep": "first_frame"}},
            "images.keep: 'first_frame': must be a list of 'first_frame', such as ['first_frame']",
        ),
        (
            {"passes": 2},
            "passes: 2: must be a list of mappings with the keys scale, strength, "
            "num_inference_steps",
        ),
        (
            {"model": {"loras": "x.safetensors"}},
            "model.loras: 'x.safetensors': must be a list of sources or mappings with the keys "
            "source, weight_name, scale, name, such as ['x.safetensors']",
        ),
        (
            {"model": {"loras": [1]}},
            "model.loras.0: 1: must be a source, such as a folder or a hub id, or a mapping with "
            "the keys source, weight_name, scale, name",
        ),
        ({"cost": 2}, "cost: 2: must be a mapping with the keys currency, per_gpu_hour"),
        (
            {"cost": {"currency": "euro", "per_gpu_hour": 1.0}},
            "cost.currency: 'euro': must be three capital letters, such as EUR or USD",
        ),
        ({"manifest": 3}, "manifest: 3: must be a text or a list of texts"),
        ({"columns": 3}, "columns: 3: must be a mapping, such as {prompt: caption}"),
        ({"storage": {"s3": "x"}}, "storage.s3: 'x': must be a mapping"),
        ({"output": None}, "output: null: must be a text"),
        ({"models": []}, "models: []: must not be empty"),
        ({"seed": -1}, "seed: -1: must be an integer from 0 to 9,007,199,254,740,991"),
        (
            {"images": {"format": "gif"}},
            "images.format: 'gif': must be 'png', 'webp', 'jpeg' or 'mp4'",
        ),
        (
            {"model": {"speed": {"force_upcast": True}}},
            "model.speed.force_upcast: true: must be false",
        ),
        (
            {"model": {"speed": {"pyramid_attention_broadcast": {PYRAMID: [4]}}}},
            f"model.speed.pyramid_attention_broadcast.{PYRAMID}: [4]: must be a list of 2 integers",
        ),
    ],
)
def test_a_value_is_refused_in_these_words(values: dict[str, Any], line: str) -> None:
    assert problems(values) == [f"job: {line}"]


def test_an_export_is_refused_in_plain_words_too() -> None:
    select = "export: select: 3: must be a text or a mapping with the key where"
    assert problems({"select": 3}, ExportSpec) == [select]
    (number,) = problems({"split": {"validation": 5}}, ExportSpec)
    assert "validation: 5: must be a text, and it must be a share from 0% to 100%" in number
    (share,) = problems({"split": {"validation": "5"}}, ExportSpec)
    assert share.startswith("export: split.validation: '5': must be a share from 0% to 100%")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"models": [{"source": "a"}]}, "models.0.name"),
        ({"notify": [{"url_env": "X", "on": ["done"]}]}, "notify.0.on.0"),
    ],
)
def test_a_list_with_a_wrong_item_is_not_also_called_empty(
    values: dict[str, Any], key: str
) -> None:
    (line,) = problems(values)
    assert line.startswith(f"job: {key}: ")


@pytest.mark.parametrize(("code", "key"), [(1, "1"), ("x", "x"), (True, "true"), (" y ", " y ")])
def test_a_wrong_meaning_of_a_code_is_refused_at_the_code_alone(code: Any, key: str) -> None:
    columns = {"scheduler": {"column": "a", "values": {code: [2]}}}
    line = f"job: columns.scheduler.values.{key}: [2]: must be a text or a number"
    assert problems({"columns": columns}) == [line]


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({1: "hidden"}, ["the key 1"]),
        ({"model": {1: 2, 3: 4}}, ["model: the key 1", "model: the key 3"]),
        ({"model": {None: 2}}, ["model: the key null"]),
        ({"model": {"loras": [{"source": "a", 1.5: 2}]}}, ["model.loras.0: the key 1.5"]),
        ({"cluster": {"actors": {1: 2}}}, ["cluster.actors: the key 1"]),
        ({"scores": {1: {"scorer": "nsfw"}}}, ["scores: the key 1"]),
        ({"columns": {True: "a"}}, ["columns: the key true"]),
        ({"storage": {"s3": {1: 2}}}, ["storage.s3: the key 1"]),
    ],
)
def test_a_key_that_is_no_text_is_refused_itself(values: dict[Any, Any], lines: list[str]) -> None:
    said = [f"job: {line} must be a text; put it in quotes" for line in lines]
    assert problems(values) == said


@pytest.mark.parametrize(
    ("values", "of_key", "of_value"),
    [
        (
            {"storage": {1: 2}},
            "storage: the key 1 must be a text; put it in quotes",
            "storage.1: 2: must be a mapping",
        ),
        (
            {"columns": {1: [3]}},
            "columns: the key 1 must be a text; put it in quotes",
            "columns.1: [3]: must be a text, or a mapping with the keys column, values",
        ),
        (
            {"scores": {"1a": 3}},
            "scores.1a: the name of a score begins with a letter, and has at most 64 letters, "
            "digits and underscores",
            "scores.1a: 3: must be a mapping with the key scorer, which is one of: nsfw, clip, "
            "classifier, ocr, faces, embedding, or FILE.py:Class",
        ),
    ],
)
def test_a_key_and_its_value_are_refused_in_a_line_each(
    values: dict[str, Any], of_key: str, of_value: str
) -> None:
    assert problems(values) == [f"job: {of_key}", f"job: {of_value}"]


def test_a_value_of_no_kind_that_a_union_has_is_refused_beside_other_mistakes() -> None:
    lines = problems({"cluster": {"actors": [1]}, "seed": -1})
    assert [line.split(": ")[1] for line in lines] == ["seed", "cluster.actors"]


class Bounded(BaseModel):
    """Fields that allow the same and different bounds in places."""

    same: Annotated[int, Field(ge=1)] | list[Annotated[int, Field(ge=1)]] = 1
    different: Annotated[int, Field(ge=1, le=9)] | list[Annotated[int, Field(ge=0)]] = 1
    bounded_once: Annotated[int, Field(ge=1, le=9)] | list[int] = 1


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("same", [0], "same.0: 0: must be an integer of at least 1"),
        ("same", ["x"], "same.0: 'x': must be an integer of at least 1"),
        ("different", [-1], "different.0: -1: must be an integer of at least 0"),
        ("different", 10, "different: 10: must be an integer at most 9 or a list of integers"),
        ("different", ["x"], "different.0: 'x': must be an integer"),
        ("bounded_once", ["x"], "bounded_once.0: 'x': must be an integer"),
    ],
)
def test_only_bounds_that_hold_in_all_places_of_a_field_are_said(
    key: str, value: Any, line: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Bounded.model_validate({key: value})
    assert explain(caught.value, Bounded, {key: value})[0] == line


def test_editors_show_the_same_words_for_a_pattern() -> None:
    schema = json_schema()
    currency = schema["$defs"]["CostSpec"]["properties"]["currency"]
    assert currency["patternErrorMessage"] == "must be three capital letters, such as EUR or USD"
