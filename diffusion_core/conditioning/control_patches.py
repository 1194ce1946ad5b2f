"""What diffusers' pipelines with ControlNets do for one image, made right for a batch."""

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from nightpress.diffusion_core import patching

SEED = "sample the VAE with the seed of each image"
ATTEND = "keep the images of a batch apart in union ControlNets"
MODES = "give every image of a batch the kind of its control image"


@contextlib.contextmanager
def own_random_numbers(pipeline: Any, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """For one call, draw an image's random numbers in the VAE's encoder from its own seed.

    Some classes, such as StableDiffusion3ControlNetPipeline, encode control images without a
    generator, and so draw from torch's global one, for all images together. Here each image has a
    generator for such draws, which begins at its seed: a batch of one has the bits that plain
    diffusers has after `torch.manual_seed(seed)`. Draws that have a generator stay as they are.

    Read against diffusers 0.42.1. Relies on `vae.encode(images)` returning an object with
    `latent_dist`, whose `sample` takes a list of generators, and on batches that hold all images
    once or, with guidance, twice.

    Args:
        pipeline: the one that is called.
        generators: (B,) fresh ones, at the seed of each image.
    """
    encode = patching.require(pipeline.vae, "encode", SEED)

    def encoded(images: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = encode(images, *args, **kwargs)
        if hasattr(output, "latent_dist"):
            _seed(output.latent_dist, list(generators) * (len(images) // len(generators)))
        return output

    with patching.shadowed(pipeline.vae, "encode", encoded):
        yield


def _seed(distribution: Any, generators: Sequence[torch.Generator]) -> None:
    """Give a distribution generators to draw with when it is given none."""
    sample = patching.require(distribution, "sample", SEED)
    distribution.sample = lambda generator=None: sample(
        list(generators) if generator is None else generator
    )


@contextlib.contextmanager
def modes_for_all(pipeline: Any) -> Iterator[None]:
    """For one call, give FLUX' union ControlNets the kind of picture for every image of a batch.

    FluxControlNetImg2ImgPipeline and FluxControlNetInpaintPipeline pass it for one image only.

    Read against diffusers 0.42.1. Relies on `controlnet_mode`, which is (1, 1) or (B, 1) for one
    ControlNet and a sequence of (1,) or (B,) for several.
    """
    if not type(pipeline).__name__.startswith("Flux"):
        yield
        return
    forward = patching.require(pipeline.controlnet, "forward", MODES)
    if "controlnet_mode" not in inspect.signature(forward).parameters:
        raise patching.incompatible(pipeline.controlnet, "it takes no controlnet_mode", MODES)
    has_several = hasattr(pipeline.controlnet, "nets")

    def expanded(hidden_states: torch.Tensor, controlnet_mode: Any = None, **values: Any) -> Any:
        size = len(hidden_states)
        if has_several:
            controlnet_mode = [mode.expand(size) for mode in controlnet_mode]
        elif controlnet_mode is not None:
            controlnet_mode = controlnet_mode.expand(size, 1)
        return forward(hidden_states=hidden_states, controlnet_mode=controlnet_mode, **values)

    with patching.shadowed(pipeline.controlnet, "forward", expanded):
        yield


@contextlib.contextmanager
def attention_within_images(pipeline: Any, batch_size: int) -> Iterator[None]:
    """For one call, keep SDXL's union ControlNets from attending to other images of a batch.

    Their attention over control images takes the dimension of the batch for that of the sequence,
    so that each image sees the control images of all. Alone, an image attends to itself; within the
    block it does so in a batch too.

    Read against diffusers 0.42.1. Relies on the layers `transformer_layes` having a method
    `attention`, which takes (g * B, inputs, channels) with g = 2 under guidance, and on their
    `attn`, whose `batch_first` says whether all of this is still so.

    Args:
        pipeline: the one that is called.
        batch_size: B, the images of the batch.
    """
    with contextlib.ExitStack() as stack:
        for network in _networks(pipeline.controlnet):
            for layer in getattr(network, "transformer_layes", ()):
                _require_swapped(layer)
                attend = patching.require(layer, "attention", ATTEND)
                shadow = functools.partial(_attend_within, attend, batch_size)
                stack.enter_context(patching.shadowed(layer, "attention", shadow))
        yield


def _networks(controlnet: Any) -> list[Any]:
    """The distinct networks of a pipeline's ControlNets."""
    return list(dict.fromkeys(getattr(controlnet, "nets", [controlnet])))


def _require_swapped(layer: Any) -> None:
    attention = patching.require(layer, "attn", ATTEND)
    if patching.require(attention, "batch_first", ATTEND):
        raise patching.incompatible(layer, "its attention has batch_first", ATTEND)


def _attend_within(attend: Any, batch_size: int, values: torch.Tensor) -> torch.Tensor:
    """Attend over (g * B, inputs, channels) as over B * inputs sequences of g."""
    groups = values.reshape(len(values) // batch_size, -1, values.shape[-1])
    attended: torch.Tensor = attend(groups)
    return attended.reshape(values.shape)


@contextlib.contextmanager
def around_call(pipeline: Any, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """All of these, for a pipeline with ControlNets; nothing for another.

    Args:
        pipeline: the one that is called.
        generators: as for `own_random_numbers`.
    """
    if getattr(pipeline, "controlnet", None) is None:
        yield
        return
    with (
        own_random_numbers(pipeline, generators),
        modes_for_all(pipeline),
        attention_within_images(pipeline, len(generators)),
    ):
        yield
