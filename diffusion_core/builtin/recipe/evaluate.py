r"""Evaluate a model on the data set it was trained on, and draw grids of images.

::

    python -m nightpress.diffusion_core.builtin.recipe.evaluate --data build/emoji
    python -m nightpress.diffusion_core.builtin.recipe.evaluate --grid grid.png \
        --prompts jobs/examples/prompts.txt

The default `--model` is the shipped one. The settings are printed with the figures. Pictures are
compared with their backgrounds made white, so that a colour does not count as part of a thing.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from nightpress.diffusion_core.builtin import folder
from nightpress.diffusion_core.builtin.recipe.captions import Facts, plain_caption
from nightpress.diffusion_core.builtin.recipe.colours import COLOURS, WHITE, nearest_name
from nightpress.diffusion_core.builtin.recipe.counting import (
    background_of,
    count_things,
    foreground,
)
from nightpress.diffusion_core.builtin.recipe.dataset import Entry, held_out, read_entries
from nightpress.diffusion_core.theory.psnr import psnr_db
from nightpress.diffusion_core.theory.spacing import evenly_spaced

NUM_STEPS = 20
GUIDANCE_SCALE = 3.0
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A picture to generate: the facts it should show, and the prompt that states them."""

    facts: Facts
    prompt: str


def load(model: Path) -> Any:
    """Load the pipeline of a folder in float32, without progress bars."""
    pipeline = DiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: Any,
    prompts: Sequence[str],
    batch_size: int = 16,
    steps: int = NUM_STEPS,
    guidance_scale: float = GUIDANCE_SCALE,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Generate one picture (3, H, W) in [-1, 1] per prompt; picture i has seed `seed` + i."""
    for start in range(0, len(prompts), batch_size):
        chunk = list(prompts[start : start + batch_size])
        generators = [Generator().manual_seed(seed + start + i) for i in range(len(chunk))]
        images = pipeline(
            chunk,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=generators,
            output_type="pt",
        ).images
        yield from images * 2 - 1


def to_tensor(pictures: Sequence[Pixels]) -> Tensor:
    """Stack uint8 pictures (H, W, 3) to a tensor (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(image: Tensor) -> Pixels:
    """Convert a picture (3, H, W) in [-1, 1] to uint8 (H, W, 3)."""
    scaled = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    pixels: Pixels = scaled.cpu().numpy()
    return pixels


def on_white(pixels: Pixels) -> Pixels:
    """The picture with its background, of any colour, made white."""
    return np.where(foreground(pixels)[..., None], pixels, np.uint8(255))


@torch.no_grad()
def encode_all(autoencoder: AutoencoderKL, images: Tensor, batch_size: int = 16) -> Tensor:
    """The modes of the latents, (N, C, h, w), of pictures (N, 3, H, W) in [-1, 1]."""
    batches = torch.split(images, batch_size)
    return torch.cat([autoencoder.encode(batch).latent_dist.mode() for batch in batches])


@torch.no_grad()
def autoencoder_psnr(autoencoder: AutoencoderKL, images: Tensor, batch_size: int = 16) -> Tensor:
    """PSNR, (N,) in dB, of pictures (N, 3, H, W) in [-1, 1] that are encoded and decoded."""
    psnrs: list[float] = []
    for batch in torch.split(images, batch_size):
        output = autoencoder.decode(encode_all(autoencoder, batch)).sample.clamp(-1, 1)
        errors = (output - batch).square().mean(dim=(1, 2, 3))
        psnrs += [psnr_db(error, peak=2.0) for error in errors.tolist()]
    return torch.tensor(psnrs)


def ranks(found: Tensor, wanted: Sequence[int], references: Tensor) -> Tensor:
    """For each of `found`, the number of references nearer than the wanted one; 0 is best.

    Args:
        found: (M, D).
        wanted: M indices into `references`.
        references: (N, D).
    """
    distances = torch.cdist(found, references)
    own = distances[torch.arange(len(found)), torch.tensor(list(wanted))]
    return (distances < own[:, None]).sum(dim=1)


def plain_entries(entries: Sequence[Entry]) -> list[Entry]:
    """One plain picture per thing and style, ordered by key, to compare generated pictures with."""
    first: dict[Facts, Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.key):
        if entry.facts.is_plain:
            first.setdefault(entry.facts, entry)
    return list(first.values())


def taught_cases(entries: Sequence[Entry], num: int) -> list[Case]:
    """Single centred things of normal size on coloured backgrounds, as the data set has them."""
    facts = [e.facts for e in entries if e.facts.background != WHITE and e.facts.count == 1]
    centred = [f for f in facts if f.position == "center" and f.size == "normal"]
    centred.sort(key=lambda f: (f.background, f.hexcode, f.style))
    return [Case(f, plain_caption(f)) for f in evenly_spaced(centred, num)]


def counted_cases(entries: Sequence[Entry], num: int) -> list[Case]:
    """Equally many cases of one to four things, on any background, of things that have copies."""
    several = {e.facts for e in entries if e.facts.count > 1}
    copied = {(f.hexcode, f.style) for f in several}
    ones = {
        e.facts for e in entries if e.facts.is_plain and (e.facts.hexcode, e.facts.style) in copied
    }
    chosen: list[Facts] = []
    for count in (1, 2, 3, 4):
        alike = [f for f in several | ones if f.count == count]
        alike.sort(key=lambda f: (f.hexcode, f.style, f.background))
        chosen += evenly_spaced(alike, num // 4)
    return [Case(f, plain_caption(f)) for f in chosen]


def unseen_cases(entries: Sequence[Entry], num: int) -> list[Case]:
    """Combinations of thing, colour and number that the data set holds out, in Fluent's style."""
    several = [e.facts for e in entries if e.facts.count > 1 and e.facts.style == "fluent-3d"]
    things = {f.hexcode: replace(f, background=WHITE, count=1) for f in several}
    cases = [
        replace(thing, background=colour, count=count)
        for code, thing in sorted(things.items())
        for colour in COLOURS
        for count in (1, 2, 3, 4)
        if held_out(code, colour, count) and colour != WHITE
    ]
    return [Case(f, plain_caption(f)) for f in evenly_spaced(cases, num)]


class ReferenceIndex:
    """Latents of the plain picture of every thing in both styles; ranks pictures among them."""

    def __init__(self, autoencoder: AutoencoderKL, plain: Sequence[Entry]) -> None:
        self._autoencoder = autoencoder
        self._index: dict[str, dict[str, int]] = {"fluent-3d": {}, "noto": {}}
        groups: dict[str, list[Pixels]] = {"fluent-3d": [], "noto": []}
        for entry in plain:
            style = entry.facts.style
            self._index[style][entry.facts.hexcode] = len(groups[style])
            groups[style].append(on_white(entry.pixels()))
        self._latents = {
            style: encode_all(autoencoder, to_tensor(pixels)).flatten(1)
            for style, pixels in groups.items()
            if pixels
        }

    def ranks(self, cases: Sequence[Case], pictures: Sequence[Pixels]) -> Tensor:
        """For each picture, the number of references nearer than the wanted one; 0 is best."""
        found = encode_all(self._autoencoder, to_tensor([on_white(p) for p in pictures]))
        rows = []
        for case, latents in zip(cases, found.flatten(1), strict=True):
            own = self._index[case.facts.style][case.facts.hexcode]
            rows.append(ranks(latents[None], [own], self._latents[case.facts.style]))
        return torch.cat(rows)


def colours_right(cases: Sequence[Case], pictures: Sequence[Pixels]) -> float:
    """The share of pictures whose background is nearest to the wanted colour."""
    right = [
        nearest_name(background_of(p)) == c.facts.background
        for c, p in zip(cases, pictures, strict=True)
    ]
    return float(np.mean(right))


def counts_right(cases: Sequence[Case], pictures: Sequence[Pixels]) -> dict[int, float]:
    """The share of pictures with the wanted number of things, by that number."""
    right: dict[int, list[bool]] = {}
    for case, pixels in zip(cases, pictures, strict=True):
        number = case.facts.count
        right.setdefault(number, []).append(count_things(pixels) == number)
    return {number: float(np.mean(found)) for number, found in sorted(right.items())}


def seconds_for_one(pipeline: Any, num: int = 8, **settings: Any) -> float:
    """Median wall seconds to generate a single picture, after a warm-up call."""
    times = []
    for i in range(num + 1):
        started_at = time.perf_counter()
        list(generate(pipeline, ["a red apple"], seed=i, **settings))
        times.append(time.perf_counter() - started_at)
    return float(np.median(times[1:]))


def grid(images: Tensor, columns: int) -> Image.Image:
    """Arrange pictures (N, 3, H, W) in [-1, 1] in rows."""
    pixels = [to_pixels(image) for image in images]
    height, width = pixels[0].shape[:2]
    rows = -(-len(pixels) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, picture in enumerate(pixels):
        sheet.paste(Image.fromarray(picture), (i % columns * width, i // columns * height))
    return sheet


def measure(pipeline: Any, data: Path, num: int, **settings: Any) -> Iterator[str]:
    """Yield every figure as a line of text, as soon as it is known."""
    entries = list(read_entries(data))
    plain = plain_entries(entries)
    index = ReferenceIndex(pipeline.vae, plain)
    yield from _autoencoder_lines(pipeline.vae, entries, plain)
    one = seconds_for_one(pipeline, **settings)
    yield f"seconds for one image alone: {one:.2f} ({torch.get_num_threads()} threads, float32)"

    def draw(cases: Sequence[Case]) -> list[Pixels]:
        prompts = [case.prompt for case in cases]
        return [to_pixels(image) for image in generate(pipeline, prompts, **settings)]

    for style in ("fluent-3d", "noto"):
        facts = [e.facts for e in plain if e.facts.style == style]
        cases = [Case(f, plain_caption(f)) for f in evenly_spaced(facts, num // 2)]
        yield _alignment_line(f"{style}, on white", index.ranks(cases, draw(cases)), len(facts))
    cases = taught_cases(entries, num // 2)
    pictures = draw(cases)
    yield _alignment_line("on colours", index.ranks(cases, pictures), len(plain) // 2)
    yield f"background right, {len(cases)} captions: {colours_right(cases, pictures):.1%}"
    cases = counted_cases(entries, num // 2)
    yield _counts_line(f"number right, {len(cases)} captions", counts_right(cases, draw(cases)))
    yield from _unseen_lines(index, unseen_cases(entries, num // 2), draw)


def _autoencoder_lines(
    autoencoder: AutoencoderKL, entries: Sequence[Entry], plain: Sequence[Entry]
) -> Iterator[str]:
    sample = evenly_spaced(entries, 1024)
    for name, some in (("plain pictures", plain), ("of all pictures", sample)):
        psnr = autoencoder_psnr(autoencoder, to_tensor([entry.pixels() for entry in some]))
        yield f"autoencoder PSNR over {len(some)} {name}: {psnr.mean():.2f} dB"
    real = [e for e in evenly_spaced(entries, 2048) if e.facts.position == "center"]
    cases = [Case(e.facts, "") for e in real]
    pixels = [entry.pixels() for entry in real]
    yield f"background measure on {len(real)} real pictures: {colours_right(cases, pixels):.1%}"
    yield _counts_line(f"counter on {len(real)} real pictures", counts_right(cases, pixels))


def _unseen_lines(index: ReferenceIndex, cases: Sequence[Case], draw: Any) -> Iterator[str]:
    pictures = draw(cases)
    what = f"held-out combinations of thing, colour and number, {len(cases)} captions"
    yield f"{what}: background right {colours_right(cases, pictures):.1%}"
    yield _counts_line(f"{what}: number right", counts_right(cases, pictures))
    single = [(c, p) for c, p in zip(cases, pictures, strict=True) if c.facts.count == 1]
    if single:
        rank = index.ranks([c for c, _ in single], [p for _, p in single])
        yield _alignment_line("of one thing in a held-out colour", rank)


def _alignment_line(what: str, rank: Tensor, num: int | None = None) -> str:
    top1, top5 = (rank < 1).float().mean().item(), (rank < 5).float().mean().item()
    among = f" among {num}" if num else ""
    return (
        f"nearest picture{among} is the named one, {len(rank)} captions {what}: "
        f"top-1 {top1:.1%}, top-5 {top5:.1%}"
    )


def _counts_line(what: str, right: dict[int, float]) -> str:
    by_number = ", ".join(f"{number}: {share:.1%}" for number, share in right.items())
    return f"{what}: {np.mean(list(right.values())):.1%} ({by_number})"


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=folder(), help="pipeline folder")
    parser.add_argument("--data", type=Path, help="data set folder; print the figures")
    parser.add_argument(
        "--captions", type=int, default=256, help="captions; each figure uses half of them"
    )
    parser.add_argument("--grid", type=Path, help="PNG to write with an image per prompt")
    parser.add_argument("--prompts", type=Path, help="text file with one prompt per line")
    parser.add_argument("--columns", type=int, default=8, help="images per row of the grid")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="denoising steps")
    parser.add_argument(
        "--guidance-scale", type=float, default=GUIDANCE_SCALE, help="guidance scale"
    )
    arguments = parser.parse_args()
    if bool(arguments.grid) != bool(arguments.prompts):
        parser.error("--grid and --prompts must be used together")
    pipeline = load(arguments.model)
    settings = {"steps": arguments.steps, "guidance_scale": arguments.guidance_scale}
    print(f"{arguments.steps} steps, guidance {arguments.guidance_scale}")
    if arguments.data:
        for line in measure(pipeline, arguments.data, arguments.captions, **settings):
            print(line, flush=True)
    if arguments.grid and arguments.prompts:
        prompts = arguments.prompts.read_text(encoding="utf-8").splitlines()
        images = torch.stack(list(generate(pipeline, prompts, **settings)))
        grid(images, arguments.columns).save(arguments.grid)


if __name__ == "__main__":
    main()
