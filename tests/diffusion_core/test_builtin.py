"""The shipped model, used as any diffusers folder is, and the recipe that made it."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from PIL import Image
from torch import Generator, Tensor, nn
from transformers import CLIPTokenizer

from diffusion_core.builtin import architecture, captions, dataset, evaluate, folder, train
from diffusion_core.builtin.concepts import LEFT_OUT, SINGLES, SUBGROUPS
from diffusion_core.builtin.dataset import Concept

SHEET = Path(__file__).with_name("taught_pictures.png")
"""One row of 24 x 24 thumbnails of training pictures, named in the PNG's text."""
APPLE = Concept("1f34e.png", "red apple", ("apple", "fruit", "red", "ripe"), "1f34e")


@pytest.fixture(scope="module")
def pipeline() -> DiffusionPipeline:
    return evaluate.load(folder())


def test_it_is_small_and_safetensors_only() -> None:
    files = [file for file in folder().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 40e6
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md", ".txt"}


def test_its_card_carries_the_licence_of_the_pictures() -> None:
    card = (folder() / "README.md").read_text(encoding="utf-8")
    assert "Copyright (c) Microsoft Corporation" in card
    assert "The above copyright notice and this permission notice shall be included" in card


def test_without_a_size_it_draws_128_by_128(pipeline: DiffusionPipeline) -> None:
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 128
    assert pipeline("a red apple", num_inference_steps=1).images[0].size == (128, 128)


def test_the_same_seed_draws_the_same_picture(pipeline: DiffusionPipeline) -> None:
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


def test_it_draws_what_is_asked_for(pipeline: DiffusionPipeline) -> None:
    """Of 32 training pictures, the named one is nearest far more often than 1 time in 32."""
    labels, references = thumbnails()
    wanted = list(range(0, len(labels), 2))
    prompts = [captions.with_article(labels[i]) for i in wanted]
    pictures = torch.stack(list(evaluate.generate(pipeline, prompts)))
    found = nn.functional.interpolate(pictures, size=24, mode="area")
    rank = evaluate.ranks(found.flatten(1), wanted, references.flatten(1))
    assert (rank == 0).float().mean().item() >= 0.6


def test_a_scheduler_made_from_its_configuration_clips_no_latents(
    pipeline: DiffusionPipeline,
) -> None:
    config = pipeline.scheduler.config
    made = architecture.new_scheduler().config
    settings = {key for key in made | config if not key.startswith("_")}
    assert {key: made[key] for key in settings} == {key: config[key] for key in settings}
    for other in (DDIMScheduler, DDPMScheduler):
        assert other.from_config(config).config.clip_sample is False
        assert other.from_config(config).config.prediction_type == "v_prediction"


def test_the_autoencoder_keeps_a_picture(pipeline: DiffusionPipeline) -> None:
    sheet = nn.functional.interpolate(thumbnails()[1][:4], size=128, mode="bicubic").clamp(-1, 1)
    assert evaluate.autoencoder_psnr(pipeline.vae, sheet).min().item() > 25


def thumbnails() -> tuple[list[str], Tensor]:
    """Labels and (N, 3, 24, 24) in [-1, 1]."""
    with Image.open(SHEET) as sheet:
        labels = sheet.text["labels"].split("; ")
        pixels = np.asarray(sheet.convert("RGB")).reshape(24, len(labels), 24, 3)
    return labels, torch.from_numpy(pixels.copy()).permute(1, 3, 0, 2).float() / 127.5 - 1


def test_a_concept_is_taught_by_name_or_by_subgroup_and_never_twice() -> None:
    assert dataset.is_taught("tiger", "animal-mammal")
    assert not dataset.is_taught("ox", "animal-mammal")
    assert dataset.is_taught("rocket", SUBGROUPS[SUBGROUPS.index("transport-air")])
    assert not dataset.is_taught("flag: Peru", "country-flag")
    assert not SINGLES & LEFT_OUT


def test_the_set_is_built_from_the_two_packages(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGBA", (256, 256), (255, 0, 0, 0)).save(picture, "WEBP", lossless=True)
    emojis = [
        {"label": "tiger", "hexcode": "1F405", "tags": ["cat"], "subgroup": 4},
        {"label": "ox", "hexcode": "1F402", "tags": [], "subgroup": 4},
        {"label": "red heart", "hexcode": "2764-FE0F", "subgroup": 9},
        {"label": "no picture", "hexcode": "0000", "subgroup": 4},
        {"label": "no group", "hexcode": "1F9F0"},
    ]
    groups = {"subgroups": [{"order": 4, "key": "animal-mammal"}, {"order": 9, "key": "heart"}]}
    pack(
        tmp_path / "lobehub-fluent-emoji-3d-1.1.0.tgz",
        {f"package/assets/{c}.webp": picture.getvalue() for c in ("1f405", "1f402", "2764-fe0f")},
    )
    pack(
        tmp_path / "emojibase-data-17.0.0.tgz",
        {
            "package/en/data.json": json.dumps(emojis).encode(),
            "package/en/messages.json": json.dumps(groups).encode(),
        },
    )
    assert dataset.build(tmp_path / "set", cache=tmp_path, size=16) == 2
    assert dataset.read_concepts(tmp_path / "set") == [
        Concept("1f405.png", "tiger", ("cat",), "1f405"),
        Concept("2764.png", "red heart", (), "2764"),
    ]
    with Image.open(tmp_path / "set" / "2764.png") as image:
        assert image.size == (16, 16)
        assert image.getpixel((3, 3)) == (255, 255, 255)  # what is transparent shows the background


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_captions_say_the_label_or_the_tags() -> None:
    generator = Generator().manual_seed(0)
    texts = {captions.caption(APPLE, generator) for _ in range(200)}
    assert {"red apple", "a red apple"} <= texts
    assert all("apple" in text or any(tag in text for tag in APPLE.tags) for text in texts)
    assert len(texts) > 20


def test_a_concept_without_tags_is_called_by_its_label() -> None:
    bare = Concept("0.png", "ghost", (), "0")
    generator = Generator().manual_seed(0)
    assert all("ghost" in captions.caption(bare, generator) for _ in range(100))


@pytest.mark.parametrize(
    ("label", "called"),
    [("apple", "an apple"), ("tiger", "a tiger"), ("grapes", "grapes"), ("glass", "a glass")],
)
def test_articles_fit(label: str, called: str) -> None:
    assert captions.with_article(label) == called


@pytest.mark.parametrize("text", ["a red apple", "ñandú", "日本語", "🐶", "zyx wvu"])
def test_the_tokenizer_loses_nothing_but_case_and_spaces(text: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder() / "tokenizer")
    tokens = tokenizer(text).input_ids
    assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == text
    assert tokens[0] == tokenizer.bos_token_id
    assert tokens[-1] == tokenizer.eos_token_id


def test_whitening_latents_changes_no_decoded_picture() -> None:
    torch.manual_seed(0)
    autoencoder = architecture.new_autoencoder().eval()
    picture = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = autoencoder.encode(picture).latent_dist
        decoded = autoencoder.decode(before.mean).sample
        mean, std = torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.tensor([0.5, 3.0, 1.0, 2.0])
        architecture.whiten_latents(autoencoder, mean, std)
        after = autoencoder.encode(picture).latent_dist
        again = autoencoder.decode(after.mean).sample
    shape = (1, 4, 1, 1)
    expected = (before.mean - mean.view(shape)) / std.view(shape)
    torch.testing.assert_close(after.mean, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.std, before.std / std.view(shape), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again, decoded, atol=1e-4, rtol=1e-4)


def test_a_stopped_stage_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def steps(num: int, stage: train.Stage) -> Tensor:
        layer = stage.modules["layer"]
        for _ in range(num):
            batch = torch.randn(4, 3, generator=stage.generator(worker=0))
            stage.update(layer(batch).square().mean())
            stage.ema.update(stage.parameters)
        return torch.cat([stage.ema.shadow[0].flatten(), layer.weight.detach().flatten()])

    def stage(name: str) -> train.Stage:
        torch.manual_seed(0)
        config = train.StageConfig(minutes=1, batch_size=4, learning_rate=1e-2, warmup_steps=4)
        return train.Stage(nn.ModuleDict({"layer": nn.Linear(3, 2)}), config, tmp_path / name)

    whole = steps(8, stage("whole.pt"))
    first = stage("parts.pt")
    steps(5, first)
    first.save()
    assert torch.equal(steps(3, stage("parts.pt")), whole)


def test_ranks_count_what_lies_nearer() -> None:
    references = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    found = torch.tensor([[0.1], [0.1], [5.0]])
    assert evaluate.ranks(found, [0, 3, 2], references).tolist() == [0, 3, 1]
