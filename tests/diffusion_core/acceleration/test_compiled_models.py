"""torch.compile: batch invariance holds, shapes are independent, compiled code is kept on disk."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor
from support import tiny_loras, tiny_models
from torch._dynamo.utils import counters

from nightpress.diffusion_core.acceleration import compilation
from nightpress.diffusion_core.acceleration.compilation import on_compilation
from nightpress.diffusion_core.errors import SamplingError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import LORA_FILE
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=2, guidance_scale=4.0)
REQUESTS = [ImageRequest("a red fox", "", 11), ImageRequest("two ships", "", 2)]

Saved = Callable[[str], Path]


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is compiled in memory, and no folder for compiled code is set."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "somewhere")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    torch._dynamo.reset()
    counters.clear()
    with torch._inductor.config.patch(cpp_cache_precompile_headers=False):  # too few to be worth it
        yield
    torch._dynamo.reset()


def compiled(folder: Path, which: str = "regional", **loras: Any) -> LoadedModel:
    values = {"source": str(folder), "speed": {"compile": which}, **loras}
    spec = ModelSpec.model_validate(values)
    files = [Path(lora.source) / LORA_FILE for lora in spec.all_loras]
    return loading.load(folder, spec, "cpu", files)


def pixels(loaded: LoadedModel, requests: list[ImageRequest] = REQUESTS) -> np.ndarray:
    return Sampler(loaded, 2).sample(requests, PARAMS).pixels


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("fresh_process")
@pytest.mark.slow
def test_compiled_blocks_are_batch_invariant_and_found_again_on_disk(
    saved: Saved,
    loaded: Callable[[str], LoadedModel],
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = compiled(saved("sd"))
    events: list[str] = []
    with on_compilation(lambda: events.append("begin"), lambda: events.append("end")):
        together = pixels(fast)
        assert events == ["begin", "end"] * (len(events) // 2) != []
        events.clear()
        assert (pixels(fast) == together).all()
        assert events == []
    assert np.abs(together.astype(int) - pixels(loaded("sd"))).max() <= 1
    assert (pixels(fast, REQUESTS[::-1])[::-1] == together).all()
    assert (pixels(fast, REQUESTS[1:]) == together[1:]).all()
    assert counters["inductor"]["fxgraph_cache_miss"] >= 1
    assert any((own_cache / "inductor").iterdir())

    # A shape too many is an error: torch's own way is to go on uncompiled, with other bits.
    with monkeypatch.context() as few:
        few.setattr(compilation, "MAX_GRAPHS", 1)
        with pytest.raises(SamplingError, match="more than 1 shapes"):
            Sampler(fast, 2).sample(REQUESTS, replace(PARAMS, width=32))
    assert (pixels(fast) == together).all()

    torch._dynamo.reset()
    counters.clear()
    assert (pixels(compiled(saved("sd"))) == together).all()
    assert counters["inductor"]["fxgraph_cache_hit"] >= 1
    assert counters["inductor"]["fxgraph_cache_miss"] == 0


def smallest(folder: Path) -> Path:
    """A model with few convolutions, because each of its kernels is compiled separately."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    narrow = {"block_out_channels": (4,), "norm_num_groups": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(**narrow, mid_block_add_attention=False)
        unet = UNet2DConditionModel(
            **narrow,
            sample_size=32,
            layers_per_block=1,
            down_block_types=("DownBlock2D",),
            mid_block_type=None,
            up_block_types=("UpBlock2D",),
            cross_attention_dim=16,
        )
        tiny_models.sd(vae=vae, unet=unet).save_pretrained(folder)
    return folder


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("fresh_process")
def test_a_fully_compiled_denoiser_and_decoder_are_batch_invariant(tmp_path: Path) -> None:
    folder = smallest(tmp_path / "smallest")
    plain = loading.load(folder, ModelSpec(source=str(folder)), "cpu")
    fast = compiled(folder, "full")
    with torch._inductor.config.patch(cpp_cache_precompile_headers=True):  # there are enough
        together = pixels(fast)
    assert counters["stats"]["unique_graphs"] == 2
    assert np.abs(together.astype(int) - pixels(plain)).max() <= 1
    assert (pixels(fast, REQUESTS[::-1])[::-1] == together).all()
    assert (pixels(fast, REQUESTS[1:]) == together[1:]).all()
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("fresh_process")
def test_a_row_lora_is_compiled_once_for_each_scale_and_has_its_own_bits(
    saved: Saved, plain: Callable[[str], Any], tmp_path: Path
) -> None:
    ink = tiny_loras.save(plain("sd"), tmp_path / "ink")
    expected = [
        pixels(compiled(saved("sd"))),
        pixels(compiled(saved("sd"), loras=[{"source": str(ink), "scale": 0.5}])),
    ]
    torch._dynamo.reset()
    counters.clear()
    sampler = Sampler(compiled(saved("sd"), row_loras=[str(ink)]), 2)
    ways = [PARAMS, replace(PARAMS, lora="ink", lora_scale=0.5)]
    for way, wanted in zip(ways, expected, strict=True):
        np.testing.assert_array_equal(sampler.sample(REQUESTS, way).pixels, wanted)
    assert counters["stats"]["unique_graphs"] >= 2
    counters.clear()
    for way, wanted in zip(ways, expected, strict=True):
        np.testing.assert_array_equal(sampler.sample(REQUESTS, way).pixels, wanted)
    assert counters["stats"]["unique_graphs"] == 0
