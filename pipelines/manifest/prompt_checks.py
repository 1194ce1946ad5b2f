"""Check the prompts of a manifest: their length in tokens, and tags of other programs in them.

Few prompts are tokenised. A text in ASCII has at most one token for each byte, so a short one needs
no further look. Of the others, each word that occurs often is tokenised once, and only a text for
which that does not decide is tokenised as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.models.prompt_reading import PromptReader
from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.diffusion_core.models.prompt_syntax import (
    ANY_SYNTAX,
    DOUBLED,
    SIGNS,
    found_tag,
)
from nightpress.diffusion_core.models.prompts import (
    GROWTH,
    OVERHEAD_TOKENS,
    Cut,
    PromptLimits,
    PromptTokenizer,
)
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.prompt_counts import PromptCounts
from nightpress.pipelines.manifest.prompt_reading import (
    TAG_ALLOWED,
    may_be_read,
    reading_problem,
    tag_problem,
)
from nightpress.pipelines.manifest.row_problems import Mask, RowProblems

MAX_LOST = 80
"""Characters of the lost text that a message shows."""

LENGTH_ALLOWED = ", or set model.prompts.long: cut"

LENGTH_ALLOWED_IN_CHUNKS = f"{LENGTH_ALLOWED} or chunks"
"""The same for models that can read a long text in chunks."""

UNKNOWN = 1 << 32
"""Stands for any number of tokens."""

MAX_WORDS = 1_000_000
"""Distinct words whose number of tokens is remembered."""


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
            if self.spec.reads_chunks:
                self._check_reading(name, texts, problems)
            else:
                cut = cut | self._check_length(name, texts, problems)
            if self.spec.weights == "a1111":
                continue
            found, twice = self._check_syntax(name, texts, problems)
            tagged, doubled = tagged | found, doubled | twice
        return PromptCounts(int(cut.sum()), int(tagged.sum()), int((doubled & ~tagged).sum()))

    def problem(self, text: str) -> str | None:
        """What is wrong with one text, with what a job may do about it; None if it is allowed."""
        if self.spec.weights == "refuse" and (found := found_tag(text)) is not None:
            return tag_problem(*found) + TAG_ALLOWED
        return self.length_problem(text)

    def length_problem(self, text: str) -> str | None:
        """What is wrong with how a text is read whose tags are allowed; None if nothing is."""
        if self.spec.reads_chunks:
            return reading_problem(self.reader, text)
        cut = self.limits.cut(text)
        if cut is None or self.spec.long == "cut":
            return None
        return length_problem(cut) + self.length_allowed

    @property
    def length_allowed(self) -> str:
        """What a job may do about a text that is too long."""
        return LENGTH_ALLOWED_IN_CHUNKS if self.limits.takes_chunks else LENGTH_ALLOWED

    @cached_property
    def reader(self) -> PromptReader:
        """Reads the prompts as sampling will."""
        return PromptReader(self.spec, self.limits)

    def _check_reading(self, name: str, texts: pa.Array, problems: RowProblems) -> None:
        """Add a problem for each text with wrong weights or too many chunks."""
        candidates = np.flatnonzero(~may_be_read(self.reader, texts))
        if not len(candidates):
            return
        encoded = texts.take(pa.array(candidates)).dictionary_encode()
        found = [reading_problem(self.reader, text) for text in encoded.dictionary.to_pylist()]
        numbers = np.full(len(texts), len(found), np.int64)
        numbers[candidates] = np.array(encoded.indices)
        wrong = np.array([*(each is not None for each in found), False])[numbers]
        problems.add(wrong, name, lambda row: str(found[numbers[row]]))

    def _check_length(self, name: str, texts: pa.Array, problems: RowProblems) -> Mask:
        found = self.is_cut(texts)
        if self.spec.long == "refuse":
            problems.add(found, name, lambda row: self._length_problem(texts[row].as_py()))
        return found

    def _length_problem(self, text: str) -> str:
        cut = self.limits.cut(text)
        assert cut is not None  # noqa: S101 - the words alone are too many
        return length_problem(cut) + self.length_allowed

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
            problems.add(found, name, lambda row: self._tag_problem(texts[row].as_py()))
        return found, doubled

    def _tag_problem(self, text: str) -> str:
        found = found_tag(text)
        assert found is not None, text  # noqa: S101 - the same patterns found one
        return tag_problem(*found) + TAG_ALLOWED

    def is_cut(self, texts: pa.Array) -> Mask:
        """Where the model would cut a text; (n,) bool."""
        found = np.zeros(len(texts), np.bool_)
        if self.limits.tokenizers:
            long = np.flatnonzero(~self._is_short(texts))
            if len(long):
                encoded = texts.take(pa.array(long)).dictionary_encode()
                found[long] = self._are_cut(encoded.dictionary)[np.array(encoded.indices)]
        return found

    def _is_short(self, texts: pa.Array) -> Mask:
        """Where a text is missing, or has so few bytes that it certainly fits; (n,) bool."""
        lengths = pc.binary_length(texts)
        few = pc.less_equal(lengths, self.limits.safe_bytes)
        fewer = pc.less_equal(lengths, self.limits.safe_bytes_of_any_text)
        short = pc.and_(few, pc.or_(fewer, pc.string_is_ascii(texts)))
        return np.array(pc.fill_null(short, True))

    def _are_cut(self, texts: pa.Array) -> Mask:
        """Which of these distinct texts the model would cut; (n,) bool."""
        fits, cut = np.zeros(len(texts), np.bool_), np.ones(len(texts), np.bool_)
        for number, tokenizer in enumerate(self.limits.tokenizers):
            fewest, most = self._num_tokens_between(number, tokenizer, texts)
            fits |= most <= tokenizer.max_tokens
            cut &= fewest > tokenizer.max_tokens
        for index in np.flatnonzero(~fits & ~cut).tolist():
            cut[index] = self.limits.cut(texts[index].as_py()) is not None
        return cut & ~fits

    def _num_tokens_between(
        self, number: int, tokenizer: PromptTokenizer, texts: pa.Array
    ) -> tuple[Ints, Ints]:
        """The fewest and the most tokens that each text can have; (n,) each.

        A word that occurs once, such as a number, is not worth its own look.
        """
        if not tokenizer.splits_at_spaces:
            return np.zeros(len(texts), np.int64), np.full(len(texts), UNKNOWN)
        words = pc.ascii_split_whitespace(texts)
        encoded = words.flatten().dictionary_encode()
        indices = np.array(encoded.indices, np.int64)
        distinct = encoded.dictionary
        fewest = np.zeros(len(distinct), np.int64)
        most = _most_tokens(tokenizer, distinct)
        often = np.flatnonzero(np.bincount(indices, minlength=len(distinct)) > 1)
        for index, word in zip(often, distinct.take(pa.array(often)).to_pylist(), strict=True):
            fewest[index] = most[index] = self._tokens_of(number, tokenizer, word)
        offsets = np.array(words.offsets) - words.offsets[0].as_py()
        ends = (np.concatenate([[0], np.cumsum(each[indices])]) for each in (fewest, most))
        low, high = (np.diff(each[offsets]) for each in ends)
        return low, high

    def _tokens_of(self, number: int, tokenizer: PromptTokenizer, word: str) -> int:
        known = self._num_tokens.get((number, word))
        if known is None:
            if len(self._num_tokens) >= MAX_WORDS:
                self._num_tokens.clear()
            known = self._num_tokens[number, word] = tokenizer.count(word)
        return known


def _most_tokens(tokenizer: PromptTokenizer, words: pa.Array) -> Ints:
    """The most tokens that each word can have, going by its bytes; (n,)."""
    if not tokenizer.is_bounded:
        return np.full(len(words), UNKNOWN)
    growth = np.where(np.array(pc.string_is_ascii(words)), 1, GROWTH)
    most: Ints = growth * np.array(pc.binary_length(words), np.int64) + OVERHEAD_TOKENS
    return most


def length_problem(cut: Cut) -> str:
    """What is wrong with a text that is too long."""
    lost = cut.lost if len(cut.lost) <= MAX_LOST else f"{cut.lost[: MAX_LOST - 3]}..."
    return (
        f"{cut.num_tokens:,} tokens, but the model reads only {cut.max_tokens:,}: {lost!r} would "
        "be lost; shorten the text"
    )


def _has_signs(texts: pa.Array) -> bool:
    """Whether any text may have a tag of other programs in it."""
    offsets, data = texts.buffers()[1:]
    if data is None or not len(texts):
        return False
    first, *_, last = np.frombuffer(offsets, np.int32)[texts.offset :][[0, len(texts)]].tolist()
    content = data[first:last].to_pybytes()
    # Looking for one byte is ten times as fast as looking for several.
    return any(sign[-1:] in content and sign in content for sign in SIGNS)
