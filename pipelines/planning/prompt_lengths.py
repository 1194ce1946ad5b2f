"""How long prompts are, roughly, so that those of as many chunks are planned next to each other.

Batches are cut by the exact number, which needs the model's tokenizers. A plan must be the same
wherever a part of it is written again, also without them, so it is sorted by an estimate.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.models.family_rules import guidance_off_at
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.rows import Rows

WORDS = r"\pL+|\pN|[^\s\pL\pN]+"
"""What CLIP makes one token or more of."""

TOKENS_PER_WORD = 1.15
"""Common English words are one token, rarer ones several; a rough guess, which decides no pixel."""

CHUNK_TOKENS = 75


def estimated_chunks(rows: Rows, pipeline: str) -> Ints:
    """About how many chunks the prompts of each row have; (n,).

    Args:
        rows: their negative prompts count where there is guidance.
        pipeline: name of the pipeline's class.
    """
    guided = rows.guidance_scale > guidance_off_at(pipeline)
    negative = np.where(guided, _chunks(rows.negative_prompts), 1)
    return np.maximum(_chunks(rows.prompts), negative)


def _chunks(texts: pa.Array) -> Ints:
    words = np.array(pc.count_substring_regex(texts, WORDS), np.int64)
    breaks = np.array(pc.count_substring(texts, "BREAK"), np.int64)
    chunks: Ints = np.ceil(words * TOKENS_PER_WORD / CHUNK_TOKENS).astype(np.int64)
    return np.maximum(chunks, 1) + breaks
