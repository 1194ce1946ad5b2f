"""torch.compile: the law holds, one shape never changes another, and the work is kept on disk."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor
from torch._dynamo.utils import counters

from diffusion_core import acceleration, model
from diffusion_core.compilation import compilation_told
from diffusion_core.errors import SamplingError
from diffusion_core.model import LoadedModel, ModelSpec
from diffusion_core.sampling import ImageRequest, Sampler, SamplingParams

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=2, guidance_scale=4.0)
REQUESTS = [ImageRequest("a red fox", "", 11), ImageRequest("two ships", "", 2)]

Saved = Callable[[str], Path]


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing compiled in memory, and nobody's folder for it."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "somewhere")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    torch._dynamo.reset()
    counters.clear()
    with torch._inductor.config.patch(cpp_cache_precompile_headers=False):  # too few to be worth it
        yield
    torch._dynamo.reset()


def compiled(folder: Path) -> LoadedModel:
    spec = {"source": str(folder), "speed": {"compile": "regional"}}
    return model.load(folder, ModelSpec.model_validate(spec), "cpu")


def pixels(loaded: LoadedModel, requests: list[ImageRequest] = REQUESTS) -> np.ndarray:
    return Sampler(loaded, 2).sample(requests, PARAMS).pixels


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("fresh_process")
def test_compiled_blocks_keep_the_law_and_are_found_again_on_disk(
    saved: Saved,
    loaded: Callable[[str], LoadedModel],
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = compiled(saved("sd"))
    told: list[str] = []
    with compilation_told(lambda: told.append("begins"), lambda: told.append("ends")):
        together = pixels(fast)
        assert told == ["begins", "ends"] * (len(told) // 2) != []
        told.clear()
        assert (pixels(fast) == together).all()
        assert told == []
    assert np.abs(together.astype(int) - pixels(loaded("sd"))).max() <= 1
    assert (pixels(fast, REQUESTS[::-1])[::-1] == together).all()
    assert (pixels(fast, REQUESTS[1:]) == together[1:]).all()
    assert counters["inductor"]["fxgraph_cache_miss"] >= 1
    assert any((own_cache / "inductor").iterdir())

    # A shape too many is an error: torch's own way is to go on uncompiled, with other bits.
    with monkeypatch.context() as few:
        few.setattr(acceleration, "MAX_GRAPHS", 1)
        with pytest.raises(SamplingError, match="more than 1 shapes"):
            Sampler(fast, 2).sample(REQUESTS, replace(PARAMS, width=32))
    assert (pixels(fast) == together).all()

    torch._dynamo.reset()
    counters.clear()
    assert (pixels(compiled(saved("sd"))) == together).all()
    assert counters["inductor"]["fxgraph_cache_hit"] >= 1
    assert counters["inductor"]["fxgraph_cache_miss"] == 0
