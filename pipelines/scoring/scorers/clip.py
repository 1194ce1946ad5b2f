"""The scorer `clip`: how well an image fits a text, by a CLIP or SigLIP model of transformers.

Sources: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021; Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023; the score without its
factor of 2.5: Hessel et al., "CLIPScore", 2021.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import ClipSpec
from nightpress.pipelines.scoring import fingerprints
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import ScoredImage, ScorerInfo
from nightpress.pipelines.scoring.scorers.saved_network import SavedNetwork, image_inputs
from nightpress.pipelines.scoring.text_template import TextTemplate

CODE = 1
PADDED_TO_THE_END = ("siglip", "siglip2")
"""Networks that were trained with texts of one length only."""

KEPT_TEXTS = 256
"""How many embeddings of texts are kept: images of one prompt come one after another."""


class ClipScorer:
    """The cosine of the angle between an image's embedding and a text's, from -1 to 1."""

    def __init__(self, spec: ClipSpec, mark: str, network: "ImageTextNetwork") -> None:
        self._template = TextTemplate.parse(spec.text)
        self._mark, self._network = mark, network

    @classmethod
    def describe(cls, spec: ClipSpec, fetch: Fetch) -> ScorerInfo:
        """Describe the scorer without loading it.

        Raises:
            ScorerError: the folder holds another kind of network, or lacks a file.
            ModelError, StoreError: it cannot be found or downloaded.
        """
        saved = _saved(spec, fetch)
        saved.check()
        saved.tokenizer()
        mark = fingerprints.of_scorer(spec, CODE, saved.content)
        return ScorerInfo(mark, weight_bytes=saved.weight_bytes)

    @classmethod
    def load(cls, spec: ClipSpec, fetch: Fetch, device: str) -> Self:
        """Load the network onto a device, in float32.

        Raises:
            ScorerError, ModelError, StoreError: as `describe`; or a weight is no number, or the
                network does not take the image processor's images.
        """
        saved = _saved(spec, fetch)
        mark = fingerprints.of_scorer(spec, CODE, saved.content)
        network = ImageTextNetwork(saved, device)
        with saved.trying():
            network.cosine(np.zeros((8, 8, 3), np.uint8), "a")
        return cls(spec, mark, network)

    @property
    def fingerprint(self) -> str:
        """See `Scorer.fingerprint`."""
        return self._mark

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """The cosine; see `Scorer.score`."""
        text = self._template.render(image.columns)
        value = self._network.cosine(image.pixels, text)
        if not -1.001 <= value <= 1.001:
            raise ScorerError(f"the network gave {value} for the text {text!r}")
        return {"": value}

    def remarks(self) -> Mapping[str, int]:
        """Texts that were cut; see `remarks_of`."""
        cut, length = self._network.num_cut, self._network.text_length
        remark = f"of the text only the first {length} tokens were compared, start and end included"
        return {remark: cut} if cut else {}


class ImageTextNetwork:
    """A network that embeds images and texts in one space."""

    def __init__(self, saved: SavedNetwork, device: str) -> None:
        self._network = saved.load(device)
        self._processor, self._tokenizer = saved.image_processor(), saved.tokenizer()
        positions: int = saved.config.text_config.max_position_embeddings
        self.text_length = min(positions, int(self._tokenizer.model_max_length))
        self._num_tokens: int = saved.config.text_config.vocab_size
        self.num_cut = 0
        self._pads = saved.config.model_type in PADDED_TO_THE_END
        self._device = device
        self._texts: OrderedDict[str, tuple[Any, bool]] = OrderedDict()
        self._lock = threading.Lock()

    def cosine(self, pixels: NDArray[np.uint8], text: str) -> float:
        """The cosine of the angle between the embeddings of an image and a text.

        Args:
            pixels: (H, W, 3) RGB.
            text: cut to `text_length` tokens.
        """
        import torch

        with torch.inference_mode():
            inputs = image_inputs(self._processor, pixels, self._device)
            of_image = self._network.get_image_features(**inputs).pooler_output[0]
            return float(torch.nn.functional.cosine_similarity(of_image, self._of_text(text), 0))

    def _of_text(self, text: str) -> Any:
        """The embedding of a text, kept for the next image of the same prompt; (d,)."""
        with self._lock:
            if text not in self._texts:
                self._texts[text] = self._embed(text)
            self._texts.move_to_end(text)
            while len(self._texts) > KEPT_TEXTS:
                self._texts.popitem(last=False)
            embedding, is_cut = self._texts[text]
            self.num_cut += is_cut
            return embedding

    def _embed(self, text: str) -> tuple[Any, bool]:
        """The embedding of a text, and whether the text was cut."""
        is_cut = len(self._tokenizer(text)["input_ids"]) > self.text_length
        inputs = self._tokenizer(
            text,
            padding="max_length" if self._pads else False,
            truncation=True,
            max_length=self.text_length,
            return_tensors="pt",
        ).to(self._device)
        if int(inputs["input_ids"].max()) >= self._num_tokens:
            raise ScorerError(
                f"the tokenizer gave a token that the network of {self._num_tokens:,} tokens does "
                f"not know, for the text {text!r:.80}; they belong to different models"
            )
        return self._network.get_text_features(**inputs).pooler_output[0], is_cut


def _saved(spec: ClipSpec, fetch: Fetch) -> SavedNetwork:
    return SavedNetwork.open(fetch.folder(spec.model), _network_class)


def _network_class(folder: Path, config: Any) -> Any:
    """The class of a network that embeds images and texts."""
    from transformers import MODEL_MAPPING

    kind = MODEL_MAPPING.get(type(config), None)
    if not (hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features")):
        raise ScorerError(
            f"{folder}: config.json describes a network of the type {config.model_type!r}; "
            "expected CLIP or SigLIP, with an image and a text encoder"
        )
    return kind
