"""Check the prompts of a manifest: their length in tokens, and tags of other programs in them.

Few prompts are tokenised. A text in ASCII has at most one token for each byte, so a short one needs
no further look; of the others, each distinct word is tokenised once, and only a text whose words
have too many tokens together is tokenised as a whole.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.models.prompt_syntax import (
    ANY_SYNTAX,
    DOUBLED,
    LORA,
    SIGNS,
    found_tag,
)
from nightpress.diffusion_core.models.prompts import Cut, PromptLimits, PromptsSpec, PromptTokenizer
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.row_problems import Mask, RowProblems

MAX_LOST = 80
"""Characters of the lost text that a message shows."""

MAX_WORDS = 1_000_000
"""Distinct words whose number of tokens is remembered."""


@dataclass(frozen=True)
class PromptCounts:
    """How many rows have a prompt or negative prompt that is not what it seems."""

    num_cut: int = 0
    """Longer than the model reads."""
    num_literal: int = 0
    """With weights or tags of other programs, which are taken as text."""
    num_doubled: int = 0
    """With doubled parentheses, which are taken as text."""

    def __add__(self, other: "PromptCounts") -> "PromptCounts":
        return PromptCounts(*np.add(astuple(self), astuple(other)).tolist())

    def warnings(self) -> list[str]:
        """What a person should know before the run begins."""
        texts = (
            (self.num_cut, "more tokens than the model reads; the end is cut, and recorded"),
            (self.num_literal, "weights or tags of other programs, which are taken as text"),
            (self.num_doubled, "doubled parentheses, as in ((word)), which are taken as text"),
        )
        return [
            f"{plural(number, 'row')} with a prompt that has {text}"
            for number, text in texts
            if number
        ]


@dataclass
class PromptChecker:
    """Checks the prompts of one manifest."""

    spec: PromptsSpec
    limits: PromptLimits
    _num_tokens: dict[tuple[int, str], int] = field(default_factory=dict)
    """Tokens of a word, by the number of the tokenizer and the word."""

    def check(self, columns: Sequence[tuple[str, pa.Array]], problems: RowProblems) -> PromptCounts:
        """Add a problem for each text that the job does not allow; count those that it does.

        Args:
            columns: (name, texts) of the columns that the manifest has; (n,) each.
            problems: receives what is wrong with the rows.
        """
        cut, tagged, doubled = (np.zeros(len(columns[0][1]) if columns else 0, bool),) * 3
        for name, texts in columns:
            cut = cut | self._check_length(name, texts, problems)
            found, twice = self._check_syntax(name, texts, problems)
            tagged, doubled = tagged | found, doubled | twice
        return PromptCounts(int(cut.sum()), int(tagged.sum()), int((doubled & ~tagged).sum()))

    def problem(self, text: str) -> str | None:
        """What is wrong with one text; None if the job allows it."""
        tag = found_tag(text)
        if tag is not None and self.spec.weights == "refuse":
            return tag_problem(text)
        cut = self.limits.cut(text)
        return length_problem(cut) if cut is not None and self.spec.long == "refuse" else None

    def _check_length(self, name: str, texts: pa.Array, problems: RowProblems) -> Mask:
        cuts = self.cuts(texts)
        if not cuts:
            return np.zeros(len(texts), np.bool_)
        found = np.array(pc.is_in(texts, pa.array(list(cuts), pa.string())))
        if self.spec.long == "refuse":
            problems.add(found, name, lambda row: length_problem(cuts[texts[row].as_py()]))
        return found

    def _check_syntax(self, name: str, texts: pa.Array, problems: RowProblems) -> tuple[Mask, Mask]:
        """Where a text has tags of other programs, and where it has doubled parentheses."""
        if not _has_signs(texts):
            none = np.zeros(len(texts), np.bool_)
            return none, none
        found, doubled = (
            np.array(pc.fill_null(pc.match_substring_regex(texts, pattern), False))
            for pattern in (ANY_SYNTAX, DOUBLED)
        )
        if self.spec.weights == "refuse":
            problems.add(found, name, lambda row: tag_problem(texts[row].as_py()))
        return found, doubled

    def cuts(self, texts: pa.Array) -> dict[str, Cut]:
        """The distinct texts that the model would cut, and what it would lose of each."""
        if not self.limits.tokenizers:
            return {}
        lengths = pc.binary_length(texts)
        safe = pc.and_(
            pc.less_equal(lengths, self.limits.safe_bytes),
            pc.or_(
                pc.less_equal(lengths, self.limits.safe_bytes_of_any_text),
                pc.string_is_ascii(texts),
            ),
        )
        long = texts.filter(pc.invert(safe))
        if not len(long):
            return {}
        distinct = pc.unique(long).drop_null()
        for number, tokenizer in enumerate(self.limits.tokenizers):
            if tokenizer.splits_at_spaces and len(distinct):
                num_tokens = self._added_up(number, tokenizer, distinct)
                distinct = distinct.filter(pa.array(num_tokens > tokenizer.max_tokens))
        cuts = ((text, self.limits.cut(text)) for text in distinct.to_pylist())
        return {text: cut for text, cut in cuts if cut is not None}

    def _added_up(self, number: int, tokenizer: PromptTokenizer, texts: pa.Array) -> Ints:
        """The tokens of each text's words together; (n,)."""
        words = pc.ascii_split_whitespace(texts)
        encoded = words.flatten().dictionary_encode()
        known = self._num_tokens
        if len(known) > MAX_WORDS:
            known.clear()
        counts = []
        for word in encoded.dictionary.to_pylist():
            if (number, word) not in known:
                known[number, word] = tokenizer.count(word)
            counts.append(known[number, word])
        ends = np.cumsum(np.array(counts, np.int64)[np.array(encoded.indices)])
        before = np.concatenate([np.zeros(1, np.int64), ends])
        offsets = np.array(words.offsets) - words.offsets[0].as_py()
        sums: Ints = np.diff(before[offsets])
        return sums


def length_problem(cut: Cut) -> str:
    """What is wrong with a text that is too long."""
    lost = cut.lost if len(cut.lost) <= MAX_LOST else f"{cut.lost[: MAX_LOST - 3]}..."
    return (
        f"{cut.num_tokens:,} tokens, but the model reads only {cut.max_tokens:,}: {lost!r} would "
        "be lost; shorten the text, or set model.prompts.long: cut"
    )


def tag_problem(text: str) -> str:
    """What is wrong with a text that has tags of other programs."""
    tag, syntax = found_tag(text) or ("", LORA)
    instead = (
        "name the LoRA in the column lora (see model.row_loras) or in model.loras"
        if syntax is LORA
        else "remove it"
    )
    return (
        f"{tag!r} {syntax.meaning} in other programs, but would be text here; {instead}, or set "
        "model.prompts.weights: literal"
    )


def _has_signs(texts: pa.Array) -> bool:
    """Whether any text may have a tag of other programs in it."""
    offsets, data = texts.buffers()[1:]
    if data is None or not len(texts):
        return False
    first, *_, last = np.frombuffer(offsets, np.int32)[texts.offset :][[0, len(texts)]].tolist()
    content = data[first:last].to_pybytes()
    return any(sign in content for sign in SIGNS)
