"""How well an image fits a text, by tiny CLIP and SigLIP models."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models, tiny_scorer_models
from support.scored_images import noise, scored
from transformers import CLIPModel, SiglipModel

from nightpress.diffusion_core.errors import ModelError
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import ClipSpec
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import remarks_of
from nightpress.pipelines.scoring.scorers import saved_network
from nightpress.pipelines.scoring.scorers.clip import ClipScorer

MODELS = {
    "clip": (tiny_scorer_models.save_clip, CLIPModel),
    "siglip": (tiny_scorer_models.save_siglip, SiglipModel),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name) for name, (save, _) in MODELS.items()}


def loaded(folder: Path, device: str = "cpu", **settings: Any) -> ClipScorer:
    return ClipScorer.load(ClipSpec(scorer="clip", model=str(folder), **settings), Fetch(), device)


@pytest.mark.parametrize("name", MODELS)
def test_the_score_is_the_cosine_that_the_network_itself_computes(
    name: str, folders: dict[str, Path], device: str
) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer

    network = MODELS[name][1].from_pretrained(folders[name]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    processor = AutoImageProcessor.from_pretrained(folders[name], backend="pil")
    length = network.config.text_config.max_position_embeddings
    texts = tokenizer("a cat", padding="max_length", max_length=length, return_tensors="pt")
    images = processor(images=noise(1), return_tensors="pt")
    with torch.inference_mode():
        logit = network(**texts, **images).logits_per_image.item()
    bias = network.logit_bias.item() if name == "siglip" else 0.0
    expected = (logit - bias) / network.logit_scale.exp().item()
    score = loaded(folders[name], device).score(scored(noise(1), prompt="a cat"))
    assert score == {"": pytest.approx(expected, abs=2e-5 if device == "cpu" else 1e-3)}


@pytest.mark.parametrize("name", MODELS)
def test_a_score_depends_on_the_image_and_its_text_alone(
    name: str, folders: dict[str, Path]
) -> None:
    images = [scored(noise(seed), prompt=text) for seed in range(3) for text in ("a dog", "sky")]
    first, second = loaded(folders[name]), loaded(folders[name])
    scores = [first.score(image) for image in images]
    assert scores == [second.score(image) for image in reversed(images)][::-1]
    assert len({score[""] for score in scores}) == len(images)


def test_the_text_is_a_template_over_the_columns(folders: dict[str, Path]) -> None:
    scorer = loaded(folders["clip"], text="{style}: {prompt}")
    whole = loaded(folders["clip"])
    image = scored(noise(1), prompt="cat", style="ink")
    assert scorer.score(image) == whole.score(scored(noise(1), prompt="ink: cat"))
    with pytest.raises(ScorerError, match="there is no column 'style'; the columns are: negative"):
        scorer.score(scored(noise(1)))


@pytest.mark.parametrize(("name", "length"), [("clip", 77), ("siglip", 16)])
def test_a_text_that_is_too_long_is_cut_and_that_is_said(
    name: str, length: int, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    scorer = loaded(folders[name])
    scorer.score(scored(noise(1), prompt="ab"))
    assert remarks_of(scorer) == {}
    long = [scored(noise(seed), prompt="ab" * 100 + "xyz"[seed]) for seed in range(3)]
    scores = [scorer.score(image) for image in long]
    assert [*remarks_of(scorer).values()] == [3]
    assert f"only the first {length} tokens were compared" in next(iter(remarks_of(scorer)))
    assert f"only the first {length} are compared" in caplog.text
    assert scores[0] == scorer.score(scored(noise(0), prompt="ab" * 100 + "z"))


def test_the_fingerprint_tells_weights_and_texts_apart_but_not_places(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    def fingerprint(folder: Path, **settings: Any) -> str:
        spec = ClipSpec(scorer="clip", model=str(folder), **settings)
        return ClipScorer.describe(spec, Fetch()).fingerprint

    original = fingerprint(folders["clip"])
    moved = Path(shutil.copytree(folders["clip"], tmp_path / "moved"))
    assert fingerprint(moved) == original == loaded(moved).fingerprint
    assert fingerprint(folders["clip"], text="{caption}") != original
    assert fingerprint(tiny_scorer_models.save_clip(tmp_path / "other", seed=1)) != original
    config = json.loads((moved / "preprocessor_config.json").read_text())
    config["image_mean"] = [0.5, 0.5, 0.5]
    (moved / "preprocessor_config.json").write_text(json.dumps(config))
    assert fingerprint(moved) != original


def test_images_are_resized_by_pillow_even_where_torchvision_is_installed(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.auto import image_processing_auto

    resolve, chosen = image_processing_auto._resolve_backend, []

    def recorded(*arguments: Any) -> str:
        chosen.append(resolve(*arguments))
        return str(chosen[-1])

    monkeypatch.setattr(image_processing_auto, "_resolve_backend", recorded)
    monkeypatch.setattr(image_processing_auto, "is_torchvision_available", lambda: True)
    image_processing_auto.AutoImageProcessor.from_pretrained(folders["clip"])
    assert chosen == ["torchvision"]  # what transformers takes when it is free to choose
    for folder in folders.values():
        assert type(saved_network.load_image_processor(folder)).__name__.endswith("Pil")
    assert set(chosen[1:]) == {"pil"}


def test_the_weights_that_are_counted_are_those_of_the_files(folders: dict[str, Path]) -> None:
    spec = ClipSpec(scorer="clip", model=str(folders["clip"]))
    file = folders["clip"] / "model.safetensors"
    assert ClipScorer.describe(spec, Fetch()).weight_bytes == file.stat().st_size


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "not a saved network: config.json is missing"),
        ("model.safetensors", "no weights without a variant; found: none"),
        ("preprocessor_config.json", "no preprocessor_config.json, which says how images"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(
    missing: str, said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "lacking"))
    (folder / missing).unlink()
    with pytest.raises((ScorerError, ModelError), match=said):
        loaded(folder)


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    tiny_models.clip_text().save_pretrained(tmp_path / "text")
    with pytest.raises(ScorerError, match="of the type 'clip_text_model'; expected CLIP or SigLIP"):
        loaded(tmp_path / "text")
    classifier = tiny_scorer_models.save_classifier(tmp_path / "vit")
    with pytest.raises(ScorerError, match="of the type 'vit'; expected CLIP or SigLIP"):
        loaded(classifier)


def test_weights_that_do_not_fit_or_are_damaged_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "damaged"))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ScorerError, match="damaged"):
        loaded(folder)
    other = tiny_scorer_models.save_siglip(tmp_path / "siglip")
    shutil.copyfile(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ScorerError, match=r"are missing from model\.safetensors"):
        loaded(folder)


def test_pickled_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ScorerError, match="are pickles, and loading a pickle runs code; save the"):
        loaded(folder)
