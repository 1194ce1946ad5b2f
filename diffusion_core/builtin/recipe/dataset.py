"""Build the training set of the built-in model: npm packages in, WebDataset tars out.

::

    python -m nightpress.diffusion_core.builtin.recipe.dataset --out build/emoji

Each member is `<key>.png`, 128 x 128, and `<key>.json` with `caption`, a list of true captions of
which training draws one at each step, and the facts that they state. The tars are identical byte
for byte wherever they are built: names, order, choices and times depend only on the packages. The
folders `tokenizer/` and `text_encoder/` beside them are made by `words` from the captions.
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
from nightpress.diffusion_core.builtin.recipe.colours import COLOURS, WHITE, border_similarity
from nightpress.diffusion_core.builtin.recipe.counting import is_one_piece
from nightpress.diffusion_core.builtin.recipe.dice import Dice
from nightpress.diffusion_core.builtin.recipe.sources import (
    Concept,
    Drawing,
    read_drawings,
    read_member,
)

NUM_PLAIN, NUM_COLOURED = 3, 3
SHARD_SIZE = 3000
MAX_SIMILARITY = 0.3
"""A background is not used for a drawing if a larger share of its outline has that colour."""
SEED = 1


@dataclass(frozen=True)
class Member:
    """A picture of the set before it is composed: its facts, boxes and captions."""

    key: str
    facts: Facts
    boxes: tuple[layout.Box, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A member of the set as it is read from a tar."""

    key: str
    facts: Facts
    captions: tuple[str, ...]
    png: bytes

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        with Image.open(io.BytesIO(self.png)) as image:
            return np.asarray(image.convert("RGB"))


def held_out(hexcode: str, background: str, count: int) -> bool:
    """Whether the set leaves out this combination of thing, colour and number, as it does 1 in 20.

    A single thing on white is never left out.
    """
    if (background, count) == (WHITE, 1):
        return False
    return Dice("held out", hexcode, background, count).below(20) == 0


def backgrounds(image: Image.Image, dice: Dice) -> list[str]:
    """The colours that an RGBA drawing stands out from, in random order."""
    pixels = np.asarray(image.resize((128, 128), Image.Resampling.LANCZOS))
    names = [name for name in COLOURS if border_similarity(pixels, name) <= MAX_SIMILARITY]
    return dice.shuffled(names)


def is_countable(concept: Concept, image: Image.Image) -> bool:
    """Whether copies can be counted: the drawing is one piece and its name is that of one thing."""
    label = grammar.spoken(concept.label)
    numbers = set(label.split()) & set(grammar.NUMBERS.values())
    return not grammar.is_plural(label) and not numbers and is_one_piece(image)


def variants(plain: Facts, colours: list[str], countable: bool, dice: Dice) -> Iterator[Facts]:
    """The facts of all 12 pictures of one thing in one style, plain ones first.

    Args:
        plain: the facts of the plain picture.
        colours: backgrounds that the drawing stands out from; without white among them, copies are
            never put on white.
        countable: whether there may be several copies.
        dice: makes the choices.
    """
    others = [c for c in colours if c != WHITE] or [WHITE]
    white_first = [WHITE] if WHITE in colours else others
    num_chosen = 0

    def next_colour(count: int, choices: list[str]) -> str:
        """The next colour in turn that is not held out."""
        nonlocal num_chosen
        for i in range(len(choices)):
            colour = choices[(num_chosen + i) % len(choices)]
            if not held_out(plain.hexcode, colour, count):
                break
        else:
            colour = next(c for c in others if not held_out(plain.hexcode, c, count))
        num_chosen += 1
        return colour

    yield from [plain] * NUM_PLAIN
    for _ in range(NUM_COLOURED if countable else NUM_COLOURED + 2):
        yield replace(plain, background=next_colour(1, others))
    for i, count in enumerate(dice.shuffled((2, 3, 4)) if countable else []):
        colour = next_colour(count, white_first if i == 0 else others)
        yield replace(plain, background=colour, count=count)
    positions = dice.shuffled(layout.POSITIONS[1:])[: 2 if countable else 3]
    for i, position in enumerate(positions):
        colour = next_colour(1, [WHITE] if i == 0 else others)
        yield replace(plain, background=colour, position=position)
    size: layout.Size = "small" if dice.below(2) else "large"
    colour = next_colour(1, [WHITE] if dice.below(2) else others)
    yield replace(plain, background=colour, size=size)


def members(drawing: Drawing) -> Iterator[tuple[Member, bytes]]:
    """Every member of one thing in one style, with its PNG file."""
    concept, style = drawing.concept, drawing.style
    image = drawing.render()
    dice = Dice(SEED, concept.hexcode, style)
    plain = Facts(concept.label, concept.hexcode, style)
    all_facts = variants(plain, backgrounds(image, dice), is_countable(concept, image), dice)
    pngs: dict[Facts, bytes] = {}
    for i, facts in enumerate(all_facts):
        if facts.count > 1:
            boxes = layout.copies(facts.count, dice.below(2))
        else:
            boxes = [layout.single(facts.position, facts.size)]
        key = f"{style}-{concept.hexcode}-{i:02d}"
        texts = captions(concept, facts, dice)
        if facts not in pngs:
            pngs[facts] = to_png(layout.compose(image, boxes, facts.background))
        yield Member(key, facts, tuple(boxes), tuple(texts)), pngs[facts]


def to_png(image: Image.Image) -> bytes:
    """Encode an image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def to_json(member: Member) -> bytes:
    """The JSON file of a member: its captions and facts."""
    record = {"caption": member.captions, **asdict(member.facts)}
    return json.dumps(record, ensure_ascii=False).encode()


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar without an owner or a time."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    tar.addfile(info, io.BytesIO(content))


def write_shards(
    out: Path, entries: Iterable[tuple[Member, bytes]], size: int = SHARD_SIZE
) -> dict[str, int]:
    """Write the members in random order to `emoji-000000.tar` and so on.

    Returns:
        The number of members by file name.
    """
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


def draw_all(drawings: list[Drawing]) -> Iterator[tuple[Member, bytes]]:
    """The members of every drawing; prints progress."""
    started_at = time.perf_counter()
    for i, drawing in enumerate(drawings, 1):
        yield from members(drawing)
        if i % 200 == 0 or i == len(drawings):
            seconds = time.perf_counter() - started_at
            print(f"{i} of {len(drawings)} drawings done, {seconds:.0f} s", flush=True)


def read_entries(folder: Path, tars: str = "emoji-*.tar") -> Iterator[Entry]:
    """Every member of a data set, or of some of its tars, in the order of the tars."""
    for shard in sorted(folder.glob(tars)):
        with tarfile.open(shard) as tar:
            png = b""
            for info in tar:
                content = read_member(tar, info.name)
                if info.name.endswith(".png"):
                    png = content
                else:
                    record = json.loads(content)
                    texts = tuple(record.pop("caption"))
                    yield Entry(info.name.removesuffix(".json"), Facts(**record), texts, png)


def build(out: Path, cache: Path) -> dict[str, int]:
    """Build the whole data set; returns the number of members by tar."""
    numbers = write_shards(out, draw_all(read_drawings(cache)))
    texts = {text for entry in read_entries(out) for text in entry.captions}
    words.build_from_package(sorted(texts), out)
    return numbers


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the tars")
    parser.add_argument(
        "--cache", type=Path, default=Path("build/npm"), help="folder for downloaded npm packages"
    )
    arguments = parser.parse_args()
    numbers = build(arguments.out, arguments.cache)
    num_bytes = sum((arguments.out / name).stat().st_size for name in numbers)
    print(f"{sum(numbers.values())} members in {len(numbers)} tars, {num_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
