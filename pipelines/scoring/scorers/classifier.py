"""The scorer `classifier`: the labels of an image-classification network of transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import ClassifierSpec
from nightpress.pipelines.scoring import fingerprints
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import ScoredImage, ScorerInfo
from nightpress.pipelines.scoring.scorers import saved_network

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
        folder = fetch.folder(spec.model)
        config = saved_network.read_config(folder)
        _network_class(folder, config)
        labels = tuple(_kept_labels(folder, config, spec.labels))
        content = fingerprints.of_files(*saved_network.used_files(folder))
        num_bytes = sum(file.stat().st_size for file in saved_network.weights_of(folder))
        return ScorerInfo(fingerprints.of_scorer(spec, CODE, content), labels, num_bytes)

    @classmethod
    def load(cls, spec: ClassifierSpec, fetch: Fetch, device: str) -> Self:
        """Load the network onto a device, in float32.

        Raises:
            ScorerError, ModelError, StoreError: as `describe`; or a file is damaged.
        """
        folder = fetch.folder(spec.model)
        config = saved_network.read_config(folder)
        network = saved_network.load_network(_network_class(folder, config), folder, device)
        processor = saved_network.load_image_processor(folder)
        kept = _kept_labels(folder, config, spec.labels)
        return cls(cls.describe(spec, fetch).fingerprint, network, processor, device, kept)

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """A score by label; see `Scorer.score`."""
        import torch

        with torch.inference_mode():
            inputs = saved_network.image_inputs(self.processor, image.pixels, self.device)
            values = self._activated(self.network(**inputs).logits[0])
        if not bool(values.isfinite().all()):
            raise ScorerError("the network gave a value that is no number")
        return {label: float(values[index]) for label, index in self.kept.items()}

    def _activated(self, logits: Any) -> Any:
        problem = self.network.config.problem_type
        if problem == "regression" or (problem is None and len(logits) == 1):
            return logits
        return logits.sigmoid() if problem == "multi_label_classification" else logits.softmax(0)


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


def _kept_labels(folder: Path, config: Any, wanted: tuple[str, ...]) -> dict[str, int]:
    """The position of each label that is kept, in the order of the job, or else of the network."""
    labels = [str(config.id2label[index]).strip() for index in range(config.num_labels)]
    for label in labels:
        if not label or labels.count(label) > 1:
            raise ScorerError(
                f"{folder}: the label {label!r} in config.json does not name one "
                "output of the network"
            )
    for label in wanted:
        if label not in labels:
            near = did_you_mean(label, labels, "labels")
            raise ScorerError(f"{folder}: the network has no label {label!r}; {near}")
    return {label: labels.index(label) for label in wanted or labels}
