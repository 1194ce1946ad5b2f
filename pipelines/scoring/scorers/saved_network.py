"""Networks that transformers has saved: their configuration, files and image processor."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightpress.diffusion_core.errors import ModelError, UnsafeWeights, as_model_error
from nightpress.diffusion_core.models import networks, weight_files
from nightpress.diffusion_core.silence_libraries import errors_only
from nightpress.pipelines.errors import ScorerError

PROCESSOR_CONFIG = "preprocessor_config.json"


def read_config(folder: Path) -> Any:
    """The configuration of a saved network.

    Raises:
        ScorerError: it cannot be read, or needs code of its own.
    """
    from transformers import AutoConfig

    with _as_scorer_error(f"{folder}: cannot read config.json"):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def used_files(folder: Path) -> list[Path]:
    """The files that decide a score: configurations, vocabularies and weights, never pickles.

    Raises:
        ScorerError: there are no weights, or only pickles.
    """
    texts = [
        file
        for file in folder.iterdir()
        if file.suffix in weight_files.CONFIG_SUFFIXES and ".index." not in file.name
    ]
    return sorted([*texts, *weights_of(folder)])


def weights_of(folder: Path) -> list[Path]:
    """The weight files of a network.

    Raises:
        ScorerError: there are none, or only pickles.
    """
    try:
        return weight_files.weight_files(folder, None, False)
    except UnsafeWeights as error:
        raise ScorerError(
            f"{folder}: the only weights are pickles, and loading a pickle runs code; save the "
            "network again as safetensors"
        ) from error
    except ModelError as error:
        raise ScorerError(str(error)) from error


def load_network(kind: Any, folder: Path, device: str) -> Any:
    """Load a network in float32, ready to be used.

    Raises:
        ScorerError: its files are damaged, or do not hold exactly its weights.
    """
    import torch

    with _as_scorer_error(f"{folder}"):
        network = networks.load_network(kind, folder, weights_of(folder), dtype=torch.float32)
        networks.require_finite_weights(network, kind.__name__)
        return network.to(device).eval()


def load_image_processor(folder: Path) -> Any:
    """The image processor of a network, with Pillow's resizing.

    With torchvision installed transformers would resize with that instead, and scores would change.

    Raises:
        ScorerError: it cannot be read, or there is none that uses Pillow.
    """
    from transformers import AutoImageProcessor

    if not (folder / PROCESSOR_CONFIG).is_file():
        raise ScorerError(
            f"{folder}: there is no {PROCESSOR_CONFIG}, which says how images are scaled"
        )
    with _as_scorer_error(f"{folder}: cannot load the image processor"):
        processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
    if getattr(processor, "backend", "pil") != "pil":
        raise ScorerError(f"{folder}: {type(processor).__name__} cannot resize with Pillow")
    return processor


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a network.

    Raises:
        ScorerError: it cannot be read.
    """
    from transformers import AutoTokenizer

    with _as_scorer_error(f"{folder}: cannot load the tokenizer"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def image_inputs(processor: Any, pixels: NDArray[np.uint8], device: str) -> dict[str, Any]:
    """What a network takes for one image, in a batch of one.

    Args:
        pixels: (H, W, 3) RGB.
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
