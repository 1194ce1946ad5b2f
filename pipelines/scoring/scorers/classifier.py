"""The scorer `classifier`: the labels of an image-classification network of transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import ClassifierSpec
from nightpress.pipelines.scoring import fingerprints
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import ScoredImage, ScorerInfo
from nightpress.pipelines.scoring.scorers.saved_network import SavedNetwork, image_inputs

CODE = 1


@dataclass(frozen=True)
class ClassifierScorer:
    """A score for each label.

    A probability from 0 to 1: they add up to 1, or each stands for itself in a network whose
    `problem_type` is `multi_label_classification`. A network of the type `regression`, or with a
    single label, gives its output as it is.
    """

    fingerprint: str
    network: Any
    processor: Any
    device: str
    kept: Mapping[str, int]
    """The position of each label in the network's output."""

    @classmethod
    def describe(cls, spec: ClassifierSpec, fetch: Fetch) -> ScorerInfo:
        """Describe the scorer without loading it.

        Raises:
            ScorerError: the folder holds another kind of network, lacks a file or a label.
            ModelError, StoreError: it cannot be found or downloaded.
        """
        saved = _saved(spec, fetch)
        labels = tuple(_kept_labels(saved, spec.labels))
        saved.check()
        mark = fingerprints.of_scorer(spec, CODE, saved.content)
        return ScorerInfo(mark, labels, saved.weight_bytes)

    @classmethod
    def load(cls, spec: ClassifierSpec, fetch: Fetch, device: str) -> Self:
        """Load the network onto a device, in float32.

        Raises:
            ScorerError, ModelError, StoreError: as `describe`; or a weight is no number, or the
                network does not take the image processor's images.
        """
        saved = _saved(spec, fetch)
        mark = fingerprints.of_scorer(spec, CODE, saved.content)
        kept = _kept_labels(saved, spec.labels)
        scorer = cls(mark, saved.load(device), saved.image_processor(), device, kept)
        with saved.trying():
            scorer.logits(np.zeros((8, 8, 3), np.uint8))
        return scorer

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """A score by label; see `Scorer.score`."""
        values = self._activated(self.logits(image.pixels))
        if not bool(values.isfinite().all()):
            raise ScorerError("the network gave a value that is no number")
        return {label: float(values[index]) for label, index in self.kept.items()}

    def logits(self, pixels: NDArray[np.uint8]) -> Any:
        """The network's output for an image; (num_labels,).

        Args:
            pixels: (H, W, 3) RGB.
        """
        import torch

        with torch.inference_mode():
            return self.network(**image_inputs(self.processor, pixels, self.device)).logits[0]

    def _activated(self, logits: Any) -> Any:
        problem = self.network.config.problem_type
        if problem == "regression" or (problem is None and len(logits) == 1):
            return logits
        return logits.sigmoid() if problem == "multi_label_classification" else logits.softmax(0)


def _saved(spec: ClassifierSpec, fetch: Fetch) -> SavedNetwork:
    return SavedNetwork.open(fetch.folder(spec.model), _network_class)


def _network_class(folder: Path, config: Any) -> Any:
    """The class of an image-classification network."""
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    named = config.architectures or []
    kind = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), None)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    fitting = [each for each in kinds if each is not None and each.__name__ in named]
    if not fitting:
        raise ScorerError(
            f"{folder}: config.json describes {' or '.join(named) or config.model_type}; "
            "expected an image-classification network, such as ViTForImageClassification"
        )
    return fitting[0]


def _kept_labels(saved: SavedNetwork, wanted: tuple[str, ...]) -> dict[str, int]:
    """The position of each label that is kept, in the order of the job, or else of the network."""
    names = saved.config.id2label
    labels = [str(names[index]).strip() for index in range(saved.config.num_labels)]
    for label in labels:
        if not label or labels.count(label) > 1:
            raise ScorerError(
                f"{saved.folder}: the label {label!r} in config.json does not name one output of "
                "the network"
            )
    for label in wanted:
        if label not in labels:
            near = did_you_mean(label, labels, "labels")
            raise ScorerError(f"{saved.folder}: the network has no label {label!r}; {near}")
    return {label: labels.index(label) for label in wanted or labels}
