"""Scheduler steps that never make the host wait for the accelerator.

diffusers' steps wait in three places: noise from a CPU generator is copied from pageable memory,
the current timestep is looked up by comparing tensors on the accelerator, and UniPC solves a small
system of equations there and checks the result. The timesteps themselves are made on the
accelerator, or copied there from pageable memory. The patches below remove these waits without
changing a bit of an image. They are installed on one fresh scheduler, as copies of its
methods, so no other scheduler and no other thread sees them.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import IncompatibleLibrary
from nightpress.diffusion_core.models.samplers import SCHEDULERS

UNIPC_UPDATES = ("multistep_uni_p_bh_update", "multistep_uni_c_bh_update")
"""UniPC's predictor and corrector."""

ON_DEVICE: dict[str, tuple[str, ...]] = {
    class_name: ("timesteps",) for class_name, _ in SCHEDULERS.values()
} | {"FlowMatchEulerDiscreteScheduler": ("timesteps", "sigmas")}
"""Class -> the attributes that its `set_timesteps` leaves on the device that it is given."""

DRAW_NOISE = "draw a step's noise without waiting for the accelerator"
MAKE_TIMESTEPS = "make a batch's timesteps in host memory"
READ_TIMESTEPS = "keep a step's timestep in host memory"
SOLVE = "solve UniPC's equations without waiting for the accelerator"


def install(scheduler: Any) -> Any:
    """Patch a fresh scheduler so that its steps do not wait; returns that scheduler.

    Schedulers that `SCHEDULERS` does not name are patched as far as the patches fit them.

    Raises:
        IncompatibleLibrary: an upgrade of diffusers has moved what a patch replaces.
    """
    known = type(scheduler).__name__ in {class_name for class_name, _ in SCHEDULERS.values()}
    parameters = inspect.signature(scheduler.step).parameters
    if patching.refers_to(scheduler.step, "randn_tensor") or (known and "generator" in parameters):
        upload_noise(scheduler)
    if type(scheduler).__name__ == "UniPCMultistepScheduler":
        solve_on_device(scheduler)
    if known or list(parameters)[:2] == ["model_output", "timestep"]:
        use_host_timesteps(scheduler)
    # Continuous timesteps are logarithms, whose last bit depends on the device.
    if known and scheduler.config.get("timestep_type") != "continuous":
        set_timesteps_on_host(scheduler)
    return scheduler


@dataclass(frozen=True)
class Timesteps:
    """The timesteps of a batch, on the accelerator and in host memory."""

    on_device: torch.Tensor
    on_host: torch.Tensor

    def place_of(self, timestep: torch.Tensor) -> int | None:
        """The index of a view of one of them, found by its place in memory; None for another."""
        everything = self.on_device
        if timestep.untyped_storage().data_ptr() != everything.untyped_storage().data_ptr():
            return None
        offset = timestep.storage_offset() - everything.storage_offset()
        return int(offset // everything.stride(0))


def set_timesteps_on_host(scheduler: Any) -> None:
    """Have a fresh scheduler make its timesteps in host memory, and upload them without a wait.

    The values are those that diffusers makes: nearly all of it is done in numpy, and the rest, a
    product for flow matching, is exact to the last bit on any device. The host copy stays with the
    scheduler, in `host_timesteps`.

    Read against diffusers 0.42.1. Relies on `set_timesteps` having an argument `device`, and on
    `ON_DEVICE`.
    """
    set_timesteps = patching.require(scheduler, "set_timesteps", MAKE_TIMESTEPS)
    signature = inspect.signature(set_timesteps)
    if "device" not in signature.parameters:
        raise _moved(scheduler, "set_timesteps has no argument device")

    @functools.wraps(set_timesteps)
    def set_on_host(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        device = bound.arguments.get("device")
        if device is None or torch.device(device).type in ("cpu", "mps"):
            set_timesteps(*args, **kwargs)
            return
        bound.arguments["device"] = "cpu"
        set_timesteps(*bound.args, **bound.kwargs)
        on_host = scheduler.timesteps
        for name in ON_DEVICE[type(scheduler).__name__]:
            setattr(scheduler, name, upload(getattr(scheduler, name), device))
        scheduler.host_timesteps = Timesteps(scheduler.timesteps, on_host)

    scheduler.set_timesteps = set_on_host
    if hasattr(scheduler, "index_for_timestep"):
        _look_up_on_host(scheduler)


def _look_up_on_host(scheduler: Any) -> None:
    """Have a fresh scheduler look timesteps up in their host copy, where it looks in its own list.

    Read against diffusers 0.42.1. Relies on `index_for_timestep(timestep)`, with a second argument
    only for another list.
    """
    look_up = scheduler.index_for_timestep

    @functools.wraps(look_up)
    def looked_up(timestep: Any, schedule_timesteps: Any = None) -> Any:
        if schedule_timesteps is None and isinstance(timestep, torch.Tensor):
            known = host_timestep(scheduler, timestep)
            if known is not None:
                return look_up(known, scheduler.host_timesteps.on_host)
        return look_up(timestep, schedule_timesteps)

    scheduler.index_for_timestep = looked_up


def host_timestep(scheduler: Any, timestep: torch.Tensor) -> torch.Tensor | None:
    """One of a scheduler's timesteps in host memory; None if its place there is not known."""
    known: Timesteps | None = vars(scheduler).get("host_timesteps")
    if known is None or timestep.device.type == "cpu" or timestep.ndim:
        return None
    place = known.place_of(timestep)
    return None if place is None else known.on_host[place]


def upload_noise(scheduler: Any) -> None:
    """Have the steps of a fresh scheduler draw noise on the host and upload it without a wait.

    The values are those that diffusers draws. For CPU generators only.

    Read against diffusers 0.42.1. Relies on `step` calling the global `randn_tensor` with the shape
    first and `device` by keyword.
    """
    draw = patching.require("diffusers.utils.torch_utils", "randn_tensor", DRAW_NOISE)

    def drawn(shape: Any, *, device: Any = None, **settings: Any) -> torch.Tensor:
        return upload(draw(shape, device=torch.device("cpu"), **settings), device)

    scheduler.step = patching.with_globals(scheduler.step, DRAW_NOISE, randn_tensor=drawn)


def upload(tensor: torch.Tensor, device: Any) -> torch.Tensor:
    """Copy a host tensor to a device; to CUDA from page-locked memory, so that nothing waits."""
    target = torch.device(device or "cpu")
    if target.type != "cuda":
        return tensor.to(target)
    return tensor.pin_memory().to(target, non_blocking=True)


def use_host_timesteps(scheduler: Any) -> None:
    """Have the steps of a fresh scheduler read their timesteps from a copy in host memory.

    The copy is made at the first step: by then the pipeline has a list of timesteps of its own. A
    pipeline that begins with a picture leaves out the first of them, as its strength says.

    Read against diffusers 0.42.1. Relies on `step(model_output, timestep, ...)`, on the attribute
    `timesteps`, and on pipelines that call `step` once for each of them from the one they begin
    with, in their order.
    """
    step = scheduler.step
    if list(inspect.signature(step).parameters)[:2] != ["model_output", "timestep"]:
        raise _moved(scheduler, "step does not begin with model_output and timestep")
    timesteps: list[torch.Tensor] = []
    copied = False

    @functools.wraps(step)
    def stepped(model_output: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal copied
        if not copied:
            if "timesteps" not in vars(scheduler):
                raise _moved(scheduler, "set_timesteps leaves no attribute timesteps")
            first = _first_step(scheduler, timestep)
            scheduler.timesteps = _in_host_memory(scheduler)
            timesteps.extend(reversed(scheduler.timesteps[first:].unbind()))
            copied = True
        if not timesteps:
            raise _moved(scheduler, "step is called more often than there are timesteps")
        return step(model_output, timesteps.pop(), *args, **kwargs)

    scheduler.step = stepped


def _in_host_memory(scheduler: Any) -> torch.Tensor:
    """A copy of a scheduler's timesteps in host memory; waits only where there is none yet."""
    current: torch.Tensor = scheduler.timesteps
    known: Timesteps | None = vars(scheduler).get("host_timesteps")
    if known is not None and known.on_device is current:
        return known.on_host.clone()
    return current.to("cpu", copy=True)


def _first_step(scheduler: Any, timestep: Any) -> int:
    """The index of the timestep with which a pipeline begins.

    Usually the timestep is a view of the scheduler's list, and its place in memory tells, without
    reading a value. A value may stand there twice, as with Heun's method, where `begin_index` says
    which is meant.
    """
    everything = scheduler.timesteps
    if isinstance(timestep, torch.Tensor):
        place = Timesteps(everything, everything).place_of(timestep)
        if place is not None:
            return place
    begin: int | None = getattr(scheduler, "begin_index", None)
    if begin is not None:
        return begin
    value = torch.as_tensor(timestep, device=everything.device).flatten()[0]
    return int((everything - value).abs().argmin())  # the nearest: it may have been rounded


def solve_on_device(scheduler: Any) -> None:
    """Have the steps of a fresh UniPC scheduler solve their equations without a wait.

    The noise levels are uploaded once, at the first update, and the solution is not checked: a
    system without one gives values that are not finite, where diffusers raises an error.

    Read against diffusers 0.42.1. Relies on `step` calling the methods in `UNIPC_UPDATES` with a
    network's output first, and on their reading `self.sigmas` and calling `torch.linalg.solve`.
    """
    on_device: list[torch.Tensor] = []
    for name in UNIPC_UPDATES:
        patching.require_reference(scheduler.step, name, SOLVE)
        update = patching.require(scheduler, name, SOLVE)
        for part in ("sigmas", "linalg", "solve"):
            patching.require_reference(update, part, SOLVE)
        update = patching.with_globals(update, SOLVE, torch=_Torch())
        setattr(scheduler, name, _with_sigmas_on_device(scheduler, update, on_device))


def _with_sigmas_on_device(
    scheduler: Any, update: Callable[..., torch.Tensor], on_device: list[torch.Tensor]
) -> Callable[..., torch.Tensor]:
    """An update that finds the noise levels on the accelerator; `on_device` keeps them there."""

    @functools.wraps(update)
    def updated(*args: Any, **kwargs: Any) -> torch.Tensor:
        output = (*args, *kwargs.values())[0]
        on_host = scheduler.sigmas
        if not on_device:
            on_device.append(upload(on_host, output.device))
        scheduler.sigmas = on_device[0]
        try:
            return update(*args, **kwargs)
        finally:
            scheduler.sigmas = on_host

    return updated


def _moved(scheduler: Any, what: str) -> IncompatibleLibrary:
    return patching.incompatible(scheduler, f"{type(scheduler).__name__}: {what}", READ_TIMESTEPS)


class _Torch:
    """torch as UniPC's updates see it: it solves equations without checking the result."""

    linalg = SimpleNamespace(solve=lambda a, b: torch.linalg.solve_ex(a, b).result)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
