import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_models
from support.slow_cases import slow_except
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nightpress.diffusion_core.acceleration.deepcache import reuse_deep_features
from nightpress.diffusion_core.builtin import folder
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

FAMILIES = ("sd", "lcm", "sdxl", "builtin")

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=7, guidance_scale=4.0)
UNGUIDED = dataclasses.replace(PARAMS, guidance_scale=1.0)
REQUESTS = tuple(
    ImageRequest(prompt, "", seed)
    for prompt, seed in (("a red fox, asleep", 11), ("two ships and a tower", 5), ("7", 0))
)

Loaded = Callable[[str], LoadedModel]


@pytest.fixture(scope="module")
def models(loaded: Loaded) -> Loaded:
    """Tiny models by family, and the built-in one."""

    @functools.cache
    def get(family: str) -> LoadedModel:
        return loading.load(folder(), ModelSpec(), "cpu") if family == "builtin" else loaded(family)

    return get


def sample(
    loaded: LoadedModel,
    params: SamplingParams = PARAMS,
    requests: tuple[ImageRequest, ...] = REQUESTS[:2],
    batch_size: int = 2,
) -> np.ndarray:
    """(n, H, W, 3) as floats."""
    return Sampler(loaded, batch_size).sample(requests, params).pixels.astype(float)


@contextmanager
def watched(module: torch.nn.Module) -> Iterator[list[tuple[tuple[Any, ...], Any, Any]]]:
    """Of each call, its arguments, keyword arguments and output."""
    calls: list[tuple[tuple[Any, ...], Any, Any]] = []

    def note(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls.append((args, kwargs, output))

    handle = module.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def tiny_unet(**settings: Any) -> Any:
    """A U-Net with the same random weights each time, and four skips by default."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        usual = tiny_models.unet(cross_attention_dim=16)
        return type(usual).from_config(usual.config, **settings).eval()


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 4, 16, 16)), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def ask(unet: Any, x_t: Tensor, timestep: int = 500, **others: Any) -> Tensor:
    """The network's answer, (B, C, h, w)."""
    states = noise(1, len(x_t), 7, unet.config.cross_attention_dim).to(x_t.dtype)
    answer: Tensor = unet(x_t, timestep, encoder_hidden_states=states, **others).sample
    return answer


@pytest.mark.parametrize("params", [PARAMS, UNGUIDED], ids=["guided", "unguided"])
@pytest.mark.parametrize("family", slow_except(FAMILIES, "sd", "builtin"))
def test_an_interval_of_one_changes_no_bit(
    family: str, params: SamplingParams, models: Loaded
) -> None:
    expected = sample(models(family), params)
    with reuse_deep_features(models(family).pipeline.unet, interval=1):
        np.testing.assert_array_equal(sample(models(family), params), expected)


@pytest.mark.parametrize("params", [PARAMS, UNGUIDED], ids=["guided", "unguided"])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_steps_are_plain_steps_and_the_others_are_not(
    family: str, params: SamplingParams, models: Loaded
) -> None:
    unet = models(family).pipeline.unet
    with watched(unet) as calls, reuse_deep_features(unet, interval=3):
        sample(models(family), params)
    with torch.inference_mode():
        plain = [unet(*args, **kwargs)[0] for args, kwargs, _ in calls]
    same = [torch.equal(new, call[2][0]) for new, call in zip(plain, calls, strict=True)]
    assert same == [place % 3 == 0 for place in range(len(calls))]


@pytest.mark.parametrize("params", [PARAMS, UNGUIDED], ids=["guided", "unguided"])
@pytest.mark.parametrize("num_steps", [1, 6, 7])
@pytest.mark.parametrize("interval", slow_except([1, 2, 3, 5], 2, 3))
def test_one_step_in_interval_goes_deep(
    interval: int, num_steps: int, params: SamplingParams, models: Loaded
) -> None:
    unet = models("sdxl").pipeline.unet
    params = dataclasses.replace(params, num_inference_steps=num_steps)
    with (
        watched(unet) as calls,
        watched(unet.mid_block) as deep,
        reuse_deep_features(unet, interval),
    ):
        sample(models("sdxl"), params)
    assert (len(calls), len(deep)) == (num_steps, math.ceil(num_steps / interval))


KINDS_OF_UNET: dict[str, dict[str, Any]] = {
    "usual": {},
    "two layers": {"layers_per_block": 2},
    "middle without text": {"mid_block_type": "UNetMidBlock2D"},
    "no middle": {"mid_block_type": None},
    "simple attention": {
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    },
}


def num_branches(unet: Any) -> int:
    """One for each layer on the way up, but for the deepest if there is nothing below it."""
    return sum(len(block.resnets) for block in unet.up_blocks) - (unet.mid_block is None)


@pytest.mark.parametrize(
    ("kind", "size"), [*((kind, (16, 12)) for kind in KINDS_OF_UNET), ("usual", (9, 13))]
)
def test_where_nothing_has_changed_a_shallow_call_is_a_whole_one_at_every_branch(
    kind: str, size: tuple[int, int]
) -> None:
    unet = tiny_unet(**KINDS_OF_UNET[kind])
    x_t = noise(2, 2, 4, *size)
    plain = ask(unet, x_t)
    for branch in range(num_branches(unet)):
        with reuse_deep_features(unet, 2, branch), watched(unet.up_blocks[0].resnets[0]) as deep:
            whole, shallow = ask(unet, x_t), ask(unet, x_t)
        assert torch.equal(whole, plain)
        assert torch.equal(shallow, plain)
        assert len(deep) == 1 + (branch >= num_branches(unet) - (unet.mid_block is not None))


def test_the_deeper_the_branch_the_less_a_shallow_call_skips() -> None:
    unet, counts = tiny_unet(layers_per_block=2), []
    for branch in range(num_branches(unet)):
        with reuse_deep_features(unet, 2, branch):
            whole, shallow = flops(unet), flops(unet)
        counts.append(shallow)
    assert 0 < counts[0] < whole / 4
    assert counts == sorted(counts)
    assert counts[-1] < whole == flops(unet)


def flops(unet: Any) -> int:
    """Floating-point operations of one call, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        ask(unet, noise(2))
    return int(counter.get_total_flops())


def test_freeu_does_not_overwrite_cached_features() -> None:
    unet = tiny_unet()
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    plain = ask(unet, noise(2))
    for branch in range(num_branches(unet)):
        with reuse_deep_features(unet, 3, branch):
            for _ in range(3):
                assert torch.equal(ask(unet, noise(2)), plain)


def test_a_shallow_call_joins_old_deep_features_with_the_new_skip_and_the_new_time() -> None:
    unet = tiny_unet()
    last = unet.up_blocks[-1]
    with reuse_deep_features(unet, interval=2), watched(last.resnets[0]) as layers:
        ask(unet, noise(2), timestep=900)
        found = ask(unet, noise(3), timestep=100)
    (_, _, f_cache), *others = layers
    assert not others
    with torch.inference_mode():
        time = unet.time_embedding(unet.time_proj(torch.tensor([100.0, 100.0])))
        hidden = last.resnets[1](torch.cat([f_cache, unet.conv_in(noise(3))], dim=1), time)
        expected = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("before", [(64, 32), (32, 32)], ids=["same size", "other size"])
@pytest.mark.parametrize("num_before", slow_except([1, 2, 5], 2))
def test_one_sampling_leaves_no_trace_in_the_next(
    before: tuple[int, int], num_before: int, models: Loaded
) -> None:
    sizes = dict(zip(("width", "height"), before, strict=True))
    other = dataclasses.replace(PARAMS, **sizes, num_inference_steps=num_before)
    unet = models("sd").pipeline.unet
    with reuse_deep_features(unet, interval=3):
        expected = sample(models("sd"))
    with reuse_deep_features(unet, interval=3) as features:
        sample(models("sd"), other, REQUESTS[1:])
        features.reset()
        np.testing.assert_array_equal(sample(models("sd")), expected)
    with reuse_deep_features(unet, interval=3):
        np.testing.assert_array_equal(sample(models("sd")), expected)


def test_a_call_with_another_shape_or_precision_is_computed_whole() -> None:
    unet = tiny_unet()
    with reuse_deep_features(unet, 3), watched(unet.mid_block) as deep:
        for x_t in (noise(2), noise(2)[:1], noise(2)[:1, :, :8], noise(2)[:1, :, :8]):
            ask(unet, x_t)
        assert len(deep) == 3
        unet.to(torch.float64)
        for _ in range(3):
            ask(unet, noise(2)[:1, :, :8].double())
            assert len(deep) == 4


@pytest.mark.parametrize("family", slow_except(FAMILIES, "sd", "builtin"))
def test_bits_depend_neither_on_place_nor_on_other_images_nor_on_padding(
    family: str, models: Loaded
) -> None:
    def three(*requests: ImageRequest) -> np.ndarray:
        with reuse_deep_features(models(family).pipeline.unet, interval=2):
            return sample(models(family), PARAMS, requests, batch_size=3)

    expected = three(*REQUESTS)
    np.testing.assert_array_equal(three(*REQUESTS[::-1]), expected[::-1])
    for place, request in enumerate(REQUESTS):
        np.testing.assert_array_equal(three(request)[0], expected[place])


@pytest.mark.parametrize("guidance_scale", slow_except([3.0, 1.0], 3.0), ids=["guided", "unguided"])
def test_the_more_is_reused_the_more_the_image_changes(
    guidance_scale: float, models: Loaded
) -> None:
    builtin = models("builtin")
    params = SamplingParams(
        width=128, height=128, num_inference_steps=8, guidance_scale=guidance_scale
    )
    requests = (ImageRequest("a red apple", "", 1), ImageRequest("a tiger", "", 2))
    plain = sample(builtin, params, requests)

    def error(interval: int, branch: int = 0) -> float:
        with reuse_deep_features(builtin.pipeline.unet, interval, branch):
            return float(np.square(sample(builtin, params, requests) - plain).mean())

    assert 0 < error(2) < error(4)
    assert error(4, branch=3) < error(4)


@pytest.mark.parametrize("family", ["sd3", "flux", "pixart", "sana"])
def test_transformers_are_refused_by_name(family: str, loaded: Loaded) -> None:
    transformer = loaded(family).pipeline.transformer
    name = type(transformer).__name__
    with (
        pytest.raises(SettingsError, match=f"^{name}: .* UNet2DConditionModel only"),
        reuse_deep_features(transformer, 2),
    ):
        pass


def test_blocks_without_a_skip_at_each_layer_are_refused_by_name() -> None:
    unet = tiny_unet(
        down_block_types=("KDownBlock2D", "KCrossAttnDownBlock2D"),
        up_block_types=("KCrossAttnUpBlock2D", "KUpBlock2D"),
        mid_block_type=None,
        resnet_time_scale_shift="ada_group",
        time_embedding_dim=16,
    )
    with (
        pytest.raises(SettingsError, match="not every layer of a KDownBlock2D has a skip"),
        reuse_deep_features(unet, 2),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": 0}, "interval 0: must be 1 or more"),
        ({"interval": -2}, "interval -2: must be 1 or more"),
        ({"interval": 2, "branch": -1}, "branch -1: this U-Net has 0 to 3"),
        ({"interval": 2, "branch": 4}, "branch 4: this U-Net has 0 to 3"),
    ],
)
def test_settings_that_the_unet_does_not_have_are_refused(
    settings: dict[str, int], message: str
) -> None:
    unet = tiny_unet()
    with pytest.raises(SettingsError, match=message), reuse_deep_features(unet, **settings):
        pass
    assert untouched(unet)


def test_a_block_inside_a_block_is_refused_and_ends_neither() -> None:
    unet = tiny_unet()
    with reuse_deep_features(unet, 2), watched(unet.mid_block) as deep:
        with pytest.raises(SettingsError, match="already"), reuse_deep_features(unet, 3):
            pass
        ask(unet, noise(2))
        ask(unet, noise(2))
        assert len(deep) == 1
    assert untouched(unet)


def untouched(unet: Any) -> bool:
    """Whether none of its methods is replaced, and no module in it has a hook."""
    modules = list(unet.modules())
    return not any("forward" in vars(module) or module._forward_hooks for module in modules)


def test_the_unet_is_unchanged_after_the_block_and_after_an_error() -> None:
    unet = tiny_unet()
    names, plain = dict(unet.named_modules()).keys(), ask(unet, noise(2))
    with reuse_deep_features(unet, 2):
        ask(unet, noise(3))
    assert untouched(unet)
    with pytest.raises(RuntimeError, match="size"), reuse_deep_features(unet, 2):
        ask(unet, noise(3, 2, 5, 16, 16))
    assert untouched(unet)
    assert dict(unet.named_modules()).keys() == names
    assert all(torch.equal(ask(unet, noise(2)), plain) for _ in range(2))


def test_an_earlier_replacement_of_the_forward_is_restored() -> None:
    unet = tiny_unet()
    plain, forward = unet.forward, lambda *args, **kwargs: plain(*args, **kwargs)
    unet.forward = forward
    with reuse_deep_features(unet, 2), watched(unet.mid_block) as deep:
        ask(unet, noise(2))
        ask(unet, noise(2))
    assert len(deep) == 1
    assert vars(unet)["forward"] is forward


def test_two_threads_that_share_a_u_net_each_reuse_their_own_features() -> None:
    unet, together = tiny_unet(), threading.Barrier(2)
    samples = [[noise(10 * thread + call) for call in range(4)] for thread in range(2)]

    def answers(thread: int, wait: Callable[[], Any] = lambda: None) -> list[torch.Tensor]:
        with reuse_deep_features(unet, 2):
            return [(wait(), ask(unet, x_t))[1] for x_t in samples[thread]]

    alone = [answers(thread) for thread in range(2)]
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(answers, n, lambda: together.wait(20)) for n in range(2)]
        for expected, made in zip(alone, asked, strict=True):
            assert all(map(torch.equal, expected, made.result(20)))
    assert untouched(unet)


def test_a_whole_call_that_fails_is_repeated_whole() -> None:
    unet = tiny_unet()
    with reuse_deep_features(unet, 2), watched(unet.mid_block) as deep:
        ask(unet, noise(2))
        ask(unet, noise(3))
        with pytest.raises(RuntimeError, match="shapes"):
            unet(noise(4), 500, encoder_hidden_states=noise(1, 2, 7, 5))
        ask(unet, noise(4))
    assert len(deep) == 2


def test_calls_with_the_residuals_of_a_controlnet_are_computed_whole() -> None:
    unet = tiny_unet()
    residuals = {
        "down_block_additional_residuals": [
            *(noise(5, 2, 8, size, size) for size in (16, 16, 8)),
            noise(6, 2, 16, 8, 8),
        ],
        "mid_block_additional_residual": noise(7, 2, 16, 8, 8),
    }
    plain = ask(unet, noise(2), **residuals)
    assert not torch.equal(plain, ask(unet, noise(2)))
    with reuse_deep_features(unet, 3):
        for _ in range(3):
            assert torch.equal(ask(unet, noise(2), **residuals), plain)


def test_repeated_blocks_are_compiled_once_for_whole_and_shallow_calls() -> None:
    from torch._dynamo.testing import CompileCounter

    unet, counter = tiny_unet(down_block_types=("CrossAttnDownBlock2D",) * 2), CompileCounter()
    answers = [noise(place) for place in range(5)]
    with reuse_deep_features(unet, 3, branch=2):
        expected = [ask(unet, x_t) for x_t in answers]
    unet.compile_repeated_blocks(backend=counter)
    plain = ask(unet, noise(9))
    num_compiled = counter.frame_count
    for _ in range(2):
        with reuse_deep_features(unet, 3, branch=2):
            assert all(map(torch.equal, (ask(unet, x_t) for x_t in answers), expected))
    assert counter.frame_count == num_compiled > 0
    assert torch.equal(ask(unet, noise(9)), plain)
