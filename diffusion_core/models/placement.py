"""Where the networks of a model are while it samples: all on the device, or moved there in turn.

diffusers and accelerate do the moving. It changes no arithmetic, so an image has the same bits.
"""

import importlib.util
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import ModelError, as_model_error
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder

KNOW_DEVICE = "know the device of a pipeline without looking through its networks"

Offload = Literal["none", "model", "group"]


class MemorySpec(BaseModel):
    """How a model that is larger than its device is held."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    offload: Annotated[
        Offload,
        Field(
            description="model: each network is on the accelerator only while it works; group: "
            "only the block that works, which is slower and needs least. Nothing changes on a CPU."
        ),
    ] = "none"
    device_map: Annotated[
        Literal["none", "balanced"],
        Field(
            description="balanced: the networks are spread over all GPUs of an actor; see "
            "cluster.gpus_per_actor."
        ),
    ] = "none"

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if self.offload != "none" and self.device_map != "none":
            raise ValueError("offload and device_map exclude each other; use one of the two")
        return self

    @property
    def moves_networks(self) -> bool:
        """Whether anything but one device holds the networks."""
        return self != MemorySpec()


def require_placement(memory: MemorySpec, pipeline_class: Any, model: PipelineFolder) -> None:
    """Check, before a model is loaded, that it can be placed like this.

    Raises:
        ModelError: accelerate is missing, the class names no order of its networks, or the model
            is one file, whose networks diffusers does not spread.
    """
    if not memory.moves_networks:
        return
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError(
            "model.memory needs accelerate; install it with: pip install 'nightpress[memory]'"
        )
    if memory.device_map == "balanced" and model.checkpoint is not None:
        raise ModelError(
            f"model.memory.device_map: {model.shown} is a model in one file, which diffusers does "
            "not spread over GPUs; write it as a folder with nightpress convert"
        )
    if memory.offload == "model" and getattr(pipeline_class, "model_cpu_offload_seq", None) is None:
        raise ModelError(
            f"model.memory.offload: {pipeline_class.__name__} does not say in which order its "
            "networks work; use offload: group"
        )


def spread_arguments(memory: MemorySpec, device: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that spread a pipeline's networks over all GPUs, if it is to.

    The process sees the GPUs that Ray has given to its actor.
    """
    balanced = memory.device_map == "balanced" and device != "cpu"
    return {"device_map": "balanced"} if balanced else {}


def remember_device(pipeline: Any, memory: MemorySpec, like: Any = None) -> None:
    """Have a pipeline remember the device of its networks, if they stay on one.

    In each call diffusers looks for hooks that move networks, in every module of all of them. For
    SDXL with LoRAs these are thousands, and a GPU waits meanwhile.

    Read against diffusers 0.42.1. Relies on the property `_execution_device`, by which `__call__`
    knows where its inputs belong.

    Args:
        pipeline: on its device.
        memory: how its networks are held.
        like: a pipeline over the same networks that remembers its device already.

    Raises:
        IncompatibleLibrary: there is no such property.
    """
    kind = type(pipeline)
    if memory.moves_networks or vars(kind).get("remembers_device"):
        return
    device = patching.require(pipeline if like is None else like, "_execution_device", KNOW_DEVICE)
    known = {"_execution_device": device, "remembers_device": True, "__module__": kind.__module__}
    pipeline.__class__ = type(kind.__name__, (kind,), known)


def place(pipeline: Any, memory: MemorySpec, device: str) -> None:
    """Put the networks of a pipeline, which is on the CPU, where `memory` wants them.

    On a CPU they stay where they are.

    Args:
        pipeline: with its LoRAs loaded.
        device: torch's name of the device that samples.

    Raises:
        ModelError: diffusers cannot place them.
    """
    if device == "cpu" or memory.offload == "none":
        return
    with as_model_error(f"model.memory.offload: {memory.offload}"):
        offload(pipeline, memory.offload, device)


def offload(pipeline: Any, kind: Offload, device: str) -> None:
    """Attach the hooks that move networks, or their blocks, to the device while they work.

    Args:
        pipeline: on the CPU.
        kind: `model` or `group`.
        device: torch's name of the device; a CPU is allowed, and then nothing moves.
    """
    import torch

    if kind == "model":
        pipeline.enable_model_cpu_offload(device=torch.device(device))
        return
    on_gpu = torch.device(device).type == "cuda"
    pipeline.enable_group_offload(
        onload_device=torch.device(device),
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=on_gpu,
        record_stream=on_gpu,
        non_blocking=on_gpu,
    )
