"""Actors that answer at once, in the driver's own process and without Ray.

What a driver spends on its events then is its own time alone, for any number of actors.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from nightpress.jobs.dispatch import actor_pool, dispatcher, workers
from nightpress.jobs.dispatch.actor import ActorFactory, ActorLocation
from nightpress.jobs.dispatch.config import DispatchConfig
from nightpress.jobs.dispatch.dispatcher import Dispatcher
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.events import BatchDone, ShardBegun, ShardDone, ShardEvent
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store


@dataclass(frozen=True, eq=False)
class Answer:
    """The reference of a value that has arrived."""

    value: Any


class QuickRay:
    """The part of Ray that a dispatcher uses, where everything has arrived already."""

    __version__ = "0"

    def put(self, value: Any) -> Answer:
        return Answer(value)

    def get(self, reference: Any) -> Any:
        """The value of an answer; an event of a stream is its own value."""
        return reference.value if isinstance(reference, Answer) else reference

    def wait(self, references: Sequence[Any], **how: Any) -> tuple[list[Any], list[Any]]:
        return list(references), []

    def kill(self, handle: Any) -> None:
        """Do nothing: there is no process."""


class Method:
    """A remote method; every option is ignored."""

    def __init__(self, function: Any) -> None:
        self.remote = function

    def options(self, **values: Any) -> "Method":
        return self


class QuickActor:
    """The handle of an actor that has made each batch of a shard as soon as it is asked.

    Args:
        batch_size: images in a batch.
    """

    def __init__(self, batch_size: int) -> None:
        location = ActorLocation("node", "host", 1)
        self.begin = Method(lambda *values, **named: Answer(location))
        self.run_shard = Method(lambda work, ticket: events_of(work, batch_size))
        self.__ray_ready__ = Method(lambda: Answer(None))


def events_of(work: ShardWork, batch_size: int) -> Iterator[ShardEvent]:
    """What an actor reports of a shard without failures."""
    yield ShardBegun(work.shard)
    for start in range(0, work.num_rows, batch_size):
        number = min(batch_size, work.num_rows - start)
        yield BatchDone(work.shard, number, 0, number, batch_s=1.0)
    yield ShardDone(work.shard, work.num_rows, 0)


@dataclass(frozen=True)
class QuickFactory(ActorFactory):
    """Starts quick actors."""

    batch_size: int = 16

    def start(self) -> Any:
        return QuickActor(self.batch_size)


@contextmanager
def quick_dispatcher(
    store: Store, record: RunRecord, num_actors: int, batch_size: int
) -> Iterator[Dispatcher]:
    """A dispatcher of a run with so many actors, none of which is started yet."""
    factory = QuickFactory(
        spec=record.spec.model, options={}, cpus=1, gpus=0, threads=1, batch_size=batch_size
    )
    config = DispatchConfig(num_actors, num_actors, max_attempts=3, look_first=False)
    ray = QuickRay()
    with ExitStack() as stack:
        for module in (actor_pool, dispatcher, workers):
            stack.enter_context(mock.patch.object(module, "ray", ray))
        for name, value in (("draining_nodes", ()), ("tells_draining_nodes", True)):
            stack.enter_context(mock.patch.object(actor_pool, name, lambda value=value: value))
        made = Dispatcher(store, record, factory, config, room=lambda *needed: num_actors)
        made.pool._can_grow = lambda: False
        yield made
