"""How training reads captions."""

from collections.abc import Callable
from typing import Any

import pytest
from support import tiny_models

from nightpress.diffusion_core.training.denoiser import MAX_T5_TOKENS, TextEncoding


@pytest.mark.parametrize(
    ("tokenizer", "encoder"),
    [
        (tiny_models.clip_tokenizer, tiny_models.clip_text),
        (tiny_models.t5_tokenizer, tiny_models.t5_text),
    ],
)
def test_a_caption_counts_as_cut_exactly_if_tokens_of_it_are_dropped(
    tokenizer: Callable[[], Any], encoder: Callable[[], Any]
) -> None:
    text = TextEncoding(tokenizer(), encoder())
    limit = text.limit()
    cut = []
    for num in range(text.max_tokens // 2 - 5, text.max_tokens + 5):
        caption = "a " * num
        whole = text.tokenizer(caption).input_ids
        assert (limit.cut(caption) is not None) == (len(whole) > text.max_tokens)
        cut.append(limit.cut(caption) is not None)
        assert text.tokenize([caption])[0].shape == (1, text.max_tokens)
    assert {True, False} == set(cut)
    assert text.max_tokens <= MAX_T5_TOKENS
