"""The commented example jobs: valid, complete, and correct about the defaults."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result
from pydantic import BaseModel

from nightpress.diffusion_core import builtin
from nightpress.jobs.cli import command
from nightpress.pipelines.models.location import component_folder
from nightpress.pipelines.training.spec import RECIPES, TrainSpec, read_train_spec, train_spec

EXAMPLES = Path("jobs/examples")

FROZEN_BASE = {"model.loras", "model.row_loras", "model.speed"} | {
    *("model.prompts.long", "model.prompts.weights"),
    *("model.controlnets", "model.references", "model.config"),
    *(f"model.embeddings.{key}" for key in ("source", "token", "weight_name")),
    *("model.memory.offload", "model.memory.device_map", "model.prompts.clip_skip"),
}
REFUSED = {"lora": FROZEN_BASE, "controlnet": FROZEN_BASE}
"""Keys that belong to a shared section, but are not allowed in this recipe."""


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def text_of(recipe: str) -> str:
    return (EXAMPLES / f"train-{recipe}.yaml").read_text()


def uncommented(text: str) -> dict[str, Any]:
    """The job with each commented-out `# key: value` line uncommented."""
    text = re.sub(r"^( *)# ( *[a-z][a-z_0-9]*:( |$))", r"\1\2", text, flags=re.MULTILINE)
    values = yaml.safe_load(text.replace("model: builtin\n", ""))
    assert isinstance(values, dict)
    return values


def keys_of(section: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every key of a section, including those of nested sections."""
    for name, field in section.model_fields.items():
        inner = [kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)]
        if inner and name not in ("loras", "row_loras", "controlnets", "references", "speed"):
            yield from keys_of(inner[0], f"{before}{name}.")
        else:
            yield before + name


def _kinds(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for argument in get_args(annotation):
        yield from _kinds(argument)


def has(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_example_shows_every_key(recipe: str) -> None:
    values = uncommented(text_of(recipe))
    keys = set(keys_of(RECIPES[recipe])) - REFUSED.get(recipe, set())
    assert "training.max_train_steps" in keys
    assert [key for key in sorted(keys) if not has(values, key)] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_commented_values_of_an_example_are_the_defaults(recipe: str) -> None:
    path = EXAMPLES / f"train-{recipe}.yaml"
    values = uncommented(path.read_text())
    plain = read_train_spec(path).as_dict()
    whole = train_spec(values).as_dict()
    for key in ("name", "storage"):  # these show an example
        assert whole.pop(key) != plain.pop(key)
    assert whole == plain


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_defaults_in_comments_match_the_schema(recipe: str) -> None:
    defaults = {
        **TrainSpec.model_fields["training"].default.model_dump(),
        "every_steps": TrainSpec.model_fields["samples"].default.every_steps,
    }
    mentioned = re.findall(r"^  ([a-z_0-9]+): .*\bdefault ([\w.-]+)", text_of(recipe), re.MULTILINE)
    assert len(mentioned) >= 5
    assert {key: yaml.safe_load(value) for key, value in mentioned} == {
        key: defaults[key] for key, _ in mentioned
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_schema_accepts_an_example_and_refuses_a_typo(recipe: str) -> None:
    schema = json.loads(nightpress("schema", "--train").stdout)
    values = yaml.safe_load(text_of(recipe))
    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values | {"trainning": {}}, schema)


def test_the_denoiser_example_fits_the_autoencoder_example_and_the_builtin_text_encoder() -> None:
    model = yaml.safe_load(text_of("denoiser"))["model"]
    autoencoder = yaml.safe_load(text_of("autoencoder"))["model"]["autoencoder"]
    config = json.loads((component_folder(model["text_encoder"]) / "config.json").read_text())
    denoiser = model["denoiser"]
    assert denoiser["in_channels"] == denoiser["out_channels"] == autoencoder["latent_channels"]
    assert denoiser["cross_attention_dim"] == config["hidden_size"]
    assert component_folder(model["tokenizer"]) == builtin.folder() / "tokenizer"


@pytest.mark.parametrize("recipe", RECIPES)
def test_init_writes_a_training_job_and_refuses_to_replace_it(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = nightpress("init", "--recipe", recipe, "jobs/first.yaml")
    assert result.exit_code == 0, result.stderr
    assert "nightpress train jobs/first.yaml" in Path("jobs/first.yaml").read_text()
    assert isinstance(read_train_spec("jobs/first.yaml"), RECIPES[recipe])
    again = nightpress("init", "--recipe", recipe, "jobs/first.yaml")
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert nightpress("init", "--recipe", recipe).exit_code == 0
    assert Path(f"{recipe}.yaml").is_file()


def test_init_refuses_an_unknown_recipe_and_lists_the_recipes() -> None:
    result = nightpress("init", "--recipe", "embedding")
    assert result.exit_code == 2
    for recipe in RECIPES:
        assert recipe in result.stderr
