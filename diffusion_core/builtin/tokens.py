"""The built-in model's tokenizer: CLIP's kind, a lower-case byte-level BPE, that knows whole words.

Plain BPE gives rare words two tokens or three. Here the merges go on until every word of a list is
one token, so that a word can have a vector of its own. Any other text still passes, in pieces.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
_CLIP_WORDS = (
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # as in Radford et al. 2021
)
Merge = tuple[str, str]


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])


def split_words(texts: Iterable[str]) -> list[str]:
    """The different words of texts in order of first sight, as the tokenizer sees them."""
    splitter, normalizer = _splitter(), _normalizer()
    found: dict[str, None] = {}
    for text in texts:
        parts = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        found.update(dict.fromkeys(word for word, _ in parts))
    return list(found)


def learn_merges(words: Sequence[str]) -> list[Merge]:
    """Merges until every word is one token; each word counts once (Sennrich et al. 2016)."""
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END, continuing_subword_prefix=""))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,  # no limit: more than any list of words here needs
        min_frequency=1,
        initial_alphabet=_letters(),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(sorted(words), trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(pair[0], pair[1]) for pair in merges]


def fill_vocabulary(words: Sequence[str], vocabulary: int) -> list[Merge]:
    """The merges that make one token of each of the first words, as many as there is room for."""
    fits, too_many = 0, len(words) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if len(tokens_of(learn_merges(words[:middle]))) <= vocabulary:
            fits = middle
        else:
            too_many = middle
    return learn_merges(words[:fits])


def apply_merges(word: str, ranks: dict[Merge, int]) -> list[str]:
    """The pieces of a word: the earliest merge first, until none fits."""
    pieces = [*word[:-1], word[-1] + WORD_END]
    while len(pieces) > 1:
        pairs = list(zip(pieces, pieces[1:], strict=False))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined: list[str] = []
        for piece in pieces:
            if joined and (joined[-1], piece) == best:
                joined[-1] += piece
            else:
                joined.append(piece)
        pieces = joined
    return pieces


def tokens_of(merges: Sequence[Merge]) -> list[str]:
    """The vocabulary in order: bytes, bytes at the end of a word, merged pieces, two marks."""
    letters = _letters()
    tokens = letters + [letter + WORD_END for letter in letters]
    return [*dict.fromkeys([*tokens, *("".join(pair) for pair in merges)]), START, END]


def save_tokenizer(merges: Sequence[Merge], folder: Path, max_tokens: int) -> CLIPTokenizer:
    """Write a folder that `CLIPTokenizer.from_pretrained` reads; nothing is unknown to it."""
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens_of(merges))},
        merges=list(merges),
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=max_tokens,
    )
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    compact = json.dumps(json.loads(file.read_text("utf-8")), separators=(",", ":"))
    file.write_text(compact + "\n", encoding="utf-8")
    return tokenizer


def decode_token(token: str) -> str:
    """The text of a token, with bytes that are no text by themselves as `\ufffd`."""
    plain: str = decoders.ByteLevel().decode([token.removesuffix(WORD_END)])
    return plain


def _letters() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())
