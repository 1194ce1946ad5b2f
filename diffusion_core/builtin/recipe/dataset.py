"""Build the training set of the built-in model: npm packages in, WebDataset tars out.

::

    python -m nightpress.diffusion_core.builtin.recipe.dataset --out build/emoji

Each member is `<key>.png`, 128 x 128, and `<key>.json` with `caption`, a list of true captions of
which training draws one at each step, and the facts that they say. The tars are the same, byte for
byte, wherever they are built: names, order, choices and times depend on nothing but the packages.
Beside them lie `tokenizer/` and `text_encoder/`, made by `words` from the captions.
"""

import argparse
import io
import json
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nightpress.diffusion_core.builtin.recipe import grammar, layout, words
from nightpress.diffusion_core.builtin.recipe.captions import Facts, captions
from nightpress.diffusion_core.builtin.recipe.colours import COLOURS, WHITE, border_likeness
from nightpress.diffusion_core.builtin.recipe.counting import is_one_piece
from nightpress.diffusion_core.builtin.recipe.dice import Dice
from nightpress.diffusion_core.builtin.recipe.sources import (
    Concept,
    Picture,
    read_member,
    read_pictures,
)

NUM_PLAIN, NUM_COLOURED = 3, 3
SHARD_SIZE = 3000
MOST_LIKENESS = 0.3
"""Where more of a picture's outline than this looks like a background, it is not put there."""
SEED = 1


@dataclass(frozen=True)
class Member:
    """A picture of the set before it is drawn: the facts, the places, and what is said of it."""

    key: str
    facts: Facts
    boxes: tuple[layout.Box, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A member of the set as it is read back."""

    key: str
    facts: Facts
    captions: tuple[str, ...]
    png: bytes

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        with Image.open(io.BytesIO(self.png)) as image:
            return np.asarray(image.convert("RGB"))


def held_out(hexcode: str, background: str, count: int) -> bool:
    """Whether this thing in this number on this colour is in no picture of the set: 1 in 20.

    One of a thing on white is never held out.
    """
    if (background, count) == (WHITE, 1):
        return False
    return Dice("held out", hexcode, background, count).below(20) == 0


def backgrounds(image: Image.Image, dice: Dice) -> list[str]:
    """The colours that an RGBA picture stands out from, in any order."""
    pixels = np.asarray(image.resize((128, 128), Image.Resampling.LANCZOS))
    names = [name for name in COLOURS if border_likeness(pixels, name) <= MOST_LIKENESS]
    return dice.shuffled(names)


def is_countable(concept: Concept, image: Image.Image) -> bool:
    """Whether copies can be told apart: a picture in one piece, with a name for one thing."""
    label = grammar.spoken(concept.label)
    numbered = set(label.split()) & set(grammar.NUMBERS.values())
    return not grammar.is_plural(label) and not numbered and is_one_piece(image)


def variants(plain: Facts, colours: list[str], countable: bool, dice: Dice) -> Iterator[Facts]:
    """Every picture of one thing in one style: 12 in all, plain ones first.

    `colours` are those that it may stand on; without white, copies only stand on colours.
    """
    others = [c for c in colours if c != WHITE] or [WHITE]
    on_white = [WHITE] if WHITE in colours else others
    taken = 0

    def free(count: int, choices: list[str]) -> str:
        """The next colour in turn that is not held out."""
        nonlocal taken
        for i in range(len(choices)):
            colour = choices[(taken + i) % len(choices)]
            if not held_out(plain.hexcode, colour, count):
                break
        else:
            colour = next(c for c in others if not held_out(plain.hexcode, c, count))
        taken += 1
        return colour

    yield from [plain] * NUM_PLAIN
    for _ in range(NUM_COLOURED if countable else NUM_COLOURED + 2):
        yield replace(plain, background=free(1, others))
    counts = dice.shuffled((2, 3, 4)) if countable else []
    for i, count in enumerate(counts):
        colour = free(count, on_white if i == 0 else others)
        yield replace(plain, background=colour, count=count)
    places = dice.shuffled(layout.POSITIONS[1:])[: 2 if countable else 3]
    for i, place in enumerate(places):
        colour = free(1, [WHITE] if i == 0 else others)
        yield replace(plain, background=colour, position=place)
    small_or_large: layout.Size = "small" if dice.below(2) else "large"
    colour = free(1, [WHITE] if dice.below(2) else others)
    yield replace(plain, background=colour, size=small_or_large)


def members(picture: Picture) -> Iterator[tuple[Member, bytes]]:
    """Every member of one thing in one style, with its PNG."""
    concept, style = picture.concept, picture.style
    image = picture.render()
    dice = Dice(SEED, concept.hexcode, style)
    plain = Facts(concept.label, concept.hexcode, style)
    facts_of = variants(plain, backgrounds(image, dice), is_countable(concept, image), dice)
    drawn: dict[Facts, bytes] = {}
    for i, facts in enumerate(facts_of):
        if facts.count > 1:
            boxes = layout.copies(facts.count, dice.below(2))
        else:
            boxes = [layout.single(facts.position, facts.size)]
        key = f"{style}-{concept.hexcode}-{i:02d}"
        texts = captions(concept, facts, dice)
        if facts not in drawn:
            drawn[facts] = to_png(layout.compose(image, boxes, facts.background))
        yield Member(key, facts, tuple(boxes), tuple(texts)), drawn[facts]


def to_png(image: Image.Image) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def to_json(member: Member) -> bytes:
    """The facts beside a picture."""
    record = {"caption": member.captions, **asdict(member.facts)}
    return json.dumps(record, ensure_ascii=False).encode()


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A plain file that tells nothing of who wrote it or when."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    tar.addfile(info, io.BytesIO(content))


def write_shards(
    out: Path, entries: Iterable[tuple[Member, bytes]], size: int = SHARD_SIZE
) -> dict[str, int]:
    """Write `emoji-000000.tar` and on, members in any order; the number in each by file name."""
    out.mkdir(parents=True, exist_ok=True)
    order = Dice(SEED, "order").shuffled(sorted(entries, key=lambda entry: entry[0].key))
    numbers = {}
    for start in range(0, len(order), size):
        name, part = f"emoji-{start // size:06d}.tar", order[start : start + size]
        with tarfile.open(out / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for member, png in part:
                add_file(tar, f"{member.key}.png", png)
                add_file(tar, f"{member.key}.json", to_json(member))
        numbers[name] = len(part)
    return numbers


def draw_all(pictures: list[Picture]) -> Iterator[tuple[Member, bytes]]:
    """The members of every picture, telling how far it is."""
    began = time.perf_counter()
    for i, picture in enumerate(pictures, 1):
        yield from members(picture)
        if i % 200 == 0 or i == len(pictures):
            seconds = time.perf_counter() - began
            print(f"{i} of {len(pictures)} pictures drawn, {seconds:.0f} s", flush=True)


def read_entries(folder: Path) -> Iterator[Entry]:
    """Every member of a built set, in the order of its tars."""
    for shard in sorted(folder.glob("emoji-*.tar")):
        with tarfile.open(shard) as tar:
            png = b""
            for info in tar:
                content = read_member(tar, info.name)
                if info.name.endswith(".png"):
                    png = content
                else:
                    record = json.loads(content)
                    said = tuple(record.pop("caption"))
                    yield Entry(info.name.removesuffix(".json"), Facts(**record), said, png)


def build(out: Path, cache: Path) -> dict[str, int]:
    """Write the whole set; the number of members by shard."""
    numbers = write_shards(out, draw_all(read_pictures(cache)))
    texts = {text for entry in read_entries(out) for text in entry.captions}
    words.build_from_package(sorted(texts), out)
    return numbers


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the tars")
    parser.add_argument("--cache", type=Path, default=Path("build/npm"), help="where tarballs stay")
    arguments = parser.parse_args()
    numbers = build(arguments.out, arguments.cache)
    num_bytes = sum((arguments.out / name).stat().st_size for name in numbers)
    print(f"{sum(numbers.values())} members in {len(numbers)} tars, {num_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
