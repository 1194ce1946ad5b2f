"""Which actor gets which work, and with which model."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from nightpress.jobs.dispatch.config import DispatchConfig
from nightpress.jobs.dispatch.shard_queue import ShardQueue
from nightpress.jobs.dispatch.timing import ModelTimings
from nightpress.jobs.dispatch.workers import InFlightShard, Worker, stragglers
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.work import Amendment, ShardWork

NO_AMENDMENTS: Mapping[int, Amendment] = {}


def queue_of(
    record: RunRecord,
    config: DispatchConfig,
    shards: Iterable[int],
    amendments: Mapping[int, Amendment] = NO_AMENDMENTS,
) -> ShardQueue:
    """The queue of some shards of a run; see `Dispatcher.run`."""

    def first_attempt(shard: int) -> ShardWork:
        amends = amendments.get(shard)
        num_rows = len(amends.rows) if amends else record.layout.shard_images(shard)
        return ShardWork(shard, 0, num_rows, look_first=config.look_first, amends=amends)

    # The driver has no scorers. Packed images are only stored with their whole shard.
    needs_actor = bool(record.scorers) and not record.spec.images.is_packed
    settings = config.max_attempts, needs_actor, record.layout.model_of
    return ShardQueue(shards, first_attempt, *settings)


def first_model(record: RunRecord, shards: Iterable[int], loaded: str | None) -> str | None:
    """The model of the first actor: what it has loaded, or else the one with the most shards.

    Args:
        shards: those that are to be made; at least one.
        loaded: the name of the model that the actor has loaded last, if any.
    """
    counts = Counter(map(record.layout.model_of, shards))
    return loaded if loaded in counts else max(counts, key=lambda model: counts[model])


def is_near_the_end(queue: ShardQueue, workers: Sequence[Worker], model: str | None) -> bool:
    """Whether fewer pieces of work with a model wait than actors have it."""
    return queue.waiting(model) < sum(worker.model == model for worker in workers)


def next_model(queue: ShardQueue, workers: Sequence[Worker], is_new: bool = False) -> str | None:
    """The model with the most work left for each actor that would have it, for another actor.

    An actor changes its model only where that helps: where no actor has the model, or more work
    waits than actors have it, each of which takes some when it is done. Among equals the model
    whose shards come first is chosen.

    Args:
        is_new: whether the actor has no model yet, so that it gets one in any case.

    Returns:
        None if there is none, or only one without a name.
    """
    # An actor that waits to be placed may wait for ever.
    having = [w.model for w in workers if not w.is_leaving and (is_new or w.is_placed)]
    best, most = None, 0.0
    for model in queue.models:
        waiting, number = queue.waiting(model), having.count(model)
        share = waiting / (number + 1)
        if share > most and (is_new or not number or waiting > number):
            best, most = model, share
    return best


def copies(
    workers: Sequence[Worker],
    timings: ModelTimings,
    may_copy: Callable[[InFlightShard], bool],
) -> Iterator[tuple[Worker, InFlightShard]]:
    """Idle actors, each with work of the same model that takes another one far too long."""
    for model in dict.fromkeys(worker.model for worker in workers):
        having = [worker for worker in workers if worker.model == model]
        idle = [worker for worker in having if worker.accepts_work and not worker.held]
        late = filter(may_copy, stragglers(having, timings.of(model)))
        yield from zip(idle, late, strict=False)
