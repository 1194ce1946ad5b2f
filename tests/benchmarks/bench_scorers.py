"""Milliseconds that each scorer takes for an image, at two sizes, on one thread.

    python tests/benchmarks/bench_scorers.py

Before them stands what every image costs, with scorers or without: its measurements and its
perceptual hash. With `--pairs`, runs with the scorers that come with the extra `scoring` (nsfw,
faces, ocr) are then timed against runs without, in pairs, as `bench_run.py` times them:

    python tests/benchmarks/bench_scorers.py --images 5 --pairs 3 --run-images 64

The images are posters with words and a portrait, scored one by one. CLIP and the classifier have
random weights at the size of ViT-B/32 (151 M) and ViT-B/16 (86 M). Other scorers and folders of
real networks are measured with `--scorer` and a section of a job in YAML:

    python tests/benchmarks/bench_scorers.py --scorer '{scorer: clip, model: models/siglip}'
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter

from nightpress.pipelines.job.scores_section import ScorerSpec
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.loading import load_scorers
from nightpress.pipelines.scoring.measurements import measure
from nightpress.pipelines.scoring.perceptual_hash import perceptual_hash
from nightpress.pipelines.scoring.scorer import ScoredImage, Scorer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from run_pairs import add_run_options, compare_runs
from support import scored_images, tiny_models

HEADLINE = ("Fresh bread", "every morning")


def save_clip(folder: Path) -> Path:
    """A CLIP of the size of ViT-B/32, with random weights and a vocabulary of letters."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    CLIPModel(CLIPConfig()).save_pretrained(folder)
    tiny_models.clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder


def save_classifier(folder: Path) -> Path:
    """A ViT-B/16 with random weights."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    ViTForImageClassification(ViTConfig(num_labels=1000)).save_pretrained(folder)
    ViTImageProcessorPil().save_pretrained(folder)
    return folder


def sections(folder: Path) -> dict[str, object]:
    """The scorers that are measured by default."""
    return {
        "nsfw": {"scorer": "nsfw"},
        "faces": {"scorer": "faces"},
        "ocr": {"scorer": "ocr", "expect": "{headline}"},
        "clip": {"scorer": "clip", "model": str(save_clip(folder / "clip"))},
        "classifier": {"scorer": "classifier", "model": str(save_classifier(folder / "vit"))},
    }


def images(side: int, number: int) -> list[ScoredImage]:
    """Posters with and without words, each with a prompt of its own."""
    portrait = np.asarray(Image.fromarray(scored_images.portrait()).resize((side, side)))
    pixels: list[NDArray[np.uint8]] = [
        scored_images.poster(HEADLINE, side // 11, side) if index % 2 else portrait
        for index in range(number)
    ]
    return [
        scored_images.scored(each, prompt=f"bread {'abc'[index % 3]}", headline=" ".join(HEADLINE))
        for index, each in enumerate(pixels)
    ]


class Measuring:
    """What is measured of every image, in the form of a scorer."""

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """Measure the image and hash it."""
        perceptual_hash(image.pixels)
        return measure(image.pixels)


def measured(scorer: Scorer | Measuring, scored: list[ScoredImage]) -> tuple[float, float]:
    """The medians of the milliseconds that passed, and of those of the CPU."""
    passed, used = [], []
    scorer.score(scored[0])
    for image in scored:
        started, cpu = time.perf_counter(), time.process_time()
        scorer.score(image)
        passed.append(time.perf_counter() - started)
        used.append(time.process_time() - cpu)
    return 1000 * statistics.median(passed), 1000 * statistics.median(used)


def scored_runs(options: argparse.Namespace) -> None:
    """Time pairs of runs without and with scorers."""
    given = {
        "nsfw": {"scorer": "nsfw"},
        "faces": {"scorer": "faces"},
        "text": {"scorer": "ocr", "expect": "{prompt}"},
    }
    compare_runs(options, ("without scorers", "with nsfw, faces and ocr"), {"scores": specs(given)})


def specs(given: Mapping[str, object]) -> dict[str, ScorerSpec]:
    """Sections of scorers, checked."""
    adapter = TypeAdapter[ScorerSpec](ScorerSpec)
    return {name: adapter.validate_python(each) for name, each in given.items()}


def main() -> None:
    """Print one line for each scorer and size, and what scorers cost whole runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20, help="that each scorer is timed on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scorer", action="append", type=yaml.safe_load, default=[])
    add_run_options(parser, pairs=0)
    options = parser.parse_args()
    if options.pairs:
        scored_runs(options)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        chosen: Mapping[str, object] = {
            each.get("model", each["scorer"]): each for each in options.scorer
        }
        given = chosen or sections(Path(folder))
        scorers = load_scorers(specs(given), Fetch(), options.device)
        for name, scorer in {"measurements and hash": Measuring(), **scorers}.items():
            for side in (512, 1024):
                passed, used = measured(scorer, images(side, options.images))
                print(f"{name} at {side}^2: {passed:.1f} ms, of which CPU {used:.1f} ms")


if __name__ == "__main__":
    main()
