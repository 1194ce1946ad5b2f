"""How well an image fits a text, by tiny CLIP and SigLIP models."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models, tiny_scorer_models
from support.scored_images import noise, scored
from transformers import CLIPModel, Siglip2Model, SiglipModel

from nightpress.diffusion_core.errors import ModelError
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import ClipSpec
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import remarks_of
from nightpress.pipelines.scoring.scorers.clip import ClipScorer
from nightpress.pipelines.scoring.scorers.saved_network import SavedNetwork

MODELS = {
    "clip": (tiny_scorer_models.save_clip, CLIPModel),
    "siglip": (tiny_scorer_models.save_siglip, SiglipModel),
    "naflex": (tiny_scorer_models.save_naflex, Siglip2Model),
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
    bias = 0.0 if name == "clip" else network.logit_bias.item()
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
    name: str, length: int, folders: dict[str, Path]
) -> None:
    scorer = loaded(folders[name])
    scorer.score(scored(noise(1), prompt="ab"))
    assert remarks_of(scorer) == {}
    long = [scored(noise(seed), prompt="ab" * 100 + "xyz"[seed]) for seed in range(3)]
    scores = [scorer.score(image) for image in long]
    assert [*remarks_of(scorer).values()] == [3]
    assert f"only the first {length} tokens were compared" in next(iter(remarks_of(scorer)))
    assert scores[0] == scorer.score(scored(noise(0), prompt="ab" * 100 + "z"))


def test_a_tokenizer_that_reads_fewer_tokens_than_the_network_decides(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "short"))
    tokenizer = tiny_models.clip_tokenizer()
    tokenizer.model_max_length = 12
    tokenizer.save_pretrained(folder)
    scorer = loaded(folder)
    ten, eleven = (scorer.score(scored(noise(1), prompt="a " * number)) for number in (10, 11))
    assert ten == eleven
    assert [*remarks_of(scorer).values()] == [1]


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
        processor = SavedNetwork.open(folder, lambda *_: None).image_processor()
        assert type(processor).__name__.endswith("Pil")
    assert set(chosen[1:]) == {"pil"}


def test_the_bytes_of_the_loaded_weights_are_known(folders: dict[str, Path]) -> None:
    spec = ClipSpec(scorer="clip", model=str(folders["clip"]))
    weights = CLIPModel.from_pretrained(folders["clip"]).parameters()
    assert ClipScorer.describe(spec, Fetch()).weight_bytes == 4 * sum(w.numel() for w in weights)


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


def test_a_folder_without_its_tokenizer_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "lacking"))
    for file in folder.glob("token*"):
        file.unlink()
    said = r"is missing; expected tokenizer\.json or vocab\.json and merges\.txt"
    with pytest.raises(ScorerError, match=said):
        ClipScorer.describe(ClipSpec(scorer="clip", model=str(folder)), Fetch())


def test_a_token_that_the_network_does_not_know_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "other"))
    tokenizer = tiny_models.clip_tokenizer()
    tokenizer.add_tokens(["<blue>"])
    tokenizer.save_pretrained(folder)
    scorer = loaded(folder)
    scorer.score(scored(noise(1), prompt="blue"))
    with pytest.raises(ScorerError, match=r"a token that the network of \d+ tokens does not know"):
        scorer.score(scored(noise(1), prompt="a <blue> bird"))


def test_an_image_processor_of_another_model_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "other"))
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_center_crop": False}))
    loaded(folder)  # a square image has the same size without cutting
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"shortest_edge": 48}}))
    with pytest.raises(ScorerError, match=r"does not take what belongs to it: .*image size"):
        loaded(folder)


def test_older_and_newer_layouts_of_the_image_processor_give_the_same_scores(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    older, newer = (
        Path(shutil.copytree(folders["clip"], tmp_path / name)) for name in ("older", "newer")
    )
    settings = json.loads((older / "preprocessor_config.json").read_text())
    (newer / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    (newer / "preprocessor_config.json").unlink()
    del settings["image_processor_type"]
    settings |= {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32}
    (older / "preprocessor_config.json").write_text(json.dumps(settings))
    scores = [loaded(each).score(scored(noise(1))) for each in (folders["clip"], older, newer)]
    assert scores[0] == scores[1] == scores[2]


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
