"""Chunks: cut where A1111 cuts, and never another reading of a text that fits."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_models

from nightpress.diffusion_core.models.prompt_chunks import (
    BACKTRACK,
    Chunk,
    ClipTokens,
    cut_into_chunks,
)
from nightpress.diffusion_core.models.prompt_reading import PromptReader
from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.diffusion_core.models.prompts import limits_of

CLIP = ClipTokens(start=1000, end=1001, padding=1002, comma=7)
CHUNKS = PromptsSpec(long="chunks", weights="a1111")


def cut(*pieces: tuple[list[int], float, bool], vectors: Any = None) -> list[Chunk]:
    return cut_into_chunks(pieces, 75, CLIP, vectors or {})


def words(chunk: Chunk) -> list[int]:
    """The tokens between the start and the end of a chunk."""
    assert (chunk.tokens[0], len(chunk.tokens), len(chunk.weights)) == (CLIP.start, 77, 77)
    end = chunk.tokens.index(CLIP.end)
    assert set(chunk.tokens[end + 1 :]) <= {CLIP.padding}
    assert chunk.num_read == end + 1
    return list(chunk.tokens[1:end])


def as_published(pieces: list[tuple[list[int], float, bool]]) -> list[list[int]]:
    """The words of each chunk by A1111's `tokenize_line`, spelled out with lists."""
    chunks: list[list[int]] = []
    current: list[int] = []
    comma = -1
    for tokens, _, is_break in pieces:
        if is_break:
            chunks.append(current)
            current, comma = [], -1
        for token in tokens:
            if token == CLIP.comma:
                comma = len(current)
            elif len(current) == 75 and comma != -1 and len(current) - comma <= 20:
                current, moved = current[: comma + 1], current[comma + 1 :]
                chunks.append(current)
                current, comma = moved, -1
            if len(current) == 75:
                chunks.append(current)
                current, comma = [], -1
            current.append(token)
    if current or not chunks:
        chunks.append(current)
    return chunks


PIECES = st.lists(
    st.tuples(
        st.lists(st.sampled_from([1, 2, 3, 4, 5, 6, 7]), max_size=120),
        st.sampled_from([1.0, 1.1, 0.5]),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@given(PIECES)
def test_tokens_are_cut_as_published_and_none_is_lost(
    pieces: list[tuple[list[int], float, bool]],
) -> None:
    chunks = cut(*pieces)
    assert [words(chunk) for chunk in chunks] == as_published(pieces)
    weights = [w for chunk in chunks for w in chunk.weights[1 : chunk.num_read - 1]]
    assert weights == [weight for tokens, weight, _ in pieces for _ in tokens]


def test_what_follows_a_comma_near_the_end_is_moved_to_the_next_chunk() -> None:
    near = [1] * (75 - BACKTRACK) + [7] + [2] * (BACKTRACK + 4)
    assert [len(words(each)) for each in cut((near, 1.0, False))] == [56, 24]
    far = [1] * (74 - BACKTRACK) + [7] + [2] * (BACKTRACK + 4)
    assert [len(words(each)) for each in cut((far, 1.0, False))] == [75, 4]


def test_75_tokens_are_one_chunk_and_break_fills_it_up() -> None:
    assert len(cut(([1] * 75, 1.0, False))) == 1
    assert [words(c) for c in cut(([1], 1.0, False), ([2], 1.0, True))] == [[1], [2]]
    assert [words(c) for c in cut(([1], 1.0, False), ([], 1.0, True))] == [[1]]
    assert [words(c) for c in cut(([], 1.0, False))] == [[]]


def test_the_vectors_of_an_embedding_stay_in_one_chunk() -> None:
    chunks = cut(([1] * 70 + [9] + [2] * 3, 1.2, False), vectors={9: tuple(range(200, 208))})
    assert [len(words(each)) for each in chunks] == [70, 11]
    assert words(chunks[1]) == [*range(200, 208), 2, 2, 2]
    assert chunks[1].weights[1:12] == (1.2,) * 11


def reader(tokenizer: Any, spec: PromptsSpec = CHUNKS) -> PromptReader:
    class Pipeline:
        def __call__(self, prompt: str) -> None: ...

    return PromptReader(
        spec, limits_of(["tokenizer", "text_encoder"], lambda name: tokenizer, Pipeline)
    )


@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"], ids=["sd1", "sd2"])
def test_a_text_that_fits_has_the_tokens_that_the_pipeline_itself_makes_of_it(
    padding: str,
) -> None:
    tokenizer = tiny_models.clip_tokenizer()
    tokenizer.pad_token = padding
    reads, chance = reader(tokenizer), random.Random(5)
    for _ in range(200):
        text = "".join(chance.choices("abc ABC,.!'\n\t é", k=chance.randint(0, 60)))
        ((chunk,),) = reads.chunks(text)
        own = tokenizer(text, padding="max_length", max_length=77, truncation=True)
        assert list(chunk.tokens) == own.input_ids, text
        assert not chunk.is_weighted
        assert chunk.num_read >= sum(own.attention_mask)


def test_chunks_and_tokens_are_counted_without_the_brackets() -> None:
    reads = reader(tiny_models.clip_tokenizer())
    assert reads.num_tokens("(aaa:1.3) [b]") == 4
    assert reads.num_chunks("a " * 75) == 1
    assert reads.num_chunks("a " * 76) == 2
    assert reads.num_chunks("a BREAK b") == 2
    literal = reader(tiny_models.clip_tokenizer(), PromptsSpec(long="chunks", weights="literal"))
    assert literal.num_chunks("a BREAK b") == 1
    assert literal.num_tokens("(a:1.3)") == 7
    assert reader(tiny_models.clip_tokenizer(), PromptsSpec()).num_chunks("a " * 100) == 1
