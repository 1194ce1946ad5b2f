"""No step waits for the accelerator: the host reads nothing that is computed there."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import pictures
from support.slow_cases import slow_except
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nightpress.diffusion_core.models.loading import LoadedModel, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling import no_sync, schedulers
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

Saved = Callable[[str], Path]
Loaded = Callable[[str], LoadedModel]

ATEN = torch.ops.aten
READS = (ATEN.item, ATEN._local_scalar_dense, ATEN.is_nonzero, ATEN.nonzero, ATEN.equal)
"""Operations that make the host wait until a tensor on an accelerator is computed."""

COPIES = (ATEN.to, ATEN._to_copy)
"""Operations that copy from an accelerator; they are not counted, as one sampling does one."""

DIFFUSION = (
    "ddpm",
    "ddim",
    "dpmsolver++",
    "dpmsolver-sde",
    "euler",
    "euler-ancestral",
    "heun",
    "unipc",
    "lcm",
)


class Accelerator(TorchDispatchMode):
    """Simulates an accelerator on a CPU: tracks the tensors on it, and counts reads of them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_reads = 0
        self._on_device: dict[int, torch.Tensor] = {}

    def put(self, tensor: torch.Tensor) -> None:
        # The tensor is kept, so that no other gets its address.
        self._on_device[tensor.untyped_storage().data_ptr()] = tensor

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not any(t.untyped_storage().data_ptr() in self._on_device for t in given):
            return result
        if function.overloadpacket in READS:
            self.num_reads += 1
        elif function.overloadpacket not in COPIES:
            for made in tree_leaves(result):
                if isinstance(made, torch.Tensor) and made.numel():
                    self.put(made)
        return result


def num_reads(
    loaded: LoadedModel,
    sampler: str,
    num_steps: int,
    install: Callable[[Any], Any] = no_sync.install,
) -> int:
    """How often a sampling reads what a real pipeline has on the accelerator."""
    accelerator = Accelerator()
    denoiser = getattr(loaded.pipeline, "unet", None) or loaded.pipeline.transformer
    watch = denoiser.register_forward_hook(lambda _, inputs, output: accelerator.put(output[0]))
    params = SamplingParams(64, 32, num_steps, 4.0, sampler)
    with pytest.MonkeyPatch.context() as patch:
        make = schedulers.Schedulers.make

        def made(*arguments: Any) -> Any:
            scheduler = install(make(*arguments))
            set_timesteps = scheduler.set_timesteps

            @functools.wraps(set_timesteps)
            def on_the_accelerator(*args: Any, **kwargs: Any) -> None:
                set_timesteps(*args, **kwargs)
                accelerator.put(scheduler.timesteps)

            scheduler.set_timesteps = on_the_accelerator
            return scheduler

        patch.setattr(schedulers.Schedulers, "make", made)
        try:
            with accelerator:
                Sampler(loaded, 1).sample([ImageRequest("a red fox", "", 1)], params)
        finally:
            watch.remove()
    return accelerator.num_reads


@pytest.mark.parametrize(
    "sampler", slow_except(["default", *DIFFUSION], "default", "dpmsolver++", "euler-ancestral")
)
def test_more_steps_of_a_u_net_read_no_more_from_the_accelerator(
    loaded: Loaded, sampler: str
) -> None:
    assert num_reads(loaded("sd"), sampler, 6) == num_reads(loaded("sd"), sampler, 12)


@pytest.mark.parametrize(
    "family", slow_except(["lcm", "sdxl", "sd3", "flux", "pixart", "sana"], "lcm", "flux")
)
def test_more_steps_of_any_family_read_no_more_from_the_accelerator(
    loaded: Loaded, family: str
) -> None:
    assert num_reads(loaded(family), "default", 6) == num_reads(loaded(family), "default", 12)


def faster(folder: Path, **speed: Any) -> LoadedModel:
    spec = ModelSpec.model_validate({"source": str(folder), "speed": speed})
    return load(folder, spec, "cpu")


@pytest.mark.parametrize(
    ("family", "name", "choice"),
    [
        ("sd", "deep_features", {"interval": 3}),
        ("flux", "taylorseer_cache", {"cache_interval": 2, "disable_cache_before_step": 2}),
        ("flux", "pyramid_attention_broadcast", {}),
    ],
)
def test_more_steps_with_shortcuts_read_no_more_from_the_accelerator(
    saved: Saved, family: str, name: str, choice: Any
) -> None:
    shortened = faster(saved(family), **{name: choice})
    assert num_reads(shortened, "default", 6) == num_reads(shortened, "default", 12)


def test_a_first_block_cache_reads_at_each_step_how_much_has_changed(saved: Saved) -> None:
    cached = faster(saved("flux"), first_block_cache={})
    assert num_reads(cached, "default", 6) + 6 == num_reads(cached, "default", 12)


def test_unpatched_steps_of_diffusers_read_at_each_step(loaded: Loaded) -> None:
    six, twelve = (num_reads(loaded("sd"), "ddim", steps, lambda s: s) for steps in (6, 12))
    assert six + 12 < twelve


@pytest.mark.parametrize(
    ("family", "sampler"), [*(("sd", name) for name in DIFFUSION), ("sd3", "unipc")]
)
def test_patched_steps_change_no_bit(loaded: Loaded, family: str, sampler: str) -> None:
    model = loaded(family)
    plain = schedulers.make(sampler, model.scheduler_config)
    patched = no_sync.install(schedulers.make(sampler, model.scheduler_config))
    ends = []
    for scheduler in (plain, patched):
        scheduler.set_timesteps(5)
        noise = torch.Generator().manual_seed(0)
        x = torch.randn(1, 4, 8, 8, generator=noise) * scheduler.init_noise_sigma
        seeded = "generator" in inspect.signature(scheduler.step).parameters
        arguments = {"generator": noise} if seeded else {}
        for time in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, time)
            x = scheduler.step(torch.tanh(scaled), time, x, **arguments).prev_sample
        ends.append(x)
    assert torch.equal(*ends)


class Waits(TorchDispatchMode):
    """Counts single numbers that are uploaded to the meta device, and equations checked there."""

    def __init__(self) -> None:
        super().__init__()
        self.num_uploaded = 0
        self.num_checked = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket is ATEN._to_copy and result.is_meta and result.ndim == 0:
            self.num_uploaded += 1
        self.num_checked += function.overloadpacket is ATEN._linalg_check_errors
        return result


def waits(scheduler: Any) -> tuple[int, int]:
    """What six steps upload to a device that has no values to read, and check there."""
    scheduler.set_timesteps(6)
    x = torch.empty(2, 4, 8, 8, device="meta")
    with Waits() as counted:
        for time in scheduler.timesteps:
            x = scheduler.step(scheduler.scale_model_input(x, time), time, x).prev_sample
    return counted.num_uploaded, counted.num_checked


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "euler", "heun", "unipc"])
def test_no_patched_step_uploads_a_number_or_checks_an_equation(
    loaded: Loaded, sampler: str
) -> None:
    scheduler = no_sync.install(schedulers.make(sampler, loaded("sd").scheduler_config))
    assert waits(scheduler) == (0, 0)


def test_an_unpatched_step_of_unipc_does_both(loaded: Loaded) -> None:
    uploaded, checked = waits(schedulers.make("unipc", loaded("sd").scheduler_config))
    assert uploaded > 6
    assert checked > 1


@pytest.mark.parametrize("mode", ["image", pytest.param("inpaint", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("family", "sampler"),
    [*(("sd", name) for name in (*DIFFUSION, "default")), ("flux", "flow-euler")],
)
def test_patched_steps_change_no_bit_of_an_image_that_begins_with_a_picture(
    loaded: Loaded, family: str, sampler: str, mode: str, request: pytest.FixtureRequest
) -> None:
    made = Sampler(loaded(family), 2)
    settings = pictures.params(mode, 0.6, scheduler=sampler, num_inference_steps=7)
    expected = made.sample(pictures.requests(mode)[:2], settings).pixels
    request.getfixturevalue("no_sync_on_cpu")
    np.testing.assert_array_equal(
        made.sample(pictures.requests(mode)[:2], settings).pixels, expected
    )


GIVEN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "view": lambda time: time,
    "copy": lambda time: time.clone(),
    "expanded": lambda time: time.expand(2),
    "rounded": lambda time: time.to(torch.bfloat16),
}
"""How pipelines give a timestep to `step`."""


@pytest.mark.parametrize("how", GIVEN)
@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun"])
def test_the_first_timestep_of_a_step_is_found_wherever_a_pipeline_begins(
    loaded: Loaded, sampler: str, how: str
) -> None:
    for begin in (0, 2, 4):
        plain, patched = (schedulers.make(sampler, loaded("sd").scheduler_config) for _ in range(2))
        no_sync.install(patched)
        ends = []
        for scheduler in (plain, patched):
            scheduler.set_timesteps(6)
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(begin)
            x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
            for time in scheduler.timesteps[begin:]:
                given = time if scheduler is plain else GIVEN[how](time)
                scaled = scheduler.scale_model_input(x, time)
                x = scheduler.step(torch.tanh(scaled), given, x).prev_sample
            ends.append(x)
        assert torch.equal(*ends)
