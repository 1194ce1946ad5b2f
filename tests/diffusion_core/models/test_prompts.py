"""How much of a prompt the text encoders read: the bounds hold, and what is lost is named."""

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import tiny_models
from support.tiny_tokenizers import qwen_tokenizer

from nightpress.diffusion_core.models.loading import LoadedModel, describe
from nightpress.diffusion_core.models.prompts import (
    OVERHEAD_TOKENS,
    Cut,
    PromptLimits,
    limits_of,
)
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.models.location import locate

BUILTIN = describe(locate(ModelSpec()), ModelSpec()).prompts
ALPHABETS = (
    " \t\n  abcdefghijklmnopqrstuvwxyz",
    "".join(map(chr, range(128))),
    "aéßñ ŒĲİȺẞ ﷺ … ㎏ ½ ﬁ 猫犬 ☃😀👩‍👩‍👧 \u0301\u0307\u00ad\u200b\u3000\ufeff \U0001d504",
)


def texts(number: int) -> list[str]:
    chance = random.Random(17)
    return [
        "".join(chance.choices(chance.choice(ALPHABETS), k=chance.randint(0, 60)))
        for _ in range(number)
    ]


def limits(tokenizer: Any, most: int = 77, **call: Any) -> PromptLimits:
    """The limits of a pipeline with this tokenizer alone."""
    tokenizer.model_max_length = most
    return limits_of(["tokenizer", "text_encoder"], lambda name: tokenizer, pipeline_class(**call))


def pipeline_class(max_sequence_length: int | None = None) -> Any:
    class Pipeline:
        def __call__(self, prompt: str, max_sequence_length: Any = max_sequence_length) -> None: ...

    return Pipeline


def all_kinds() -> list[PromptLimits]:
    makers = tiny_models.clip_tokenizer, tiny_models.t5_tokenizer, tiny_models.gemma_tokenizer
    return [BUILTIN, *(limits(make(), most=20) for make in makers)]


@pytest.mark.parametrize("index", range(4), ids=["builtin", "clip", "t5", "gemma"])
def test_a_text_never_has_more_tokens_than_its_bound_says(index: int) -> None:
    (tokenizer,) = all_kinds()[index].tokenizers
    assert tokenizer.is_bounded
    assert tokenizer.splits_at_spaces == (index < 3)
    for text in texts(500):
        number = tokenizer.count(text)
        growth = 1 if text.isascii() else 17
        assert number <= growth * len(text.encode()) + OVERHEAD_TOKENS, repr(text)
        if tokenizer.splits_at_spaces:
            words = text.encode().split()  # at ASCII white space only
            assert number == sum(tokenizer.count(word.decode()) for word in words), repr(text)


@pytest.mark.parametrize("index", range(4), ids=["builtin", "clip", "t5", "gemma"])
def test_what_is_kept_of_a_cut_text_is_what_the_pipeline_keeps(index: int) -> None:
    (tokenizer,) = all_kinds()[index].tokenizers
    for text in texts(200):
        cut = tokenizer.cut(text)
        assert (cut is None) == (tokenizer.count(text) <= tokenizer.max_tokens)
        if cut is not None:
            assert cut.num_tokens == tokenizer.count(text)
            assert text.endswith(cut.lost)
            kept = text[: len(text) - len(cut.lost)]
            assert tokenizer.count(kept) <= tokenizer.max_tokens + 3  # a character may be divided


def test_the_lost_words_of_a_prompt_are_named() -> None:
    fits = " ".join(["circle"] * 30)
    assert BUILTIN.cut(fits) is None
    assert BUILTIN.cut(f"{fits} above a blue square") == Cut(34, 30, "above a blue square")


@pytest.mark.parametrize(
    ("family", "most"),
    [("sd", 75), ("lcm", 75), ("sdxl", 75), ("sd3", 255), ("flux", 511), ("pixart", 299)],
)
def test_a_prompt_is_cut_where_no_text_encoder_sees_its_end(
    family: str, most: int, loaded: Callable[[str], LoadedModel], saved: Callable[[str], Path]
) -> None:
    spec = ModelSpec(source=str(saved(family)))
    described = describe(saved(family), spec).prompts
    for known in (described, loaded(family).prompts, pickle.loads(pickle.dumps(described))):
        assert max(each.max_tokens for each in known.tokenizers) == most
        assert known.cut("a " * (most // 2)) is None
        cut = known.cut("a " * most + "fox")
        assert cut is not None
        assert (cut.max_tokens, cut.lost[-3:]) == (most, "fox")


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_two_prompts_that_differ_only_in_what_is_cut_have_equal_tokens(
    family: str, loaded: Callable[[str], LoadedModel]
) -> None:
    model = loaded(family)
    first, second = ("a " * 75 + end for end in ("fox", "cat"))
    assert [cut and cut.lost for cut in map(model.prompts.cut, (first, second))] == ["fox", "cat"]
    ids = [
        model.pipeline.tokenizer(text, truncation=True, max_length=77).input_ids
        for text in (first, second)
    ]
    assert ids[0] == ids[1]


def test_a_text_encoder_that_is_left_out_sees_nothing() -> None:
    clip, t5 = tiny_models.clip_tokenizer(), tiny_models.t5_tokenizer()
    parts = {"tokenizer": clip, "tokenizer_3": t5}
    with_t5 = limits_of([*parts, "text_encoder", "text_encoder_3"], parts.get, pipeline_class(256))
    without = limits_of([*parts, "text_encoder"], parts.get, pipeline_class(256))
    long = "a " * 80
    assert with_t5.cut(long) is None
    assert without.cut(long) == Cut(80, 75, "a a a a a ")


def test_without_a_known_limit_nothing_is_cut() -> None:
    endless = limits(tiny_models.t5_tokenizer(), most=10**30)
    unknown = limits_of(["tokenizer", "text_encoder"], lambda name: None, pipeline_class())
    assert endless == unknown == PromptLimits()
    assert endless.cut("a " * 10_000) is None


class SlowTokenizer:
    """A tokenizer in Python, which has no JSON and does not say where a token begins."""

    model_max_length = 4

    def __call__(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
        assert not add_special_tokens
        return SimpleNamespace(input_ids=[len(word) for word in text.split()])

    def num_special_tokens_to_add(self) -> int:
        return 1

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def test_a_tokenizer_without_offsets_names_the_lost_tokens() -> None:
    found = limits(SlowTokenizer(), most=4)
    assert found.safe_bytes == 0
    assert found.cut("a bb ccc dddd eeeee") == Cut(5, 3, "4 5")
    assert found.cut("a bb ccc") is None


def test_every_byte_has_a_token_in_the_vocabulary_of_the_built_in_model() -> None:
    (tokenizer,) = BUILTIN.tokenizers
    unknown = tokenizer._tokenizer.token_to_id("<|endoftext|>")
    for text in texts(300):
        assert unknown not in tokenizer._tokenizer.encode(text, add_special_tokens=False).ids


def named(name: str) -> Any:
    return type(name, (pipeline_class(512),), {})


@pytest.mark.parametrize(
    ("name", "around"),
    [
        ("ZImagePipeline", "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"),
        ("Flux2KleinPipeline", "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"),
        ("FluxPipeline", ""),
    ],
)
def test_what_a_class_writes_around_a_prompt_counts_towards_its_limit(
    name: str, around: str
) -> None:
    tokenizer = qwen_tokenizer()
    found = limits_of(["tokenizer", "text_encoder"], lambda part: tokenizer, named(name))
    tokens = len(tokenizer(around).input_ids) if around else 0
    assert [each.max_tokens for each in found.tokenizers] == [512 - tokens]
    assert found.cut("a" * (512 - tokens)) is None
    assert found.cut("a" * (513 - tokens)) == Cut(513 - tokens, 512 - tokens, "a")


def test_a_processor_that_stands_for_a_tokenizer_is_read_through_its_tokenizer() -> None:
    from diffusers import Flux2Pipeline
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    tokenizer = qwen_tokenizer()
    processor = SimpleNamespace(
        tokenizer=tokenizer, apply_chat_template=tokenizer.apply_chat_template
    )
    found = limits_of(["tokenizer", "text_encoder"], lambda name: processor, Flux2Pipeline)
    assert found.tokenizers[0].max_tokens < 512 - len(SYSTEM_MESSAGE.encode())


def test_the_tokenizer_of_a_first_stage_has_a_limit_too() -> None:
    names = ["prior_tokenizer", "prior_text_encoder"]
    found = limits_of(names, lambda name: tiny_models.clip_tokenizer(), pipeline_class())
    assert [each.max_tokens for each in found.tokenizers] == [75]
