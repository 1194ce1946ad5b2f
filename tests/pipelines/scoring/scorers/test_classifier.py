"""The labels of tiny image classifiers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_scorer_models
from support.scored_images import noise, scored
from support.tiny_scorer_models import LABELS
from transformers import ViTForImageClassification

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import ClassifierSpec
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorers.classifier import ClassifierScorer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scorer_models.save_classifier(tmp_path_factory.mktemp("vit"))


def spec_of(folder: Path, **settings: Any) -> ClassifierSpec:
    return ClassifierSpec(scorer="classifier", model=str(folder), **settings)


def loaded(folder: Path, device: str = "cpu", **settings: Any) -> ClassifierScorer:
    return ClassifierScorer.load(spec_of(folder, **settings), Fetch(), device)


def logits_of(folder: Path) -> torch.Tensor:
    from transformers import AutoImageProcessor

    network = ViTForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.inference_mode():
        logits: torch.Tensor = network(**processor(images=noise(1), return_tensors="pt")).logits[0]
    return logits


def test_each_label_gets_its_probability(folder: Path, device: str) -> None:
    scores = loaded(folder, device).score(scored(noise(1)))
    expected = logits_of(folder).softmax(0).tolist()
    assert tuple(scores) == LABELS == ClassifierScorer.describe(spec_of(folder), Fetch()).labels
    assert list(scores.values()) == pytest.approx(expected, abs=1e-6 if device == "cpu" else 1e-3)
    assert sum(scores.values()) == pytest.approx(1.0)


def test_labels_that_do_not_exclude_each_other_have_probabilities_of_their_own(
    tmp_path: Path,
) -> None:
    folder = tiny_scorer_models.save_classifier(tmp_path, problem_type="multi_label_classification")
    scores = loaded(folder).score(scored(noise(1)))
    assert list(scores.values()) == pytest.approx(logits_of(folder).sigmoid().tolist(), abs=1e-6)


def test_a_regression_gives_its_value_as_it_is(tmp_path: Path) -> None:
    folder = tiny_scorer_models.save_classifier(tmp_path, id2label={0: "beauty"})
    scores = loaded(folder).score(scored(noise(1)))
    assert scores == {"beauty": pytest.approx(logits_of(folder).item(), abs=1e-6)}
    assert scores["beauty"] != 1.0  # which the softmax of a single value always is


def test_a_score_does_not_depend_on_what_was_scored_before(folder: Path) -> None:
    images = [scored(noise(seed)) for seed in range(4)]
    first, second = loaded(folder), loaded(folder)
    scores = [first.score(image) for image in images]
    assert scores == [second.score(image) for image in reversed(images)][::-1]


def test_only_the_wanted_labels_are_kept(folder: Path) -> None:
    everything = loaded(folder).score(scored(noise(1)))
    kept = loaded(folder, labels=("bird", "cat")).score(scored(noise(1)))
    assert kept == {label: everything[label] for label in ("bird", "cat")}
    with pytest.raises(ScorerError, match="no label 'brid'; did you mean bird"):
        ClassifierScorer.describe(spec_of(folder, labels=("brid",)), Fetch())


def test_the_fingerprint_tells_weights_and_labels_apart(folder: Path, tmp_path: Path) -> None:
    other = tiny_scorer_models.save_classifier(tmp_path, seed=1)
    infos = [
        ClassifierScorer.describe(spec, Fetch())
        for spec in (spec_of(folder), spec_of(other), spec_of(folder, labels=("cat",)))
    ]
    assert len({info.fingerprint for info in infos}) == 3
    assert infos[0].fingerprint == loaded(folder).fingerprint


def test_labels_that_are_the_same_twice_are_refused(tmp_path: Path) -> None:
    labels = {0: "cat", 1: "dog", 2: "cat "}
    folder = tiny_scorer_models.save_classifier(tmp_path, id2label=labels)
    with pytest.raises(ScorerError, match=r"the label 'cat' in config\.json does not name one out"):
        ClassifierScorer.describe(spec_of(folder), Fetch())


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = tiny_scorer_models.save_clip(tmp_path)
    with pytest.raises(ScorerError, match="describes CLIPModel; expected an image-classification"):
        ClassifierScorer.describe(spec_of(folder), Fetch())


def test_a_network_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    folder = tiny_scorer_models.save_classifier(tmp_path)
    network = ViTForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        network.classifier.bias[0] = float("nan")
    network.save_pretrained(folder)
    with pytest.raises(ScorerError, match="hold NaN or infinity"):
        loaded(folder)
