"""How much of a prompt a model's text encoders read, known from its tokenizers alone.

A text encoder reads a fixed number of tokens, and a pipeline drops the rest of a prompt. A prompt
counts as cut if no text encoder of the model sees its end.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from nightpress.diffusion_core.errors import as_model_error
from nightpress.diffusion_core.models import pipeline_folder
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.prompt_chunks import ClipTokens
from nightpress.diffusion_core.models.prompt_templates import template_tokens

OVERHEAD_TOKENS = 2
"""Tokens that a text may have beyond one for each byte: for prefixes, such as that of T5."""

GROWTH = 17
"""The most bytes that normalising makes of one: 11 by NFKC, by UAX 15, and 3 of 2 in lower case."""

UNLIMITED = 100_000
"""A `model_max_length` from here on stands for no limit."""

FIXED_LIMITS: dict[str, dict[str, int]] = {
    "BriaFibo2Pipeline": {"processor": 4096},
    "HunyuanDiTPipeline": {"tokenizer": 77, "tokenizer_2": 256},
    "HunyuanDiTPAGPipeline": {"tokenizer": 77, "tokenizer_2": 256},
    "IFPipeline": {"tokenizer": 77},
    "Kandinsky3Pipeline": {"tokenizer": 128},
    "KandinskyCombinedPipeline": {"tokenizer": 77},
    "LDMTextToImagePipeline": {"tokenizer": 77},
    "LongCatImagePipeline": {"tokenizer": 512},
    "NucleusMoEImagePipeline": {"processor": 1024},
    "PRXPixelPipeline": {"tokenizer": 256},
    "SanaPipeline": {"tokenizer": 299},
    "SanaPAGPipeline": {"tokenizer": 299},
    "SanaSprintPipeline": {"tokenizer": 299},
}
"""Pipelines that name their limits neither in the tokenizer nor in `__call__`, and those of Sana,
whose instruction shares two tokens with the prompt. Read against diffusers 0.42.1."""

ENCODERS = {"tokenizer": "text_encoder", "processor": "text_encoder"} | {
    f"{start}tokenizer{end}": f"{start}text_encoder{end}"
    for start, end in (("", "_2"), ("", "_3"), ("", "_4"), ("prior_", ""))
}
"""What tokenizes prompts in a pipeline -> the network that reads the tokens."""

KEEPS_LENGTH = frozenset(
    {
        "Sequence",
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Lowercase",
        "Strip",
        "StripAccents",
        "Prepend",
        "BertNormalizer",
        "Precompiled",
        "Nmt",
        "Split",
        "ByteLevel",
        "Metaspace",
        "WhitespaceSplit",
        "Whitespace",
        "Punctuation",
        "Digits",
        "BertPreTokenizer",
        "Replace",
        "BPE",
        "Unigram",
        "WordPiece",
        "WordLevel",
    }
)
"""Parts of a tokenizer that give each byte of a normalised text at most one token."""

CLIP_WORDS = r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""The end of the pattern by which CLIP splits a text; no word has white space in it."""


@dataclass(frozen=True)
class Cut:
    """A text that is too long for the model."""

    num_tokens: int
    """Tokens of the whole text, without those that mark its start and end."""
    max_tokens: int
    """The most that the model reads."""
    lost: str
    """The end of the text, which no text encoder sees."""


@dataclass(frozen=True)
class PromptTokenizer:
    """One tokenizer of a model, small enough to be sent to other machines."""

    max_tokens: int
    """Tokens that its text encoder reads, without those that mark start and end."""
    packed: bytes
    """Its JSON, compressed; empty if `slow` stands for it."""
    slow: Any = None
    """A tokenizer of transformers that has no JSON."""
    lowercases: bool = False
    """Whether the pipeline turns prompts into lower case first."""
    is_bounded: bool = False
    """Whether a text in ASCII has at most `OVERHEAD_TOKENS` more tokens than bytes."""
    splits_at_spaces: bool = False
    """Whether a text's tokens are those of its words, one after the other."""
    name: str = ""
    """Its name in the pipeline, such as `tokenizer_2`."""
    clip: ClipTokens | None = None
    """What marks start and end, if it is that of CLIP."""
    vectors: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """First token of a textual inversion -> the tokens of all its vectors."""
    embeddings: Mapping[int, str] = field(default_factory=dict)
    """First token of a textual inversion -> the word in prompts that stands for it."""

    @property
    def safe_bytes(self) -> int:
        """The most bytes of ASCII text that certainly fit."""
        return max(0, self.max_tokens - OVERHEAD_TOKENS) if self.is_bounded else 0

    def count(self, text: str) -> int:
        """The number of tokens of a text, without those that mark start and end."""
        return len(self._encoded(self._prepared(text))[0])

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, one for a textual inversion."""
        return self._encoded(self._prepared(text), one_for_all_vectors=True)[0]

    def cut(self, text: str) -> Cut | None:
        """What is lost of a text; None if all of it is read."""
        prepared = self._prepared(text)
        ids, starts = self._encoded(prepared)
        if len(ids) <= self.max_tokens:
            return None
        if starts:
            same_length = len(prepared) == len(text.strip())
            source = text.strip() if self.lowercases and same_length else prepared
            lost = source[starts[self.max_tokens] :].lstrip()
        else:
            lost = str(self.slow.decode(ids[self.max_tokens :]))
        return Cut(len(ids), self.max_tokens, lost)

    def _prepared(self, text: str) -> str:
        return text.strip().lower() if self.lowercases else text

    def _encoded(
        self, prepared: str, one_for_all_vectors: bool = False
    ) -> tuple[list[int], list[int]]:
        """A text's tokens, and where in it each begins, if the tokenizer knows."""
        if self.slow is not None:
            ids, starts = self.slow(prepared, add_special_tokens=False).input_ids, []
        else:
            encoded = self._tokenizer.encode(prepared, add_special_tokens=False)
            ids, starts = encoded.ids, [start for start, _ in encoded.offsets]
        if not self.vectors or one_for_all_vectors:
            return ids, starts
        counts = [len(self.vectors.get(token, (token,))) for token in ids]
        starts = [start for start, n in zip(starts, counts, strict=False) for _ in range(n)]
        return [each for token in ids for each in self.vectors.get(token, (token,))], starts

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(zlib.decompress(self.packed).decode())


@dataclass(frozen=True)
class PromptLimits:
    """The tokenizers of a model; without any, no limit is known."""

    tokenizers: tuple[PromptTokenizer, ...] = ()
    takes_chunks: bool = False
    """Whether a job may have its prompts read in chunks."""

    @property
    def safe_bytes(self) -> int:
        """The most bytes of ASCII text that certainly fit."""
        return max((each.safe_bytes for each in self.tokenizers), default=0)

    @property
    def safe_bytes_of_any_text(self) -> int:
        """The most bytes of any text that certainly fit."""
        return self.safe_bytes // GROWTH

    def cut(self, text: str) -> Cut | None:
        """What no text encoder sees of a text; None if one of them sees all of it."""
        cuts = []
        for tokenizer in self.tokenizers:
            cut = tokenizer.cut(text)
            if cut is None:
                return None
            cuts.append(cut)
        return min(cuts, key=lambda cut: len(cut.lost), default=None)


def limits_from_folder(
    model: PipelineFolder,
    pipeline_class: Any,
    prepare: Callable[[Any], None] = lambda tokenizer: None,
    words: Sequence[Sequence[str]] = (),
) -> PromptLimits:
    """The limits of a saved model; loads its tokenizers and no weights.

    Args:
        model: its folder.
        pipeline_class: its class.
        prepare: adds the words of textual inversions to a tokenizer.
        words: as for `limits_of`.

    Raises:
        ModelError: a tokenizer cannot be loaded.
    """

    def load(name: str) -> Any:
        import transformers

        library, class_name = model.index[name]
        if library != "transformers":
            return None
        tokenizer_class = getattr(transformers, class_name, transformers.AutoTokenizer)
        with as_model_error(f"{model.path}: cannot load {name}"):
            tokenizer = tokenizer_class.from_pretrained(model.path / name, local_files_only=True)
        prepare(tokenizer)
        return tokenizer

    return limits_of(model.components, load, pipeline_class, words)


def limits_of(
    components: Iterable[str],
    get: Callable[[str], Any],
    pipeline_class: Any,
    words: Sequence[Sequence[str]] = (),
) -> PromptLimits:
    """The limits of a model.

    Args:
        components: names of the model's components.
        get: returns a component that is a tokenizer of transformers, or None if it is another.
        pipeline_class: the pipeline's class.
        words: those that stand for the vectors of each textual inversion.

    Returns:
        One entry for each tokenizer whose text encoder is there; none if one of them has no limit.
    """
    names = set(components)
    if "processor" not in FIXED_LIMITS.get(pipeline_class.__name__, {}):
        names -= {"processor"}  # reads pictures, beside a tokenizer
    found = []
    for name in sorted(names & ENCODERS.keys()):
        if ENCODERS[name] not in names:
            continue
        tokenizer = get(name)
        limit = None if tokenizer is None else _max_length(name, tokenizer, pipeline_class)
        if limit is None:
            return PromptLimits()
        lowercases = hasattr(pipeline_class, "_text_preprocessing")
        with as_model_error(f"{pipeline_class.__name__}: {name}"):
            limit -= template_tokens(pipeline_class, tokenizer)
        plain = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        made = prompt_tokenizer(plain, limit, lowercases)
        found.append(_with_words(replace(made, name=name, clip=_clip_tokens(plain)), plain, words))
    return PromptLimits(tuple(found))


def _max_length(name: str, tokenizer: Any, pipeline_class: Any) -> int | None:
    """Tokens that the pipeline keeps of a prompt, with those at start and end; None for all."""
    fixed = FIXED_LIMITS.get(pipeline_class.__name__, {}).get(name)
    sequence = pipeline_folder.call_default(pipeline_class, "max_sequence_length")
    if fixed is not None:
        return fixed
    if sequence is not None and not type(tokenizer).__name__.startswith("CLIP"):
        return int(sequence)
    own = int(getattr(tokenizer, "tokenizer", tokenizer).model_max_length)
    return own if own < UNLIMITED else None


def _with_words(
    made: PromptTokenizer, tokenizer: Any, words: Sequence[Sequence[str]]
) -> PromptTokenizer:
    """The tokenizer with its textual inversions, of which one byte may be many tokens."""
    if not words:
        return made
    ids = [tuple(tokenizer.convert_tokens_to_ids(list(each))) for each in words]
    return replace(
        made,
        is_bounded=False,
        vectors={each[0]: each for each in ids},
        embeddings={each[0]: word[0] for each, word in zip(ids, words, strict=True)},
    )


def _clip_tokens(tokenizer: Any) -> ClipTokens | None:
    """What a tokenizer of CLIP has besides the tokens of words; None for any other."""
    if not type(tokenizer).__name__.startswith("CLIPTokenizer"):
        return None
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return None if None in marks else ClipTokens(*marks, comma=tokenizer.get_vocab().get(",</w>"))


def packed_tokenizer(text: str) -> bytes:
    """The JSON of a tokenizer as `PromptTokenizer.packed`, which cuts and pads nothing."""
    return _packed(_untruncated(text))


def _untruncated(text: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(text)
    return values | {"truncation": None, "padding": None}


def _packed(values: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(values).encode(), 1)


def prompt_tokenizer(tokenizer: Any, max_length: int, lowercases: bool) -> PromptTokenizer:
    """A tokenizer of transformers, as one of a model.

    Args:
        tokenizer: is not changed.
        max_length: tokens that the pipeline keeps of a prompt, with those at start and end.
        lowercases: whether the pipeline turns prompts into lower case first.
    """
    most = max(1, max_length - tokenizer.num_special_tokens_to_add())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return PromptTokenizer(most, b"", tokenizer, lowercases)
    values = _untruncated(backend.to_str())
    parts = [values[key] for key in ("normalizer", "pre_tokenizer", "model") if values[key]]
    split = json.dumps(values["pre_tokenizer"])
    return PromptTokenizer(
        max_tokens=most,
        packed=_packed(values),
        lowercases=lowercases,
        is_bounded=all(map(_keeps_length, parts)),
        splits_at_spaces='"WhitespaceSplit"' in split or json.dumps(CLIP_WORDS)[1:-1] in split,
    )


def _keeps_length(part: dict[str, Any]) -> bool:
    inner = [*part.get("normalizers", ()), *part.get("pretokenizers", ())]
    short = part["type"] != "Replace" or len(part["content"]) <= 1
    return part["type"] in KEEPS_LENGTH and short and all(map(_keeps_length, inner))
