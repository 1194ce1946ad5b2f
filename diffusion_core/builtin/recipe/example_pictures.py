r"""Draw the input pictures of the example job `jobs/examples/conditioned.yaml`.

::

    python -m nightpress.diffusion_core.builtin.recipe.example_pictures \
        --out jobs/examples/conditioned

`cat.png` and `house.png` are made by the built-in model; the mask and the colour patches are drawn
here.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from nightpress.diffusion_core.builtin import folder
from nightpress.diffusion_core.builtin.recipe.evaluate import generate, load, to_pixels

SIDE = 128
MADE = {
    "cat": ("a cat on a blue background", 3),
    "house": ("a house on a green background", 5),
}
"""Prompt and seed of the pictures that the built-in model makes."""

PALETTE = {
    ".": (255, 255, 255),
    "r": (214, 48, 42),
    "y": (250, 214, 70),
    "b": (66, 133, 244),
    "g": (76, 175, 80),
    "k": (40, 40, 44),
    "o": (240, 140, 40),
    "p": (150, 90, 190),
}

LAYOUTS = {
    "corner": """
        bbbbbbbb
        bbbbbbbb
        bbbbbbbb
        bbbbgbbb
        bbbrrrbb
        bbrrrrrb
        bbrrrrrb
        bbbrrrbb
    """,
    "halves": """
        bbbbbbbb
        bbbyybbb
        bbyyyybb
        bbyyyybb
        ggyyyygg
        gggyyggg
        gggggggg
        gggggggg
    """,
    "heart": """
        ........
        .pp..pp.
        .pppppp.
        .pppppp.
        .pppppp.
        ..pppp..
        ...pp...
        ........
    """,
}
"""Pictures of 8 x 8 patches: a letter of `PALETTE` for each."""


def patches(layout: str) -> Image.Image:
    """Draw a layout as squares of one colour each."""
    rows = [[PALETTE[letter] for letter in row] for row in layout.split()]
    small = Image.fromarray(np.array(rows, np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def mask() -> Image.Image:
    """White where the thing in the middle of a picture is made anew."""
    image = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(image).ellipse((12, 12, SIDE - 13, SIDE - 13), fill=255)
    return image


def made() -> dict[str, Image.Image]:
    """The pictures that the example edits."""
    pipeline, pictures = load(folder()), {}
    for name, (prompt, seed) in MADE.items():
        (image,) = generate(pipeline, [prompt], seed=seed)
        pictures[name] = Image.fromarray(to_pixels(image))
    return pictures


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    drawn = {name: patches(layout) for name, layout in LAYOUTS.items()}
    for name, picture in {**drawn, "mask": mask(), **made()}.items():
        picture.save(arguments.out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
