"""Networks that transformers has saved: what decides their scores, checks, and loading."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightpress.diffusion_core.errors import ModelError, UnsafeWeights, as_model_error
from nightpress.diffusion_core.models import networks, tensor_headers, weight_files
from nightpress.diffusion_core.silence_libraries import errors_only
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.scoring import fingerprints

PROCESSOR_CONFIGS = ("preprocessor_config.json", "processor_config.json")
"""The files that say how images are scaled, of which a folder has one."""

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class SavedNetwork:
    """A folder as `save_pretrained` writes it."""

    folder: Path
    config: Any
    kind: Any
    """The class of the network."""

    @classmethod
    def open(cls, folder: Path, kind_of: Callable[[Path, Any], Any]) -> Self:
        """Read the configuration of a saved network.

        Args:
            folder: where it lies.
            kind_of: the class of a network by its folder, for errors, and its configuration.

        Raises:
            ScorerError: it cannot be read, needs code of its own, or is of another kind.
        """
        from transformers import AutoConfig

        with _as_scorer_error(f"{folder}: cannot read config.json"):
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        return cls(folder, config, kind_of(folder, config))

    def check(self) -> None:
        """Check the files without loading a weight.

        Raises:
            ScorerError: a file is missing or damaged, or they do not hold exactly the weights.
        """
        with _as_scorer_error(f"{self.folder}"):
            networks.check_network(self.kind, self.folder, self._weights())
        self.image_processor()

    @property
    def content(self) -> Mapping[str, str]:
        """SHA-256 of the files that decide a score by their names.

        They are the configurations, vocabularies and weights.
        """
        texts = [
            file
            for file in self.folder.iterdir()
            if file.suffix in weight_files.CONFIG_SUFFIXES and ".index." not in file.name
        ]
        return fingerprints.of_files(*texts, *self._weights())

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in float32."""
        headers = tensor_headers.read_all_headers(self.folder, self._weights())
        return FLOAT32_BYTES * sum(math.prod(header.shape) for header in headers.values())

    def load(self, device: str) -> Any:
        """Load the network in float32, ready to be used.

        Raises:
            ScorerError: as `check`; or a weight is no number.
        """
        import torch

        with _as_scorer_error(f"{self.folder}"):
            network = networks.load_network(
                self.kind, self.folder, self._weights(), dtype=torch.float32
            )
            networks.require_finite_weights(network, self.kind.__name__)
            return network.to(device).eval()

    def image_processor(self) -> Any:
        """The image processor, with Pillow's resizing.

        With torchvision installed transformers would resize with that instead, and scores would
        change.

        Raises:
            ScorerError: it cannot be read, or there is none that uses Pillow.
        """
        from transformers import AutoImageProcessor

        if not any((self.folder / name).is_file() for name in PROCESSOR_CONFIGS):
            raise ScorerError(
                f"{self.folder}: there is no {PROCESSOR_CONFIGS[0]}, which says how images are "
                "scaled"
            )
        with _as_scorer_error(f"{self.folder}: cannot load the image processor"):
            processor = AutoImageProcessor.from_pretrained(
                self.folder, backend="pil", local_files_only=True, trust_remote_code=False
            )
        if getattr(processor, "backend", "pil") != "pil":
            name = type(processor).__name__
            raise ScorerError(f"{self.folder}: {name} cannot resize images with Pillow")
        return processor

    def tokenizer(self) -> Any:
        """The tokenizer of a network that reads texts.

        Raises:
            ScorerError: it cannot be read, or its vocabulary is missing.
        """
        from transformers import AutoTokenizer

        with _as_scorer_error(f"{self.folder}: cannot load the tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
        self._require_vocabulary(tokenizer)
        return tokenizer

    def _require_vocabulary(self, tokenizer: Any) -> None:
        """Refuse a tokenizer whose files are not there: transformers makes an empty one instead."""
        whole = tokenizer.vocab_files_names.get("tokenizer_file", "tokenizer.json")
        parts = [name for name in tokenizer.vocab_files_names.values() if name != whole]
        missing = [name for name in parts if not (self.folder / name).is_file()]
        if (missing or not parts) and not (self.folder / whole).is_file():
            expected = " or ".join(filter(None, (whole, " and ".join(parts))))
            raise ScorerError(
                f"{self.folder}: the vocabulary of the tokenizer is missing; expected {expected}"
            )

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Turn what a first call of the network raises into a ScorerError."""
        with _as_scorer_error(f"{self.folder}: the network does not take what belongs to it"):
            yield

    def _weights(self) -> list[Path]:
        try:
            return weight_files.weight_files(self.folder, None, False)
        except UnsafeWeights as error:
            raise ScorerError(
                f"{self.folder}: the only weights are pickles, and loading a pickle runs code; "
                "save the network again as safetensors"
            ) from error
        except ModelError as error:
            raise ScorerError(str(error)) from error


def image_inputs(processor: Any, pixels: NDArray[np.uint8], device: str) -> dict[str, Any]:
    """What a network takes for one image, in a batch of one.

    Args:
        processor: the network's image processor.
        pixels: (H, W, 3) RGB.
        device: where the network is.
    """
    inputs = processor(images=pixels, input_data_format="channels_last", return_tensors="pt")
    return dict(inputs.to(device))


@contextlib.contextmanager
def _as_scorer_error(what: str) -> Iterator[None]:
    """Turn what transformers raises into a ScorerError, and keep its notices off the terminal."""
    try:
        with as_model_error(what), errors_only():
            yield
    except ModelError as error:
        raise ScorerError(str(error)) from error
