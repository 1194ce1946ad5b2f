"""The scorer `embedding`: a vector for each image, by a CLIP, SigLIP or ViT of transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import EmbeddingSpec
from nightpress.pipelines.scoring import fingerprints
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import Embedding, ScoredImage, ScorerInfo
from nightpress.pipelines.scoring.scorers.saved_network import SavedNetwork, image_inputs

CODE = 1


@dataclass(frozen=True)
class EmbeddingScorer:
    """A vector of length 1 for each image, each shown to the network alone.

    Of CLIP and SigLIP it is the image's features in the space that they share with texts. Of other
    networks it is their pooled output, or, if they have none, the output of the first token.
    """

    fingerprint: str
    network: Any
    processor: Any
    device: str

    @classmethod
    def describe(cls, spec: EmbeddingSpec, fetch: Fetch) -> ScorerInfo:
        """Describe the scorer without loading it.

        Raises:
            ScorerError: the folder holds another kind of network, or lacks a file.
            ModelError, StoreError: it cannot be found or downloaded.
        """
        saved = _saved(spec, fetch)
        saved.check()
        mark = fingerprints.of_scorer(spec, CODE, saved.content)
        return ScorerInfo(mark, (), saved.weight_bytes)

    @classmethod
    def load(cls, spec: EmbeddingSpec, fetch: Fetch, device: str) -> Self:
        """Load the network onto a device, in float32.

        Raises:
            ScorerError, ModelError, StoreError: as `describe`; or a weight is no number, or the
                network does not take the image processor's images.
        """
        saved = _saved(spec, fetch)
        mark = fingerprints.of_scorer(spec, CODE, saved.content)
        scorer = cls(mark, saved.load(device), saved.image_processor(), device)
        with saved.trying():
            scorer.features(np.zeros((8, 8, 3), np.uint8))
        return scorer

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """No score; see `embed`."""
        return {}

    def embed(self, image: ScoredImage) -> Embedding:
        """The vector of an image; see `HasEmbedding.embed`."""
        features = self.features(image.pixels)
        length = np.linalg.norm(features)
        if not np.isfinite(length) or not length:
            raise ScorerError("the network gave a vector that is zero or not finite")
        return np.asarray(features / length, np.float16)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """What the network makes of an image; (d,).

        Args:
            pixels: (H, W, 3) RGB.
        """
        import torch

        with torch.inference_mode():
            inputs = image_inputs(self.processor, pixels, self.device)
            if hasattr(self.network, "get_image_features"):
                found = self.network.get_image_features(**inputs).pooler_output
            else:
                output = self.network.base_model(**inputs)
                pooled = getattr(output, "pooler_output", None)
                found = output.last_hidden_state[:, 0] if pooled is None else pooled
            return np.asarray(found.flatten().double().cpu(), np.float64)


def _saved(spec: EmbeddingSpec, fetch: Fetch) -> SavedNetwork:
    return SavedNetwork.open(fetch.folder(spec.model), _network_class)


def _network_class(folder: Path, config: Any) -> Any:
    """The class of a network that embeds images, of which a folder holds exactly the weights."""
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING

    named = config.architectures or []
    for mapping in (MODEL_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING):
        kind = mapping.get(type(config), None)
        for each in kind if isinstance(kind, tuple) else (kind,):
            if hasattr(each, "get_image_features") and hasattr(each, "get_text_features"):
                return each
            is_of_images = getattr(each, "main_input_name", None) == "pixel_values"
            if each is not None and each.__name__ in named and is_of_images:
                return each
    raise ScorerError(
        f"{folder}: config.json describes {' or '.join(named) or config.model_type}; expected "
        "CLIP, SigLIP, or a network of images alone, such as ViTModel or ViTForImageClassification"
    )
