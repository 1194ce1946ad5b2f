"""Manifests with A1111's weights and with long prompts: what is wrong is refused with its place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.plans import MODEL, job, write

from nightpress.diffusion_core.models.loading import describe
from nightpress.diffusion_core.models.prompt_chunks import MAX_CHUNKS
from nightpress.diffusion_core.models.prompt_reading import PromptReader
from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.errors import ManifestError, SpecError
from nightpress.pipelines.manifest.prompt_reading import may_be_read, reading_problem
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.planning import PlanLayout, check

BUILTIN = describe(locate(ModelSpec()), ModelSpec()).prompts
READER = replace(MODEL, prompts=BUILTIN)
FITS = "circle " * 30
LONG = FITS + "above a blue square"
A1111 = {"weights": "a1111"}
CHUNKS = {"weights": "a1111", "long": "chunks"}


def checked(
    folder: Path, rows: list[dict[str, Any]], prompts: dict[str, Any], **values: Any
) -> PlanLayout:
    spec = job(folder, write(folder / "m.jsonl", rows), model={"prompts": prompts}, **values)
    return check(spec, READER)


def refused(
    folder: Path, rows: list[dict[str, Any]], prompts: dict[str, Any], **values: Any
) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        checked(folder, rows, prompts, **values)
    return [f"{each.row} {each.column}: {each.message}" for each in caught.value.problems]


def test_wrong_weights_are_refused_with_row_column_and_place(tmp_path: Path) -> None:
    rows = [
        {"text": "a (red:1.2) [circle], \\(new\\)"},
        {"text": "a (red circle", "negative_prompt": "(blue:nan)"},
        {"text": "(red:99)", "negative_prompt": "[a:b:0.5]"},
        {"text": "<lora:ink:0.8> a (red:1.2)", "negative_prompt": "a :)"},
        {"text": "{red|blue} (circle:1.2)", "negative_prompt": "[a|b]"},
        {"text": "red AND blue", "negative_prompt": "embedding:bad"},
    ]
    found = refused(tmp_path, rows, A1111, columns={"prompt": "text"})
    starts = [
        "1 text: character 3 of 13: '(' is never closed; close it with ')', or write \\( for",
        "2 text: 'red' has the weight 99, which is not between -10 and 10, or set",
        "3 text: '<lora:ink:0.8>' loads a LoRA in other programs, but would be text here",
        "4 text: '{red|blue}' is a choice of words in other programs",
        "5 text: character 5 of 12: 'AND' composes several prompts in A1111",
        "1 negative_prompt: character 7 of 10: the weight 'nan' is not a plain number",
        "2 negative_prompt: character 1 of 9: '[a:b:0.5]' is prompt editing, a change at a step",
        "3 negative_prompt: character 4 of 4: ')' closes a bracket that was never opened",
        "4 negative_prompt: character 1 of 5: '[a|b]' is alternation",
        "5 negative_prompt: 'embedding:bad' loads an embedding in other programs",
    ]
    assert len(found) == len(starts)
    assert all(any(line.startswith(start) for line in found) for start in starts), found


def test_a_long_prompt_is_refused_without_chunks_and_allowed_with_them(tmp_path: Path) -> None:
    rows = [{"prompt": FITS}, {"prompt": f"({LONG}:1.2)"}, {"prompt": "red BREAK blue"}]
    assert refused(tmp_path, rows, A1111) == [
        "1 prompt: 34 tokens in 2 chunks of 30, but the model reads only 1; shorten the text, or "
        "set model.prompts.long: chunks",
        "2 prompt: 2 tokens in 2 chunks of 30 (1 begun by BREAK), but the model reads only 1; "
        "shorten the text, or set model.prompts.long: chunks",
    ]
    assert checked(tmp_path, rows, CHUNKS).num_images == 3
    assert checked(tmp_path, [*rows[:1], {"prompt": LONG}], {"long": "chunks"}).num_images == 2


@pytest.mark.parametrize("prompts", [CHUNKS, {"long": "chunks"}])
def test_20_000_characters_are_refused_with_their_count_and_the_limit(
    prompts: dict[str, Any], tmp_path: Path
) -> None:
    rows = [{"prompt": "circle " * 600}, {"prompt": ("red circle " * 2000)[:20_000]}]
    assert refused(tmp_path, rows, prompts) == [
        "1 prompt: 3,637 tokens in 122 chunks of 30, but at most 20 are allowed; shorten the text"
    ]


def test_tags_stay_refused_in_chunks_of_literal_text(tmp_path: Path) -> None:
    rows = [{"prompt": "a (red:1.4) " + LONG}]
    assert "'(red:1.4)' is a weight" in refused(tmp_path, rows, {"long": "chunks"})[0]
    literal = checked(tmp_path, rows, {"long": "chunks", "weights": "literal"})
    assert literal.prompts.num_literal == 1


def test_the_jobs_own_negative_prompt_is_read_likewise(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"sampling\.negative_prompt: character 1 of 2: '\('"):
        checked(tmp_path, [{"prompt": "a"}], A1111, sampling={"negative_prompt": "(a"})
    assert checked(tmp_path, [{"prompt": "a"}], A1111, sampling={"negative_prompt": "(a:2)"})


def test_weights_do_not_go_with_cutting(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="weights: a1111 goes with long: refuse or long: chunks"):
        checked(tmp_path, [{"prompt": "a"}], {"weights": "a1111", "long": "cut"})


@pytest.mark.parametrize("prompts", [A1111, CHUNKS, {"long": "chunks", "weights": "literal"}])
def test_no_text_that_is_surely_read_has_a_fault(prompts: dict[str, Any]) -> None:
    reader = PromptReader(PromptsSpec(**prompts), BUILTIN)
    texts = [
        *("a" * n for n in (0, 25, 26, 27, 28, 29, 60)),
        *("a, " * n for n in (10, 14, 15, 60, 66, 67, 200)),
        *("é" * n for n in (5, 25, 31, 99)),
        *("a(", "a)", "[", "]", "\\", "a AND b", "a BREAK b", "{a|b}", "x embedding:y", "(a:99)"),
    ]
    sure = may_be_read(reader, pa.array(texts)).tolist()
    assert any(sure)
    for text, is_sure in zip(texts, sure, strict=True):
        assert not is_sure or reading_problem(reader, text) is None, text


def test_most_captions_need_no_second_look() -> None:
    reader = PromptReader(PromptsSpec(long="chunks"), BUILTIN)
    texts = pa.array(["a circle, " * 15, "red " * 40, None])
    assert may_be_read(reader, texts).tolist() == [True, True, True]
    assert reader.num_chunks("a circle, " * 15) <= MAX_CHUNKS
