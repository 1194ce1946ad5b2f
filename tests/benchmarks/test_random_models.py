"""The random models of the accelerator benchmark are as large as the released ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.slow_cases import slow_except

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler

PUBLISHED = {
    ("sd15", "unet"): 859_520_964,
    ("sd15", "text_encoder"): 123_060_480,
    ("sd15", "vae"): 83_653_863,
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "text_encoder"): 123_060_480,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("sdxl", "vae"): 83_653_863,
    ("flux", "transformer"): 11_901_408_320,
    ("flux", "text_encoder"): 123_060_480,
    ("flux", "text_encoder_2"): 4_762_310_656,
    ("flux", "vae"): 83_819_683,
}
"""Parameters of the released weights."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """One thread: several wait for each other where the machine is shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import random_models

    return random_models


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import meters

    return meters


def test_every_network_has_as_many_parameters_as_the_released_one(models: Any) -> None:
    counted = {}
    with models.torch_defaults("meta", "bfloat16"):
        for name, architecture in models.ARCHITECTURES.items():
            for component, network in architecture.networks.items():
                parameters = list(network.create("full").parameters())
                assert all(p.is_meta and p.dtype == torch.bfloat16 for p in parameters)
                counted[name, component] = sum(p.numel() for p in parameters)
    assert counted == PUBLISHED
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", slow_except(["sd15", "sdxl", "flux"], "flux"))
def test_a_narrow_model_has_the_blocks_of_the_full_one_and_samples_without_faults(
    name: str, models: Any
) -> None:
    architecture = models.ARCHITECTURES[name]
    pipeline = models.make(architecture, "tiny", "float32", "cpu")
    assert type(pipeline).__name__ == architecture.pipeline
    params = SamplingParams(64, 64, 2, architecture.guidance_scale)
    model = models.loaded(pipeline, architecture, "float32", "cpu", SpeedSpec())
    batch = Sampler(model, 2).sample(
        [ImageRequest("a cat", "", 0), ImageRequest("b", "", 1)], params
    )
    assert batch.faults == (None, None)
    assert (batch.pixels[0] != batch.pixels[1]).any()
    again = models.make(architecture, "tiny", "float32", "cpu")
    other = models.loaded(
        models.twin(again, architecture), architecture, "float32", "cpu", SpeedSpec()
    )
    np.testing.assert_array_equal(
        Sampler(other, 2).sample([ImageRequest("a cat", "", 0)], params).pixels[0], batch.pixels[0]
    )


def test_a_network_has_the_same_weights_whichever_others_are_shared(models: Any) -> None:
    architecture = models.ARCHITECTURES["sd15"]
    whole = models.make(architecture, "tiny", "float32", "cpu")
    shared = {"text_encoder": whole.text_encoder}
    other = models.make(architecture, "tiny", "float32", "cpu", shared)
    for name in ("unet", "vae"):
        for one, again in zip(
            getattr(whole, name).parameters(), getattr(other, name).parameters(), strict=True
        ):
            assert torch.equal(one, again)


def test_the_flops_of_attention_are_counted(meters: Any) -> None:
    tokens, width = 64, 32
    query = torch.ones(1, 2, tokens, width)

    def attend() -> None:
        with torch.inference_mode():
            torch.nn.functional.scaled_dot_product_attention(query, query, query)

    assert meters.counted_flops(attend) == 2 * (2 * 2 * tokens * tokens * width)


@pytest.mark.parametrize(
    ("spans", "covered"),
    [
        ([], 0),
        ([(0, 3)], 3),
        ([(5, 8), (0, 3)], 6),
        ([(0, 3), (1, 2), (2, 5)], 5),
        ([(0, 3), (3, 4)], 4),
    ],
)
def test_overlapping_kernels_count_once(
    spans: list[tuple[int, int]], covered: int, meters: Any
) -> None:
    assert meters.covered(spans) == covered
