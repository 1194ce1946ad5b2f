"""The memory that an actor needs, from the bytes of its model's weights."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from nightpress.jobs.dispatch.memory_needs import Footprint
from nightpress.jobs.errors import ClusterError
from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.formatting import size
from nightpress.pipelines.job.spec import RunSpec

if TYPE_CHECKING:  # they import Ray, which a start that finds nothing to make does not need
    from nightpress.jobs.dispatch.actor import ActorFactory
    from nightpress.jobs.dispatch.first_actor import FirstActor

OVERHEAD_BYTES = 1 << 30
"""What an actor needs beside its weights: libraries, the images of a few batches."""


def sized_factory(spec: RunSpec, first: "FirstActor") -> Generator[Event, None, "ActorFactory"]:
    """The factory of the actors after the first, which reserve the memory that they need.

    They reserve none if the job asks for a fixed number of actors. On a node with less memory than
    one actor needs, one may run.

    Args:
        spec: the job.
        first: the first actor, which has found its model.

    Raises:
        ClusterError: the weights of an actor, or of all that share a GPU, do not fit in its memory.
    """
    from nightpress.jobs.cluster.capacity import most_memory_bytes

    factory, footprint = first.factory, (yield from first.footprint())
    _require_gpu_memory(factory, footprint)
    for each in (footprint, *footprint.others):
        fault = each.fault(spec.for_model(each.model).model, factory.gpus)
        if fault is not None:
            raise ClusterError(fault)
    if isinstance(spec.cluster.actors, int):
        return factory
    needed, most = footprint.weight_bytes + OVERHEAD_BYTES, most_memory_bytes()
    if not most:  # Ray was told nothing about the memory of its nodes
        return factory
    if needed > most:
        yield Message(
            f"an actor needs about {size(needed)} of memory for its model, and no node of the "
            f"cluster gives more than {size(most)}; a node gets one actor at most",
            warning=True,
        )
    first.factory = replace(factory, memory_bytes=min(needed, most))
    return first.factory


def thread_warning(factory: "ActorFactory") -> Iterator[Event]:
    """A warning if the threads of an actor may change the last bits of images."""
    if factory.threads > 1:
        yield Message(
            f"with {factory.threads} threads, a model on a CPU may round a pixel differently at "
            "different places in a batch; set cluster.cpus_per_actor to 1 to prevent this",
            warning=True,
        )


def _require_gpu_memory(factory: "ActorFactory", footprint: Footprint) -> None:
    if not 0 < factory.gpus < 1 or not footprint.device_bytes:
        return
    copies = int(1 / factory.gpus + 1e-9)
    if copies * footprint.weight_bytes > footprint.device_bytes:
        fits = max(1, footprint.device_bytes // footprint.weight_bytes)
        raise ClusterError(
            f"cluster.gpus_per_actor {factory.gpus:g} puts {copies} actors on a GPU of "
            f"{size(footprint.device_bytes)}, and the weights of each take "
            f"{size(footprint.weight_bytes)}; allowed is {1 / fits:.3g} or more"
        )
