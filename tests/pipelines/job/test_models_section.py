"""The key `models`: several models in one job, each with its own defaults."""

from typing import Any

import pytest

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.schema import json_schema
from nightpress.pipelines.job.spec import RunSpec

TWO = [{"name": "jug", "source": "/m/jug"}, {"name": "brand", "source": "/m/brand"}]


def job(**values: Any) -> RunSpec:
    return RunSpec.from_dict({"name": "night", "manifest": "m.csv", "output": "out"} | values)


def refusal(**values: Any) -> str:
    with pytest.raises(SpecError) as caught:
        job(**values)
    return str(caught.value)


def test_the_job_of_one_of_several_models_is_the_job_with_that_model_alone() -> None:
    several = job(
        models=[
            TWO[0],
            {
                "name": "brand",
                "source": "/m/brand",
                "dtype": "float32",
                "row_loras": ["/l/ink.safetensors"],
                "sampling": {"width": 512, "guidance_scale": 2.0, "negative_prompt": "grey"},
            },
        ],
        sampling={"width": 768, "height": 640, "negative_prompt": "blurry"},
        seed=3,
    )
    alone = job(
        model={"source": "/m/brand", "dtype": "float32", "row_loras": ["/l/ink.safetensors"]},
        sampling={"width": 512, "height": 640, "guidance_scale": 2.0, "negative_prompt": "grey"},
        seed=3,
    )
    assert several.for_model("brand") == alone
    assert several.for_model("brand").identity() == alone.identity()
    assert several.for_model("jug") == job(
        model="/m/jug",
        sampling={"width": 768, "height": 640, "negative_prompt": "blurry"},
        seed=3,
    )
    assert alone.for_model(None) is alone


def test_a_job_with_one_model_says_nothing_of_several() -> None:
    spec = job(model="/m/jug")
    assert "models" not in spec.as_dict()
    assert "models" not in spec.identity()
    assert spec.model_names == (None,)


def test_a_job_with_several_models_is_read_back_as_it_was_written() -> None:
    spec = job(models=[*TWO, {"name": "fast", "source": "builtin", "default": True}])
    assert "model" not in spec.as_dict()
    assert RunSpec.from_record(spec.as_dict(), "run.json") == spec


def test_what_decides_pixels_of_a_model_joins_the_identity_and_the_order_does_not() -> None:
    spec = job(models=TWO)
    assert not spec.changes(job(models=TWO[::-1]))
    assert not spec.changes(job(models=[TWO[0], TWO[1] | {"prompts": {"long": "cut"}}]))
    for change, name in (
        ({"source": "/m/other"}, "models.brand.source"),
        ({"sampling": {"width": 64}}, "models.brand.sampling.width"),
        ({"default": True}, "models.brand.default"),
        ({"row_loras": ["/l/ink.safetensors"]}, "models.brand.row_loras"),
    ):
        changes = spec.changes(job(models=[TWO[0], TWO[1] | change]))
        assert [each.field for each in changes] == [name]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "/m/x", "models": TWO}, "model and models are both given"),
        ({"models": []}, "models: "),
        ({"models": [TWO[0], TWO[0]]}, "two are called 'jug'; give each a name of its own"),
        (
            {"models": [TWO[0], TWO[1] | {"name": "JUG"}]},
            "two are called 'JUG', as 'jug' but for letter case",
        ),
        ({"models": [{"source": "/m/x"}]}, "models.0.name: this key is required"),
        ({"models": [{"name": "a/b"}]}, "models.0.name: 'a/b'"),
        (
            {"models": [each | {"default": True} for each in TWO]},
            "only one model can be the default, not jug and brand",
        ),
        ({"models": [TWO[0] | {"sampling": {"steps": 3}}]}, "models.0.sampling.steps: no such key"),
        (
            {"models": [TWO[0] | {"sampling": {"scheduler": "eulr"}}]},
            "models.0.sampling.scheduler: 'eulr': there is no sampler 'eulr'",
        ),
        (
            {"models": [{"name": "a", "source": "s3://key:secret@bucket/m"}]},
            "the model URL contains credentials",
        ),
        ({"columns": {"model": "checkpoint"}}, "'model' is a setting only of a job with `models`"),
        (
            {
                "models": [TWO[0] | {"speed": {"first_block_cache": {"threshold": 0.1}}}],
                "batch": {"size": 2},
            },
            "batch.size must be 1, not 2",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], said: str) -> None:
    assert said in refusal(**values)


def test_a_column_may_be_mapped_to_the_models_of_rows() -> None:
    assert job(models=TWO, columns={"model": "checkpoint"}).columns == {"model": "checkpoint"}


def test_the_schema_describes_an_entry() -> None:
    entry = json_schema()["$defs"]["NamedModel"]
    assert {"name", "source", "loras", "sampling", "default"} <= entry["properties"].keys()
    assert entry["required"] == ["name"]
