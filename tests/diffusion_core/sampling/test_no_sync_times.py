"""No step waits for the accelerator: nothing that is computed there is asked for in between."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nightpress.diffusion_core.models.loading import LoadedModel, ModelSpec, load
from nightpress.diffusion_core.sampling import schedulers
from nightpress.diffusion_core.sampling.no_sync import keep_at_hand, solve_without_waiting
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

Saved = Callable[[str], Path]
Loaded = Callable[[str], LoadedModel]

ATEN = torch.ops.aten
ASKS = (ATEN.item, ATEN._local_scalar_dense, ATEN.is_nonzero, ATEN.nonzero, ATEN.equal)
"""What makes a host wait until a tensor on an accelerator is computed."""

COPIES = (ATEN.to, ATEN._to_copy)
"""What brings a tensor from an accelerator; done once a sampling, it is no question."""

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
    """Plays an accelerator on a CPU: follows what lies there, and counts the questions about it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_questions = 0
        self._there: dict[int, torch.Tensor] = {}

    def put(self, tensor: torch.Tensor) -> None:
        self._there[tensor.untyped_storage().data_ptr()] = (
            tensor  # held, so no other takes its place
        )

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not any(t.untyped_storage().data_ptr() in self._there for t in given):
            return result
        if function.overloadpacket in ASKS:
            self.num_questions += 1
        elif function.overloadpacket not in COPIES:
            for made in tree_leaves(result):
                if isinstance(made, torch.Tensor) and made.numel():
                    self.put(made)
        return result


def questions(loaded: LoadedModel, sampler: str, num_steps: int) -> int:
    """How often a sampling asks for what a real pipeline has on the accelerator."""
    accelerator = Accelerator()
    denoiser = getattr(loaded.pipeline, "unet", None) or loaded.pipeline.transformer
    watch = denoiser.register_forward_hook(lambda _, inputs, output: accelerator.put(output[0]))
    params = SamplingParams(64, 32, num_steps, 4.0, sampler)
    with pytest.MonkeyPatch.context() as patch:
        make = schedulers.make

        def made(*arguments: Any) -> Any:
            scheduler = make(*arguments)
            set_timesteps = scheduler.set_timesteps

            @functools.wraps(set_timesteps)
            def on_the_accelerator(*args: Any, **kwargs: Any) -> None:
                set_timesteps(*args, **kwargs)
                accelerator.put(scheduler.timesteps)

            scheduler.set_timesteps = on_the_accelerator
            return scheduler

        patch.setattr(schedulers, "make", made)
        try:
            with accelerator:
                Sampler(loaded, 1).sample([ImageRequest("a red fox", "", 1)], params)
        finally:
            watch.remove()
    return accelerator.num_questions


@pytest.mark.parametrize("sampler", ["default", *DIFFUSION])
def test_more_steps_of_a_u_net_ask_no_more_questions(loaded: Loaded, sampler: str) -> None:
    assert questions(loaded("sd"), sampler, 6) == questions(loaded("sd"), sampler, 12)


@pytest.mark.parametrize("family", ["lcm", "sdxl", "sd3", "flux", "pixart", "sana"])
def test_more_steps_of_any_family_ask_no_more_questions(loaded: Loaded, family: str) -> None:
    assert questions(loaded(family), "default", 6) == questions(loaded(family), "default", 12)


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
def test_more_steps_of_which_some_are_cut_short_ask_no_more_questions(
    saved: Saved, family: str, name: str, choice: Any
) -> None:
    cut_short = faster(saved(family), **{name: choice})
    assert questions(cut_short, "default", 6) == questions(cut_short, "default", 12)


def test_a_first_block_cache_asks_at_each_step_how_much_is_new(saved: Saved) -> None:
    asking = faster(saved("flux"), first_block_cache={})
    assert questions(asking, "default", 6) + 6 == questions(asking, "default", 12)


def test_a_step_as_diffusers_has_it_does_ask(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "nightpress.diffusion_core.sampling.no_sync.keep_at_hand", lambda scheduler: scheduler
    )
    assert questions(loaded("sd"), "ddim", 6) + 12 < questions(loaded("sd"), "ddim", 12)


@pytest.mark.parametrize(
    ("family", "sampler"), [*(("sd", name) for name in DIFFUSION), ("sd3", "unipc")]
)
def test_steps_that_wait_for_nothing_change_no_bit(
    loaded: Loaded, family: str, sampler: str
) -> None:
    model = loaded(family)
    plain, unwaiting = (schedulers.make(sampler, model.scheduler_config) for _ in range(2))
    keep_at_hand(solve_without_waiting(unwaiting))
    ends = []
    for scheduler in (plain, unwaiting):
        scheduler.set_timesteps(5)
        noise = torch.Generator().manual_seed(0)
        x = torch.randn(1, 4, 8, 8, generator=noise) * scheduler.init_noise_sigma
        seeded = "generator" in inspect.signature(scheduler.step).parameters
        takes = {"generator": noise} if seeded else {}
        for time in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, time)
            x = scheduler.step(torch.tanh(seen), time, x, **takes).prev_sample
        ends.append(x)
    assert torch.equal(*ends)


class Waits(TorchDispatchMode):
    """Counts single numbers that are brought to an accelerator, and equations checked there."""

    def __init__(self) -> None:
        super().__init__()
        self.num_brought = 0
        self.num_checked = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket is ATEN._to_copy and result.is_meta and result.ndim == 0:
            self.num_brought += 1
        self.num_checked += function.overloadpacket is ATEN._linalg_check_errors
        return result


def waits(scheduler: Any) -> tuple[int, int]:
    """What six steps bring to an accelerator that has no values to ask for, and check there."""
    scheduler.set_timesteps(6)
    x = torch.empty(2, 4, 8, 8, device="meta")
    with Waits() as seen:
        for time in scheduler.timesteps:
            x = scheduler.step(scheduler.scale_model_input(x, time), time, x).prev_sample
    return seen.num_brought, seen.num_checked


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "euler", "heun", "unipc"])
def test_no_step_brings_a_number_to_the_accelerator_or_checks_one_there(
    loaded: Loaded, sampler: str
) -> None:
    scheduler = Sampler(loaded("sd"), 1)._scheduler(SamplingParams(64, 32, 6, 4.0, sampler))
    assert waits(scheduler) == (0, 0)


def test_a_step_of_unipc_as_diffusers_has_it_does_both(loaded: Loaded) -> None:
    brought, checked = waits(schedulers.make("unipc", loaded("sd").scheduler_config))
    assert brought > 6
    assert checked > 1
