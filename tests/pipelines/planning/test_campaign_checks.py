"""Campaigns against the model's text encoder and the names of files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.campaigns import write_campaign
from support.plans import MODEL, job

from nightpress.diffusion_core.models.prompts import PromptLimits
from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.planning import check

LISTS = {"lists__end_DOT_txt": "on a chair\n" + "far " * 60 + "away\n"}


@pytest.fixture(scope="module")
def limits() -> PromptLimits:
    """The limits of the built-in model, which reads 30 tokens."""
    spec = RunSpec.from_dict({"name": "r", "output": "none"})
    return ModelFiles.locate(spec.model, {}).describe(spec.model, elsewhere=True).prompts


def checked(folder: Path, limits: PromptLimits, text: str, **values: Any) -> tuple[str, ...]:
    path = Path(write_campaign(folder, text, **LISTS))
    layout = check(job(folder, path, **values), replace(MODEL, prompts=limits))
    return layout.files[0].notes


def test_a_template_that_can_draw_too_long_a_prompt_is_refused(
    tmp_path: Path, limits: PromptLimits
) -> None:
    text = 'prompt: "a {cat|dog} ${n} {here|__end__}"\nlists: lists\naxes: {n: [1, 2]}\n'
    with pytest.raises(ManifestError, match=r"line 1, .*the longest text that it can draw has"):
        checked(tmp_path, limits, text)
    cut = {"model": {"prompts": {"long": "cut"}}}
    assert checked(tmp_path, limits, text, **cut) == ()


def test_the_values_of_axes_inside_choices_count(tmp_path: Path, limits: PromptLimits) -> None:
    long = " ".join(["far"] * 40)
    text = f'prompt: "a {{cat|cat on ${{n.where}}}}"\naxes: {{n: [{{k: x, where: "{long}"}}]}}\n'
    with pytest.raises(ManifestError, match="the longest text that it can draw has"):
        checked(tmp_path, limits, text)


def test_templates_that_always_fit_are_taken(tmp_path: Path, limits: PromptLimits) -> None:
    text = 'prompt: "a {cat|dog} ${n} {2$$here|there|now}"\naxes: {n: [1, 2]}\n'
    assert checked(tmp_path, limits, text) == ()


def test_values_that_rules_keep_apart_are_not_put_together(
    tmp_path: Path, limits: PromptLimits
) -> None:
    long = " ".join(["far"] * 14)
    text = (
        f'prompt: "${{a}} {{x|y}} ${{b}}"\naxes: {{a: ["{long}", s], b: ["{long}", t]}}\n'
        f'rules: [{{forbid: {{a: "{long}", b: "{long}"}}}}]\n'
    )
    assert checked(tmp_path, limits, text) == ()


FEW, MANY = "short", "long"


def of_two_models(folder: Path, limits: PromptLimits, rules: str = "") -> tuple[str, ...]:
    """Check a campaign over a model with the limits and over one without any."""
    words = " ".join(["far"] * 40)
    text = (
        f'prompt: "${{text}} {{x|y}}"\naxes: {{text: ["{words}", s], model: [{FEW}, {MANY}]}}\n'
        f"{rules}"
    )
    path = Path(write_campaign(folder, text))
    models = [{"name": name, "source": f"models/{name}"} for name in (MANY, FEW)]
    infos = {MANY: MODEL, FEW: replace(MODEL, prompts=limits)}
    return check(job(folder, path, models=models), infos).files[0].notes


def test_of_several_models_each_is_asked_for_the_longest_text_that_it_may_get(
    tmp_path: Path, limits: PromptLimits
) -> None:
    with pytest.raises(ManifestError, match="can draw for the model short has 41 tokens"):
        of_two_models(tmp_path, limits)
    words = " ".join(["far"] * 40)
    rules = f'rules: [{{forbid: {{text: "{words}", model: {FEW}}}}}]\n'
    assert of_two_models(tmp_path, limits, rules) == ()


def test_values_that_file_names_rewrite_are_said(tmp_path: Path) -> None:
    text = 'prompt: "on ${s}"\naxes: {s: [oak, "teak/ash", "a:b"]}\n'
    named = {"images": {"file_name": "{s}/{image_id}.png"}}
    (note,) = checked(tmp_path, PromptLimits(), text, **named)
    assert note.startswith("line 2, character 17: in file names {s} 'teak/ash' is written")
    assert note.endswith(", and 1 value more")
    assert checked(tmp_path, PromptLimits(), text) == ()
