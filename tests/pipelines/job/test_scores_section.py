"""The section `scores` of a job file."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from nightpress.pipelines.job.reader import apply_overrides
from nightpress.pipelines.job.scores_section import (
    NO_SCORERS,
    ClassifierSpec,
    ClipSpec,
    OcrSpec,
    OwnSpec,
    ScorerSpecs,
)
from nightpress.pipelines.job.sections import Section
from nightpress.pipelines.job.validation_messages import explain

SCORES: dict[str, Any] = {
    "nsfw": {"scorer": "nsfw"},
    "clip": {"scorer": "clip", "model": "s3://models/clip"},
    "kind": {"scorer": "classifier", "model": "s3://models/vit", "labels": ["cat"]},
    "text": {"scorer": "ocr", "expect": "{headline}"},
    "faces": {"scorer": "faces"},
    "look": {"scorer": "embedding", "model": "s3://models/clip"},
    "brand": {"scorer": "brand.py:Logo", "args": {"sizes": [1, 2], "deep": {"colour": None}}},
}


class Job(Section):
    """A job with nothing but scores."""

    scores: ScorerSpecs = NO_SCORERS


def test_each_scorer_has_its_own_section() -> None:
    scores = Job.model_validate({"scores": SCORES}).scores
    assert scores["clip"] == ClipSpec(scorer="clip", model="s3://models/clip", text="{prompt}")
    assert isinstance(scores["kind"], ClassifierSpec)
    assert isinstance(scores["text"], OcrSpec)
    assert isinstance(scores["brand"], OwnSpec)
    assert (scores["brand"].file, scores["brand"].class_name) == ("brand.py", "Logo")


def test_a_file_may_lie_at_a_url() -> None:
    spec = OwnSpec(scorer="s3://studio/brand.py:Logo")
    assert (spec.file, spec.class_name) == ("s3://studio/brand.py", "Logo")


def test_the_section_survives_its_own_json() -> None:
    job = Job.model_validate({"scores": SCORES})
    assert Job.model_validate(json.loads(job.model_dump_json())) == job
    assert Job.model_json_schema()


def test_editors_accept_each_scorer_and_refuse_others() -> None:
    validator = Draft202012Validator(Job.model_json_schema())
    assert list(validator.iter_errors({"scores": SCORES})) == []
    for wrong in ({"scorer": "nfsw"}, {"scorer": "clip"}, {"scorer": "brand.py"}, {}):
        assert not validator.is_valid({"scores": {"a": wrong}})


def test_overrides_need_no_quotes_around_templates() -> None:
    values: dict[str, Any] = {"scores": {"text": {"scorer": "ocr", "expect": "x"}}}
    apply_overrides(values, ["scores.text.expect={headline}", "scores.clip.scorer=clip"])
    apply_overrides(values, ["scores.clip.model=s3://m/clip", "scores.clip.text={style}: {prompt}"])
    scores = Job.model_validate(values).scores
    assert scores["text"] == OcrSpec(scorer="ocr", expect="{headline}")
    assert scores["clip"] == ClipSpec(scorer="clip", model="s3://m/clip", text="{style}: {prompt}")


def test_sources_are_known_for_checks() -> None:
    scores = Job.model_validate({"scores": SCORES}).scores
    assert [source for spec in scores.values() for source in spec.sources] == [
        *("s3://models/clip", "s3://models/vit", "s3://models/clip", "brand.py"),
    ]


ONE_OF = "must be a mapping with the key scorer, which is one of: nsfw, clip, classifier, ocr, "


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"a": {"scorer": "nfsw"}}, "scores.a: there is no scorer 'nfsw'; did you mean nsfw?"),
        ({"a": "nsfw"}, f"scores.a: 'nsfw': {ONE_OF}"),
        ({"a": {}}, f"scores.a: {ONE_OF}"),
        ({"a": {"scorer": 3}}, f"scores.a: {ONE_OF}"),
        ({"a": {"scorer": "brand.py"}}, "scores.a.scorer: 'brand.py': a scorer of your own is nam"),
        ({"a": {"scorer": "brand.py:1x"}}, "scores.a.scorer: 'brand.py:1x': a scorer of your own"),
        ({"a": {"scorer": "clip"}}, "scores.a.model: this key is required"),
        ({"a": {"scorer": "nsfw", "model": "x"}}, "scores.a.model: no such key; allowed here: sco"),
        (
            {"a": {"scorer": "ocr", "expect": "x", "expects": "x"}},
            "scores.a.expects: no such key; allowed here: scorer, expect, ignore_case",
        ),
        ({"a": {"scorer": "ocr", "expect": ""}}, "scores.a.expect: '': must not be empty"),
        ({"a": {"scorer": "ocr", "expect": 3}}, "scores.a.expect: 3: must be a text"),
        (
            {"a": {"scorer": "faces", "min_confidence": 2.0}},
            "scores.a.min_confidence: 2.0: must be a number from 0 to 1",
        ),
        (
            {"a": {"scorer": "classifier", "model": "m", "labels": ["b", "b"]}},
            "the label 'b' is named twice",
        ),
        ({"sharpness": {"scorer": "nsfw"}}, "scores.sharpness: every image has this score; give"),
        ({"perceptual_hash": {"scorer": "nsfw"}}, "every image has this score; give the scorer"),
        ({"a.b": {"scorer": "nsfw"}}, "scores.a.b: the name of a score begins with a letter"),
        ({"1a": {"scorer": "nsfw"}}, "scores.1a: the name of a score begins with a letter"),
        ({"a": {"scorer": "b.py:B", "args": [1]}}, "scores.a.args: [1]: must be a mapping"),
        (
            {"a": {"scorer": "b.py:B", "args": {"x": float("nan")}}},
            "scores.a.args: may hold numbers, texts, true, false, null, lists and mappings only",
        ),
        ({f"a{n}": {"scorer": "nsfw"} for n in range(33)}, "at most 32 items"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(scores: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Job.model_validate({"scores": scores})
    (line,) = explain(caught.value, Job, {"scores": scores})
    assert said in line


@pytest.mark.parametrize(
    "spec",
    [
        {"scorer": "clip", "model": "s3://key:hidden@models/clip"},
        {"scorer": "faces", "model": "https://user:hidden@host/yunet.onnx"},
        {"scorer": "https://user:hidden@host/brand.py:Logo"},
    ],
)
def test_a_url_with_credentials_is_refused_without_being_shown(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Job.model_validate({"scores": {"a": spec}})
    (line,) = explain(caught.value, Job, {"scores": {"a": spec}})
    assert "the URL contains credentials" in line
    assert "hidden" not in line
