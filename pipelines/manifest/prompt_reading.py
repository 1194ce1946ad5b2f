"""Check the prompts of jobs that have A1111's weights, or that read long prompts in chunks."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.models.prompt_chunks import BACKTRACK, MAX_CHUNKS
from nightpress.diffusion_core.models.prompt_reading import PromptReader
from nightpress.diffusion_core.models.prompt_syntax import (
    LORA,
    NOT_OF_A1111,
    Syntax,
    found_tag,
)
from nightpress.diffusion_core.models.prompt_weights import PromptSyntaxError
from nightpress.diffusion_core.models.prompts import OVERHEAD_TOKENS
from nightpress.pipelines.manifest.row_problems import Mask

TAG_ALLOWED = ", or set model.prompts.weights: literal"

CHUNKS_ALLOWED = ", or set model.prompts.long: chunks"

SIGNS = r"[()\[\]{<\\＜]|BREAK|AND|embedding:"  # noqa: RUF001
"""Every text that A1111 does not take as it is, or that is refused, has one of these in it."""


def may_be_read(reader: PromptReader, texts: pa.Array) -> Mask:
    """Where a text is missing, or is surely read without a fault; (n,) bool."""
    tokens = min((each.max_tokens for each in reader.limits.tokenizers), default=0)
    most = tokens if reader.spec.long != "chunks" else MAX_CHUNKS * max(0, tokens - BACKTRACK)
    if not all(each.is_bounded for each in reader.limits.tokenizers):
        most = 0
    few = pc.less_equal(pc.binary_length(texts), max(0, most - OVERHEAD_TOKENS))
    sure = pc.and_(few, pc.string_is_ascii(texts))
    if reader.spec.weights == "a1111":
        sure = pc.and_not(sure, pc.match_substring_regex(texts, SIGNS))
    return np.array(pc.fill_null(sure, True))


def reading_problem(reader: PromptReader, text: str) -> str | None:
    """What is wrong with a text, with what a job may do about it; None if nothing is."""
    weighted = reader.spec.weights == "a1111"
    if weighted and (tag := found_tag(text, NOT_OF_A1111)) is not None:
        return tag_problem(*tag) + TAG_ALLOWED
    try:
        number = reader.num_chunks(text)
    except PromptSyntaxError as error:
        return f"{error}{TAG_ALLOWED}"
    if not reader.limits.tokenizers:
        return None
    size = reader.chunk_size - 2
    most, instead = (MAX_CHUNKS, "") if reader.spec.long == "chunks" else (1, CHUNKS_ALLOWED)
    if number <= most:
        return None
    breaks = sum(segment.begins_chunk for segment in reader.segments(text))
    of_them = f" ({breaks} begun by BREAK)" if breaks else ""
    allowed = f"at most {most:,} are allowed" if not instead else "the model reads only 1"
    return (
        f"{reader.num_tokens(text):,} tokens in {number:,} chunks of {size}{of_them}, but "
        f"{allowed}; shorten the text{instead}"
    )


def tag_problem(tag: str, syntax: Syntax) -> str:
    """What is wrong with a text that has a tag of other programs."""
    instead = (
        "name the LoRA in the column lora (see model.row_loras) or in model.loras"
        if syntax is LORA
        else "remove it"
    )
    return f"{tag!r} {syntax.meaning} in other programs, but would be text here; {instead}"
