"""A prompt as chunks of tokens, each read by a CLIP text encoder on its own.

The rules are those of AUTOMATIC1111's stable-diffusion-webui, `TextConditionalModel.tokenize_line`
in `modules/sd_hijack_clip.py`, with its default of 20 tokens for "Prompt word wrap length limit": a
chunk holds 75 tokens; where the text goes on, what follows the last comma is moved to the next
chunk if it is at most 20 tokens; `BREAK` ends a chunk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BACKTRACK = 20
"""How many tokens before the end of a chunk a comma may stand and end the chunk there."""

MAX_CHUNKS = 20
"""The most chunks that a prompt may have: 1,500 tokens, as a rule 5,000 characters or more."""

Pieces = Sequence[tuple[Sequence[int], float, bool]]
"""Tokens, their weight, and whether they begin a new chunk."""


@dataclass(frozen=True)
class ClipTokens:
    """What a CLIP tokenizer has besides the tokens of words."""

    start: int
    end: int
    padding: int
    comma: int | None
    """A comma that ends a word; None if the vocabulary has none."""


@dataclass(frozen=True)
class Chunk:
    """The tokens of one call of a text encoder, padded; and the weight of each."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    num_read: int
    """How many tokens are no padding."""

    @property
    def is_weighted(self) -> bool:
        """Whether any token has a weight other than 1."""
        return any(weight != 1 for weight in self.weights)


@dataclass
class _Cutter:
    """Fills one chunk after the other."""

    length: int
    clip: ClipTokens
    chunks: list[Chunk] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    last_comma: int | None = None
    """Where in `tokens` the last comma stands, if there is one."""

    def add(self, token: int, weight: float, vectors: Sequence[int]) -> None:
        """Add a token, or all that stand for it.

        Args:
            vectors: the tokens of the vectors of a textual inversion; otherwise the token alone.
        """
        if token == self.clip.comma:
            self.last_comma = len(self.tokens)
        elif len(self.tokens) == self.length and self._is_near(self.last_comma):
            self._end_after(int(self.last_comma or 0) + 1)
        if len(self.tokens) + len(vectors) > self.length:
            self.end()
        self.tokens += vectors
        self.weights += [weight] * len(vectors)

    def _is_near(self, comma: int | None) -> bool:
        return comma is not None and len(self.tokens) - comma <= BACKTRACK

    def _end_after(self, place: int) -> None:
        """End the chunk at a place, and begin the next with what stands behind it."""
        moved = self.tokens[place:], self.weights[place:]
        del self.tokens[place:], self.weights[place:]
        self.end()
        self.tokens, self.weights = moved

    def end(self) -> None:
        """End the chunk: the start token, at most `length` tokens, the end token, padding."""
        missing = self.length - len(self.tokens)
        tokens = (self.clip.start, *self.tokens, self.clip.end, *[self.clip.padding] * missing)
        weights = (1.0, *self.weights, 1.0, *[1.0] * missing)
        self.chunks.append(Chunk(tokens, weights, len(self.tokens) + 2))
        self.tokens, self.weights, self.last_comma = [], [], None


def cut_into_chunks(
    pieces: Pieces,
    length: int,
    clip: ClipTokens,
    vectors: Mapping[int, Sequence[int]],
) -> list[Chunk]:
    """Cut tokens into chunks.

    Args:
        pieces: the tokens of a prompt.
        length: of a chunk in tokens, without those that mark start and end.
        clip: of the tokenizer.
        vectors: token -> the tokens that stand for it, of textual inversions with several vectors.

    Returns:
        At least one chunk; each has `length + 2` tokens.
    """
    cutter = _Cutter(length, clip)
    for tokens, weight, begins_chunk in pieces:
        if begins_chunk:
            cutter.end()
        for token in tokens:
            cutter.add(token, weight, vectors.get(token, (token,)))
    if cutter.tokens or not cutter.chunks:
        cutter.end()
    return cutter.chunks
