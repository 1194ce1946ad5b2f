"""The scorer `clip`: how well an image fits a text, by a CLIP or SigLIP model of transformers.

Sources: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021; Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023; the score without its
factor of 2.5: Hessel et al., "CLIPScore", 2021.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import ClipSpec
from nightpress.pipelines.scoring import fingerprints
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import ScoredImage, ScorerInfo
from nightpress.pipelines.scoring.scorers import saved_network
from nightpress.pipelines.scoring.text_template import TextTemplate

LOG = logging.getLogger(__name__)

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
        folder = fetch.folder(spec.model)
        _network_class(folder, saved_network.read_config(folder))
        content = fingerprints.of_files(*saved_network.used_files(folder))
        num_bytes = sum(file.stat().st_size for file in saved_network.weights_of(folder))
        return ScorerInfo(fingerprints.of_scorer(spec, CODE, content), weight_bytes=num_bytes)

    @classmethod
    def load(cls, spec: ClipSpec, fetch: Fetch, device: str) -> Self:
        """Load the network onto a device, in float32.

        Raises:
            ScorerError, ModelError, StoreError: as `describe`; or a file is damaged.
        """
        mark = cls.describe(spec, fetch).fingerprint
        return cls(spec, mark, ImageTextNetwork(fetch.folder(spec.model), device))

    @property
    def fingerprint(self) -> str:
        """See `Scorer.fingerprint`."""
        return self._mark

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """The cosine; see `Scorer.score`."""
        text = self._template.render(image.columns)
        value = self._network.cosine(image, text)
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

    def __init__(self, folder: Path, device: str) -> None:
        config = saved_network.read_config(folder)
        self._network = saved_network.load_network(_network_class(folder, config), folder, device)
        self._processor = saved_network.load_image_processor(folder)
        self._tokenizer = saved_network.load_tokenizer(folder)
        self.text_length: int = config.text_config.max_position_embeddings
        self.num_cut = 0
        self._pads = config.model_type in PADDED_TO_THE_END
        self._device = device
        self._texts: OrderedDict[str, tuple[Any, bool]] = OrderedDict()
        self._lock = threading.Lock()

    def cosine(self, image: ScoredImage, text: str) -> float:
        """The cosine of the angle between the embeddings of an image and a text."""
        import torch

        with torch.inference_mode():
            inputs = saved_network.image_inputs(self._processor, image.pixels, self._device)
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
        whole = len(self._tokenizer(text)["input_ids"])
        is_cut = whole > self.text_length
        if is_cut:
            LOG.warning(
                "a text has %d tokens, and only the first %d are compared: %.80r",
                whole,
                self.text_length,
                text,
            )
        inputs = self._tokenizer(
            text,
            padding="max_length" if self._pads else False,
            truncation=True,
            max_length=self.text_length,
            return_tensors="pt",
        ).to(self._device)
        return self._network.get_text_features(**inputs).pooler_output[0], is_cut


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
