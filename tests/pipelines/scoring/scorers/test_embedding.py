"""Vectors of images by tiny CLIP, SigLIP and ViT models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny_models, tiny_scorer_models
from support.scored_images import noise, scored
from transformers import CLIPModel, Siglip2Model, SiglipModel, ViTForImageClassification

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import EmbeddingSpec
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorers.embedding import EmbeddingScorer
from nightpress.pipelines.scoring.scorers.saved_network import image_inputs

MODELS = {
    "clip": (tiny_scorer_models.save_clip, CLIPModel),
    "siglip": (tiny_scorer_models.save_siglip, SiglipModel),
    "naflex": (tiny_scorer_models.save_naflex, Siglip2Model),
    "classifier": (tiny_scorer_models.save_classifier, ViTForImageClassification),
    "vit": (tiny_scorer_models.save_vit, None),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name) for name, (save, _) in MODELS.items()}


def loaded(folder: Path, device: str = "cpu") -> EmbeddingScorer:
    spec = EmbeddingSpec(scorer="embedding", model=str(folder))
    return EmbeddingScorer.load(spec, Fetch(), device)


def features(name: str, folder: Path) -> torch.Tensor:
    """What the network itself says of `noise(1)`."""
    from transformers import AutoImageProcessor, ViTModel

    kind = MODELS[name][1] or ViTModel
    network = kind.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = image_inputs(processor, noise(1), "cpu")
    with torch.inference_mode():
        if name == "classifier":
            return network.vit(**inputs).last_hidden_state[0, 0]
        if name == "vit":
            return network(**inputs).pooler_output[0]
        return network.get_image_features(**inputs).pooler_output[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_vector_is_what_the_network_makes_of_the_image_at_length_1(
    name: str, folders: dict[str, Path], device: str
) -> None:
    expected = features(name, folders[name]).double().numpy()
    vector = loaded(folders[name], device).embed(scored(noise(1)))
    assert vector.dtype == np.float16
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(vector, expected, atol=1e-3 if device == "cpu" else 3e-3)


@pytest.mark.parametrize("name", MODELS)
def test_a_vector_depends_on_the_image_alone(name: str, folders: dict[str, Path]) -> None:
    images = [scored(noise(seed), prompt=text) for seed in range(3) for text in ("a dog", "sky")]
    first, second = loaded(folders[name]), loaded(folders[name])
    vectors = [first.embed(image).tobytes() for image in images]
    assert vectors == [second.embed(image).tobytes() for image in reversed(images)][::-1]
    assert vectors[::2] == vectors[1::2]
    assert len(set(vectors)) == 3


def test_it_gives_no_score(folders: dict[str, Path]) -> None:
    spec = EmbeddingSpec(scorer="embedding", model=str(folders["clip"]))
    info = EmbeddingScorer.describe(spec, Fetch())
    scorer = loaded(folders["clip"])
    assert (info.labels, scorer.score(scored(noise(1)))) == ((), {})
    assert info.fingerprint == scorer.fingerprint
    assert info.weight_bytes > 0


def test_other_weights_are_another_scorer(folders: dict[str, Path], tmp_path: Path) -> None:
    other = loaded(tiny_scorer_models.save_clip(tmp_path / "other", seed=1))
    assert other.fingerprint != loaded(folders["clip"]).fingerprint


def test_a_network_of_texts_is_refused(tmp_path: Path) -> None:
    tiny_models.clip_text().save_pretrained(tmp_path)
    spec = EmbeddingSpec(scorer="embedding", model=str(tmp_path))
    with pytest.raises(ScorerError, match=r"CLIPTextModel.*expected CLIP, SigLIP, or a network of"):
        EmbeddingScorer.describe(spec, Fetch())


def test_a_vector_without_a_direction_is_none(folders: dict[str, Path]) -> None:
    scorer = loaded(folders["clip"])
    with torch.no_grad():
        scorer.network.visual_projection.weight.zero_()
    with pytest.raises(ScorerError, match="a vector that is zero or not finite"):
        scorer.embed(scored(noise(1)))


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    """A classifier has no pooling layer: as a ViTModel it would get a random one."""
    tiny_scorer_models.save_classifier(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["ViTModel"]}))
    spec = EmbeddingSpec(scorer="embedding", model=str(tmp_path))
    with pytest.raises(ScorerError):
        EmbeddingScorer.describe(spec, Fetch())
