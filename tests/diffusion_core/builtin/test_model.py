"""The shipped model as an ordinary diffusers folder, and the functions that evaluate it."""

import contextlib
import importlib
import io
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTokenizer

from nightpress.diffusion_core.builtin import folder
from nightpress.diffusion_core.builtin.recipe import evaluate, grammar, layout, ship
from nightpress.diffusion_core.builtin.recipe.captions import Facts
from nightpress.diffusion_core.builtin.recipe.colours import COLOURS
from nightpress.diffusion_core.builtin.recipe.dataset import Entry, to_png
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams
from nightpress.pipelines.training.spec import read_train_spec

SHEET = Path(__file__).with_name("taught_pictures.png")
"""One row of 24 x 24 thumbnails of training pictures, named in the PNG's text."""


@pytest.fixture(scope="module")
def pipeline() -> DiffusionPipeline:
    return evaluate.load(folder())


def test_it_is_small_and_safetensors_only() -> None:
    files = [file for file in folder().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 40e6
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md", ".txt"}


def test_its_card_contains_the_licence_of_the_pictures() -> None:
    card = (folder() / "README.md").read_text(encoding="utf-8")
    assert "Copyright (c) Microsoft Corporation" in card
    assert "The above copyright notice and this permission notice shall be included" in card


def blocks(language: str) -> list[str]:
    """The code blocks of the model card in a language."""
    card = (folder() / "README.md").read_text(encoding="utf-8")
    inside = card.split("\n```")[1::2]
    return [block.partition("\n")[2] for block in inside if block.partition("\n")[0] == language]


def test_the_python_in_its_card_draws() -> None:
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["picture"].size == (128, 128)
    parts = names["pipeline"].components.values()
    assert {part.dtype for part in parts if isinstance(part, nn.Module)} == {torch.float32}


def test_plain_diffusers_draws_the_pixels_of_nightpress() -> None:
    plain = DiffusionPipeline.from_pretrained(folder())
    generator = torch.Generator().manual_seed(7)
    settings: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}
    picture = plain(["a red apple"], generator=[generator], **settings).images[0]
    model = loading.load(folder(), ModelSpec(), "cpu")
    request, params = ImageRequest("a red apple", "", 7), SamplingParams(128, 128, **settings)
    made = Sampler(model, batch_size=1).sample([request], params).pixels[0]
    np.testing.assert_array_equal(np.asarray(picture), made)


def test_the_commands_in_its_card_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block takes hours, so its programs only print their help, and its jobs are read."""
    lines = [shlex.split(line) for block in blocks("") for line in block.splitlines()]
    card = (folder() / "README.md").read_text(encoding="utf-8")
    lines += [shlex.split(line) for line in re.findall(r"`(python -m [^`]*)`", card)]
    root = folder().resolve().parents[2]
    for line in lines:
        match line:
            case ["python", "-m", module, *options]:
                helped = program_help(importlib.import_module(module), monkeypatch)
                assert all(option in helped for option in options if option.startswith("--"))
            case ["nightpress", "train", job]:
                assert read_train_spec(root / job)
            case ["pip", "install", "-c", constraints, extra]:
                assert (root / constraints).is_file()
                extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
                assert extra.strip(".[]") in extras["project"]["optional-dependencies"]
            case _:
                raise AssertionError(line)
    assert len(lines) == 7


def program_help(program: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", [program.__name__, "--help"])
    with contextlib.redirect_stdout(io.StringIO()) as helped, pytest.raises(SystemExit):
        program.main()
    return helped.getvalue()


def test_the_sizes_in_its_card_are_those_of_the_model(pipeline: DiffusionPipeline) -> None:
    card = (folder() / "README.md").read_text(encoding="utf-8")
    for name in ("vae", "unet", "text_encoder"):
        millions = sum(weight.numel() for weight in getattr(pipeline, name).parameters()) / 1e6
        assert re.search(rf"\| `{name}` \| .* \| {millions:.1f} M \|", card)
    tokenizer = pipeline.tokenizer
    assert f"{len(tokenizer):,} lower-case" in card
    assert f"{tokenizer.model_max_length} tokens per prompt" in card
    assert f"the whole folder has {ship.num_bytes(folder()) / 1e6:.1f} MB" in card
    defaults = json.loads((folder() / "nightpress.json").read_text(encoding="utf-8"))
    advised = f"{defaults['num_inference_steps']} steps and guidance {defaults['guidance_scale']}"
    assert advised in card


def test_the_default_size_is_128_by_128(pipeline: DiffusionPipeline) -> None:
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 128
    assert pipeline("a red apple", num_inference_steps=1).images[0].size == (128, 128)


def test_the_same_seed_gives_the_same_picture(pipeline: DiffusionPipeline) -> None:
    first, again = (
        next(evaluate.generate(pipeline, ["a tiger"], steps=2, seed=7)) for _ in range(2)
    )
    assert torch.equal(first, again)
    other = next(evaluate.generate(pipeline, ["a tiger"], steps=2, seed=8))
    assert not torch.equal(first, other)


@pytest.mark.parametrize("prompt", ["", "ñandú 日本語 🐶", "word " * 200, "\x00\ud7ff"])
def test_any_text_is_a_prompt(pipeline: DiffusionPipeline, prompt: str) -> None:
    picture = next(evaluate.generate(pipeline, [prompt], steps=1))
    assert bool(picture.isfinite().all())


@pytest.mark.slow
def test_it_draws_what_the_prompt_names(pipeline: DiffusionPipeline) -> None:
    """Among 32 training pictures, the named one is nearest far more often than by chance."""
    labels, references = thumbnails()
    wanted = list(range(0, len(labels), 2))
    prompts = [grammar.with_article(labels[i]) for i in wanted]
    pictures = torch.stack(list(evaluate.generate(pipeline, prompts)))
    found = nn.functional.interpolate(pictures, size=24, mode="area")
    rank = evaluate.ranks(found.flatten(1), wanted, references.flatten(1))
    assert (rank == 0).float().mean().item() >= 0.6


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_a_scheduler_made_from_its_configuration_clips_no_latents(
    pipeline: DiffusionPipeline, kind: type[DDIMScheduler | DDPMScheduler]
) -> None:
    made = kind.from_config(pipeline.scheduler.config).config
    assert made.clip_sample is False
    assert made.prediction_type == pipeline.scheduler.config.prediction_type


def test_the_autoencoder_reconstructs_a_picture(pipeline: DiffusionPipeline) -> None:
    sheet = nn.functional.interpolate(thumbnails()[1][:4], size=128, mode="bicubic").clamp(-1, 1)
    assert evaluate.autoencoder_psnr(pipeline.vae, sheet).min().item() > 25


def thumbnails() -> tuple[list[str], Tensor]:
    """Labels and (N, 3, 24, 24) in [-1, 1]."""
    with Image.open(SHEET) as sheet:
        labels = sheet.text["labels"].split("; ")
        pixels = np.asarray(sheet.convert("RGB")).reshape(24, len(labels), 24, 3)
    return labels, torch.from_numpy(pixels.copy()).permute(1, 3, 0, 2).float() / 127.5 - 1


@pytest.mark.parametrize("text", ["a red apple", "ñandú", "日本語", "🐶", "zyx wvu"])
def test_its_tokenizer_loses_only_case_and_spaces(text: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder() / "tokenizer")
    tokens = tokenizer(text).input_ids
    assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == text
    assert tokens[0] == tokenizer.bos_token_id
    assert tokens[-1] == tokenizer.eos_token_id


def test_a_model_that_is_too_large_replaces_nothing(
    pipeline: DiffusionPipeline, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("card")
    with pytest.raises(ship.TooLarge, match="at most 1,000 may ship"):
        ship.ship(folder(), tmp_path / "model", max_bytes=1000)
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["README.md"]


def test_no_configuration_holds_a_local_path() -> None:
    for file in folder().rglob("*.json"):
        assert "_name_or_path" not in json.loads(file.read_text(encoding="utf-8"))


def test_shipping_the_shipped_model_changes_no_weight(
    pipeline: DiffusionPipeline, tmp_path: Path
) -> None:
    size = ship.ship(folder(), tmp_path / "model")
    assert size == ship.num_bytes(tmp_path / "model") < ship.MAX_BYTES
    for file in folder().rglob("*.safetensors"):
        assert (tmp_path / "model" / file.relative_to(folder())).read_bytes() == file.read_bytes()
    assert "_name_or_path" not in (tmp_path / "model" / "model_index.json").read_text()
    config = Path("text_encoder", "config.json")
    shipped = json.loads((tmp_path / "model" / config).read_text())
    assert shipped == json.loads((folder() / config).read_text())
    assert (tmp_path / "model" / "nightpress.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_ranks_count_the_nearer_references() -> None:
    references = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    found = torch.tensor([[0.1], [0.1], [5.0]])
    assert evaluate.ranks(found, [0, 3, 2], references).tolist() == [0, 3, 1]


def composed(shape: str, background: str = "white", count: int = 1) -> Entry:
    """A blue square or a green disc in the layout of the facts."""
    picture = Image.new("RGBA", (64, 64))
    fill = Image.new("L", (64, 64))
    if shape == "square":
        fill.paste(255, (8, 8, 56, 56))
    else:
        yy, xx = np.mgrid[:64, :64]
        fill = Image.fromarray(np.uint8(255 * ((yy - 32) ** 2 + (xx - 32) ** 2 < 20**2)))
    picture.paste((20, 60, 200) if shape == "square" else (20, 160, 60), (0, 0, 64, 64), fill)
    facts = Facts(shape, shape, "fluent-3d", background, count)
    boxes = layout.copies(count, 0) if count > 1 else [layout.single("center", "normal")]
    return Entry(f"{shape}-{background}-{count}", facts, (), to_png(compose(picture, boxes, facts)))


def compose(picture: Image.Image, boxes: list[layout.Box], facts: Facts) -> Image.Image:
    return layout.compose(picture, boxes, facts.background)


def test_the_index_recognises_a_thing_on_any_colour(pipeline: DiffusionPipeline) -> None:
    index = evaluate.ReferenceIndex(pipeline.vae, [composed("square"), composed("disc")])
    entries = [composed("square", "yellow"), composed("disc", "red"), composed("disc")]
    cases = [evaluate.Case(entry.facts, "") for entry in entries]
    pictures = [entry.pixels() for entry in entries]
    assert index.ranks(cases, pictures).tolist() == [0, 0, 0]
    assert index.ranks(cases[::-1], pictures).tolist() == [1, 0, 1]


def test_backgrounds_and_numbers_are_measured_from_pixels() -> None:
    entries = [composed("disc", colour, count) for colour in COLOURS for count in (1, 2, 3, 4)]
    entries = [entry for entry in entries if entry.facts.background != "green"]
    cases = [evaluate.Case(entry.facts, "") for entry in entries]
    pictures = [entry.pixels() for entry in entries]
    assert evaluate.colours_right(cases, pictures) == 1
    assert evaluate.counts_right(cases, pictures) == {1: 1, 2: 1, 3: 1, 4: 1}
    assert evaluate.colours_right(cases, pictures[::-1]) < 0.2
    assert evaluate.counts_right(cases, pictures[::-1])[1] == 0
