r"""Make the pictures that the built-in model's LoRA `duotone` is trained on.

::

    python -m nightpress.diffusion_core.builtin.recipe.duotone \
        --data build/emoji --out build/duotone

They are pictures of the data set in shades from navy to cream, by their lightness alone.
"""

import argparse
from itertools import islice
from pathlib import Path

from PIL import Image, ImageOps

from nightpress.diffusion_core.builtin.recipe.dataset import read_entries

NUM_PICTURES = 64
NAVY, CREAM = "#14213d", "#fdf0d5"


def duotone(image: Image.Image) -> Image.Image:
    """The picture in shades from navy, for black, to cream, for white."""
    return ImageOps.colorize(image.convert("L"), NAVY, CREAM)


def build(data: Path, out: Path, num: int = NUM_PICTURES) -> None:
    """Write the first pictures of a data set to a folder, each with its first caption beside it."""
    out.mkdir(parents=True, exist_ok=True)
    for entry in islice(read_entries(data), num):
        duotone(Image.fromarray(entry.pixels())).save(out / f"{entry.key}.png")
        (out / f"{entry.key}.txt").write_text(entry.captions[0], encoding="utf-8")


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data set folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    arguments = parser.parse_args()
    build(arguments.data, arguments.out)


if __name__ == "__main__":
    main()
