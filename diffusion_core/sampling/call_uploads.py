"""What a pipeline uploads before its first step and between steps, without waiting for the device.

Where diffusers copies from ordinary host memory, the host waits until the device has done all that
is queued: here, the whole batch before. Within a call such copies go through page-locked memory,
and the values are the same. `no_sync` does what is left inside a scheduler's steps.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.conditioning.arguments import IN_0_TO_1
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling import no_sync

PROCESSORS = ("image_processor", "mask_processor", "control_image_processor")
"""What pipelines call the objects that prepare pictures."""

NOISERS = ("add_noise", "scale_noise")
"""Methods of a scheduler that noise a picture; inpainting calls one at each step."""

PREPARE = "prepare pictures without waiting for the accelerator"
BEGIN = "upload what a call begins with without waiting for the accelerator"
NEXT_TIMESTEP = "read the timestep of an inpainting step without waiting for the accelerator"


class _Uploading(TorchFunctionMode):
    """Copies host tensors to the device through page-locked memory; acts in one thread only.

    An index that is a list of numbers is uploaded likewise.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called in place of each function of torch; while it runs, the mode is off."""
        values = dict(kwargs or {})
        if func is torch.Tensor.to and "memory_format" not in values:
            device, dtype = _target((*args[1:], *values.values()))
            if device is not None and _leaves_host(args[0], device):
                return no_sync.upload(args[0] if dtype is None else args[0].to(dtype), device)
        elif func is torch.Tensor.__getitem__ and args[0].device.type != "cpu":
            tensor, index = args
            if isinstance(index, list) and index and all(type(each) is int for each in index):
                return func(tensor, no_sync.upload(torch.tensor(index), tensor.device))
        return func(*args, **values)


def _target(arguments: Sequence[Any]) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and the type that arguments of `Tensor.to` name."""
    device, dtype = None, None
    for each in arguments:
        if isinstance(each, torch.Tensor):
            device, dtype = each.device, each.dtype
        elif isinstance(each, torch.dtype):
            dtype = each
        elif isinstance(each, torch.device | str):
            device = torch.device(each)
    return device, dtype


def _leaves_host(tensor: torch.Tensor, device: torch.device) -> bool:
    """Whether a tensor goes from host memory to another device, and has no gaps or overlaps.

    Weights are not meant: page-locked copies of a network that moves would fill the host's memory.
    """
    if tensor.device.type != "cpu" or device.type == "cpu":
        return False
    return tensor.is_contiguous() and not isinstance(tensor, torch.nn.Parameter)


@contextlib.contextmanager
def around_call(
    pipeline: Any, values: Mapping[str, Any], model: LoadedModel
) -> Iterator[Callable[..., Any]]:
    """Within the block, one call of a pipeline waits for no upload; yields what to call.

    Uploads are watched until the first step, and whenever the scheduler noises a picture. On a CPU,
    and where networks are moved to the device in turn, the pipeline is called as it is.

    Read against diffusers 0.42.1. Relies on `progress_bar` being called right before the first
    step; a pipeline that does not call it is called as it is.

    Args:
        pipeline: the one that is called, with a scheduler that `no_sync.install` has patched.
        values: the arguments that it is called with.
        model: whose pipeline it is.
    """
    as_it_is = torch.device(model.device).type == "cpu" or model.memory.offload != "none"
    if as_it_is or not patching.refers_to(type(pipeline).__call__, "progress_bar"):
        yield pipeline
        return
    given = (values.get(name) for name in IN_0_TO_1)
    pictures = [each for each in given if isinstance(each, torch.Tensor)]
    progress_bar = patching.require(pipeline, "progress_bar", BEGIN)
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as until_first_step:

        def first_step(*args: Any, **kwargs: Any) -> Any:
            until_first_step.close()
            return progress_bar(*args, **kwargs)

        for name in PROCESSORS:
            if hasattr(pipeline, name):
                stack.enter_context(_unread(getattr(pipeline, name), pictures))
        stack.enter_context(patching.shadowed(pipeline, "progress_bar", first_step))
        _upload_while_noising(pipeline.scheduler)
        until_first_step.enter_context(_Uploading())
        yield _with_host_timesteps(pipeline)


def _upload_while_noising(scheduler: Any) -> None:
    """Have a scheduler's methods in `NOISERS` upload without a wait; changes that scheduler."""
    for name in NOISERS:
        if (noise := getattr(scheduler, name, None)) is not None:
            setattr(scheduler, name, _uploading(noise))


def _uploading(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def uploaded(*args: Any, **kwargs: Any) -> Any:
        with _Uploading():
            return method(*args, **kwargs)

    return uploaded


@contextlib.contextmanager
def _unread(processor: Any, pictures: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within the block, no value of these pictures, which are in 0..1, is read to prepare them.

    Read against diffusers 0.42.1. Relies on `preprocess(image, ...)` reading values only by
    `image.min()`, to see whether one is below 0.
    """
    preprocess = patching.require(processor, "preprocess", PREPARE)

    def prepared(image: Any, *args: Any, **kwargs: Any) -> Any:
        known = any(image is each for each in pictures)
        with _NotNegative() if known else contextlib.nullcontext():
            return preprocess(image, *args, **kwargs)

    with patching.shadowed(processor, "preprocess", prepared):
        yield


class _NotNegative(TorchFunctionMode):
    """Says of the least value of a whole tensor on a device that it is 0, without reading it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called in place of each function of torch; while it runs, the mode is off."""
        if func is torch.Tensor.min and len(args) == 1 and not kwargs and not args[0].is_cpu:
            return torch.zeros(())
        return func(*args, **(kwargs or {}))


def _with_host_timesteps(pipeline: Any) -> Callable[..., Any]:
    """The call of a pipeline, in which `torch.tensor([timestep])` reads no value on the device.

    Read against diffusers 0.42.1. Relies on inpainting classes calling that with an element of
    `scheduler.timesteps`. Their `__call__` is decorated with `torch.no_grad`, which sampling, in
    inference mode, does not need.
    """
    call = inspect.unwrap(type(pipeline).__call__)
    noises = any(patching.refers_to(call, name) for name in NOISERS)
    if not (noises and patching.refers_to(call, "tensor")):
        return pipeline  # type: ignore[no-any-return]
    reading = _Torch(pipeline.scheduler)
    return patching.with_globals(MethodType(call, pipeline), NEXT_TIMESTEP, torch=reading)


class _Torch:
    """torch as an inpainting pipeline sees it: timesteps are read from their host copy."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def tensor(self, data: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`torch.tensor`."""
        if isinstance(data, list) and len(data) == 1 and isinstance(data[0], torch.Tensor):
            known = no_sync.host_timestep(self._scheduler, data[0])
            data = data if known is None else [known]
        return torch.tensor(data, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
