"""Prompts that the model would not take as they are: refused when planning, or counted."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.plans import MODEL, job, write

from nightpress.diffusion_core.models.loading import describe
from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.diffusion_core.models.prompts import PromptLimits
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.errors import ManifestError, SpecError
from nightpress.pipelines.manifest.prompt_checks import PromptChecker
from nightpress.pipelines.manifest.prompt_counts import PromptCounts
from nightpress.pipelines.manifest.row_problems import RowProblems
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.planning import PlanLayout, check, plan_part

BUILTIN = describe(locate(ModelSpec()), ModelSpec()).prompts
READER = replace(MODEL, prompts=BUILTIN)
FITS = "circle " * 30
LONG = FITS + "above a blue square"
ALLOWED = {"prompts": {"long": "cut", "weights": "literal"}}


def checked(folder: Path, rows: list[dict[str, Any]], **values: Any) -> PlanLayout:
    return check(job(folder, write(folder / "m.jsonl", rows), **values), READER)


def refused(folder: Path, rows: list[dict[str, Any]], **values: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        checked(folder, rows, **values)
    return [
        f"{problem.row} {problem.column}: {problem.message}" for problem in caught.value.problems
    ]


def test_a_prompt_that_the_model_would_cut_is_refused_with_what_would_be_lost(
    tmp_path: Path,
) -> None:
    rows = [{"prompt": FITS}, {"prompt": LONG}, {"prompt": "a", "negative_prompt": LONG}]
    message = (
        "34 tokens, but the model reads only 30: 'above a blue square' would be lost; shorten the "
        "text, or set model.prompts.long: cut or chunks"
    )
    assert refused(tmp_path, rows) == [f"1 prompt: {message}", f"2 negative_prompt: {message}"]


def test_a_tag_of_another_program_is_refused(tmp_path: Path) -> None:
    rows = [
        {"text": "a (red hat:1.4)"},
        {"text": "a clock (10:30)"},
        {"text": "<lora:ink:0.8> a", "negative_prompt": "BREAK, a [b:0.5]"},
    ]
    first, lora, negative = refused(tmp_path, rows, columns={"prompt": "text"})
    assert first == (
        "0 text: '(red hat:1.4)' is a weight in other programs, but would be text here; remove it, "
        "or set model.prompts.weights: literal"
    )
    assert "2 text: '<lora:ink:0.8>' loads a LoRA" in lora
    assert "in the column lora (see model.row_loras)" in lora
    assert "2 negative_prompt: '[b:0.5]' is a change at a step" in negative


def test_spaces_and_digits_outside_ascii_are_judged_alike_everywhere(tmp_path: Path) -> None:
    rows = [
        {"prompt": "red apple (ratio\u00a0:2)"},
        {"prompt": "éembedding:foo"},
        {"prompt": "(word٣:2)"},
        {"prompt": "(word:\u00a01.4)"},
    ]
    shown = [line.split(" in other programs")[0] for line in refused(tmp_path, rows)]
    assert shown == [
        "1 prompt: 'embedding:foo' loads an embedding",
        "2 prompt: '(word٣:2)' is a weight",
        "3 prompt: '(word:\\xa01.4)' is a weight",
    ]


def test_what_the_job_allows_is_counted_by_row_and_said(tmp_path: Path) -> None:
    rows = [
        {"prompt": LONG, "negative_prompt": LONG},
        {"prompt": "((word)) a", "negative_prompt": LONG},
        {"prompt": "(word:1.4)", "negative_prompt": "((word))"},
        {"prompt": "a fox", "negative_prompt": None},
    ]
    layout = checked(tmp_path, rows, model=ALLOWED)
    assert layout.prompts == PromptCounts(num_cut=2, num_literal=1, num_doubled=1)
    assert PlanLayout.from_dict(layout.as_dict()).prompts == layout.prompts
    cut, literal, doubled = layout.prompts.warnings()
    assert cut.startswith("2 rows with a prompt that has more tokens than the model reads")
    assert literal.startswith("1 row with")
    assert doubled.startswith("1 row with")


def test_negative_prompts_that_guidance_leaves_out_are_counted_and_said(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "negative_prompt": "b", "guidance_scale": 1.0},
        {"prompt": "a", "negative_prompt": "b", "guidance_scale": 0},
        {"prompt": "a", "negative_prompt": "b", "guidance_scale": 1.1},
        {"prompt": "a", "negative_prompt": None, "guidance_scale": 1.0},
    ]
    layout = checked(tmp_path, rows)
    assert layout.prompts == PromptCounts(num_unguided=2)
    assert PlanLayout.from_dict(layout.as_dict()).prompts == layout.prompts
    (warning,) = layout.prompts.warnings()
    assert warning.startswith("2 rows with a negative prompt that has no effect, as the guidance")
    assert "num_unguided" not in checked(tmp_path, rows[2:]).as_dict()["prompts"]
    everywhere = checked(tmp_path, rows, sampling={"negative_prompt": "c"})
    assert everywhere.prompts.num_unguided == 3


@pytest.mark.parametrize("text", [LONG, "(bad:1.2)"])
def test_the_jobs_own_negative_prompt_is_refused_once(tmp_path: Path, text: str) -> None:
    rows = [{"prompt": "a fox"}] * 3
    with pytest.raises(SpecError, match=r"^sampling\.negative_prompt: .*model\.prompts\."):
        checked(tmp_path, rows, sampling={"negative_prompt": text})
    allowed = checked(tmp_path, rows, sampling={"negative_prompt": text}, model=ALLOWED)
    assert sum([allowed.prompts.num_cut, allowed.prompts.num_literal]) == 3


def test_the_record_of_an_older_plan_has_no_counts() -> None:
    layout = PlanLayout(parts=(), shard_size=1, batches=(), files=())
    older = {key: value for key, value in layout.as_dict().items() if key != "prompts"}
    assert PlanLayout.from_dict(older).prompts == PromptCounts()


def test_prompts_are_checked_once_and_not_again_when_the_plan_is_written(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", [{"prompt": LONG}]), model=ALLOWED)
    layout = check(spec, READER)
    assert plan_part(spec, MODEL, layout, 0).column("prompt").to_pylist() == [LONG]


def test_every_form_of_a_text_column_is_checked() -> None:
    texts = ["a" * 200, None, "", "héllo " * 40, FITS, LONG, LONG, f"\n{LONG}", "x" * 31, "…" * 40]
    expected = {text for text in texts if text and BUILTIN.cut(text)}
    assert {LONG, "héllo " * 40, "…" * 40} <= expected
    padded = pa.array(["padding", *texts, "padding"])
    for column in (pa.array(texts), padded.slice(1, len(texts))):
        checker = PromptChecker(PromptsSpec(), BUILTIN)
        assert checker.is_cut(column).tolist() == [text in expected for text in texts]
        problems = RowProblems("m.csv", 0)
        counts = checker.check([("prompt", column)], problems)
        assert problems.total == counts.num_cut == sum(text in expected for text in texts)


def test_short_prompts_need_no_tokenizer() -> None:
    (builtin,) = BUILTIN.tokenizers
    broken = PromptLimits((replace(builtin, packed=b"no tokenizer"),))
    short = pa.array(["a red circle (1)", "(a) b", "x" * builtin.safe_bytes] * 10)
    assert not PromptChecker(PromptsSpec(), broken).is_cut(short).any()


@pytest.mark.parametrize("tokenizers", [1, 2])
def test_every_text_is_judged_as_if_it_were_tokenised_whole(tokenizers: int) -> None:
    chance = random.Random(5)
    words = [
        "circle",
        "triangle,",
        "zebra's",
        "Über",
        "猫犬",
        "12345",
        "x" * 9,
        "\t",
        "",
        "...!",
        "é",
    ]
    texts = [
        " ".join(chance.choices(words, k=chance.randint(0, 40))) + chance.choice(("", f" {number}"))
        for number in range(400)
    ]
    (builtin,) = BUILTIN.tokenizers
    other = replace(builtin, max_tokens=40, splits_at_spaces=False)
    limits = PromptLimits((builtin, other)[:tokenizers])
    checker = PromptChecker(PromptsSpec(), limits)
    judged = checker.is_cut(pa.array(texts)).tolist()
    assert judged == [limits.cut(text) is not None for text in texts]
    assert {True, False} == set(judged)
