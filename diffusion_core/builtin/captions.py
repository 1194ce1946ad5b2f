"""The words of the built-in model: how a concept is captioned, and the tokenizer for it all.

Captions only say what the picture's label and tags say. The tokenizer is CLIP's kind, a lower-case
byte-level BPE, so that a prompt in any script passes, known words or not.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Generator
from transformers import CLIPTokenizer

from diffusion_core.builtin.dataset import Concept

TEMPLATES = (
    "{it}",
    "{it}",
    "{a_it}",
    "{a_it}",
    "a picture of {a_it}",
    "a photo of {a_it}",
    "an icon of {a_it}",
    "a 3d emoji of {a_it}",
    "{a_it} on a white background",
    "{it}, {tags}",
    "{tags}, {it}",
    "{tags}",
)
START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
_CLIP_WORDS = (
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # as in Radford et al. 2021
)


def with_article(label: str) -> str:
    """`apple` -> `an apple`; labels that read as plurals stay as they are."""
    if label.endswith("s") and not label.endswith("ss"):
        return label
    return f"{'an' if label[0].lower() in 'aeiou' else 'a'} {label}"


def own_tags(concept: Concept, generator: Generator) -> str:
    """Three to five of the tags, in random order."""
    order = torch.randperm(len(concept.tags), generator=generator).tolist()
    num = int(torch.randint(3, 6, (1,), generator=generator))
    return ", ".join(concept.tags[i] for i in order[:num])


def caption(concept: Concept, generator: Generator) -> str:
    """One of the ways to ask for this picture, at random."""
    template = TEMPLATES[int(torch.randint(len(TEMPLATES), (1,), generator=generator))]
    label = concept.label
    if not concept.tags:
        template = "{a_it}"
    return template.format(it=label, a_it=with_article(label), tags=own_tags(concept, generator))


def train_tokenizer(texts: Iterable[str], folder: Path, max_tokens: int, vocabulary: int) -> None:
    """Write a `CLIPTokenizer` folder whose merges are learnt from `texts`.

    All 256 bytes are in the vocabulary, inside a word and at its end, so nothing is unknown.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END, continuing_subword_prefix=""))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    pairs = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges
    ]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [letter + WORD_END for letter in letters]
    tokens += [*dict.fromkeys("".join(pair) for pair in pairs), START, END]
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=pairs,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=max_tokens,
    )
    tokenizer.save_pretrained(folder)
