"""The built-in model's tokenizer: a lower-case byte-level BPE as CLIP has, with whole words.

Ordinary BPE splits rare words into two or three tokens. Here merging continues until every word of
a list is one token, so that each word can have its own vector. Other text is split into pieces.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path

from tokenizers import Regex, decoders, normalizers, pre_tokenizers
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
    """The distinct words of texts, as the tokenizer splits them, in order of first occurrence."""
    splitter, normalizer = _splitter(), _normalizer()
    found: dict[str, None] = {}
    for text in texts:
        parts = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        found.update(dict.fromkeys(word for word, _ in parts))
    return list(found)


def learn_merges(words: Sequence[str]) -> list[Merge]:
    """Learn merges until every word is one token, most frequent pair first.

    Sennrich et al. 2016. Each word counts once and ties go to the pair that sorts first, so that
    the same words always give the same merges, which the trainer of `tokenizers` does not
    guarantee.
    """
    spelled = [[*word[:-1], word[-1] + WORD_END] for word in sorted(set(words))]
    places: dict[Merge, Counter[int]] = defaultdict(Counter)
    for i, pieces in enumerate(spelled):
        for pair in pairwise(pieces):
            places[pair][i] += 1
    queue = [(-found.total(), pair) for pair, found in places.items()]
    heapify(queue)
    merges = []
    while queue:
        count, pair = heappop(queue)
        found = places.pop(pair, Counter())
        if found.total() != -count:  # a stale entry; other merges have changed the count since
            if found:
                places[pair] = found
            continue
        merges.append(pair)
        changed = set()
        for i in found:
            before = spelled[i]
            spelled[i] = join_pair(before, pair)
            removed, added = Counter(pairwise(before)), Counter(pairwise(spelled[i]))
            for other in (removed.keys() | added.keys()) - {pair}:
                places[other][i] += added[other] - removed[other]
                places[other] += Counter()  # removes entries that are zero
                changed.add(other)
        for other in sorted(changed):
            if places[other]:
                heappush(queue, (-places[other].total(), other))
    return merges


def join_pair(pieces: Sequence[str], pair: Merge) -> list[str]:
    """Join every occurrence of a pair of pieces, from the left."""
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def apply_merges(word: str, ranks: dict[Merge, int]) -> list[str]:
    """Split a word into pieces by applying the merges, lowest rank first."""
    pieces = [*word[:-1], word[-1] + WORD_END]
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        pieces = join_pair(pieces, best)
    return pieces


def tokens_of(merges: Sequence[Merge]) -> list[str]:
    """The vocabulary in order: bytes, bytes that end a word, merged pieces, start and end marks."""
    letters = _letters()
    tokens = letters + [letter + WORD_END for letter in letters]
    return [*dict.fromkeys([*tokens, *("".join(pair) for pair in merges)]), START, END]


def save_tokenizer(merges: Sequence[Merge], folder: Path, max_tokens: int) -> CLIPTokenizer:
    """Write a folder that `CLIPTokenizer.from_pretrained` reads; no text is unknown to it."""
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
    """The text of a token; bytes that are not text by themselves become `\ufffd`."""
    plain: str = decoders.ByteLevel().decode([token.removesuffix(WORD_END)])
    return plain


def _letters() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())
