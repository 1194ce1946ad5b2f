"""What running, previewing and repairing share: actors, create-only stores, and dispatching."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nightpress.diffusion_core.models.references import ReferenceSpec
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.jobs.cluster.local_start import LocalStart
from nightpress.jobs.dispatch.config import ASKED_TO_STOP, DispatchConfig
from nightpress.jobs.dispatch.limits import StopReason
from nightpress.jobs.errors import NightpressError, in_mid_run
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs.watch import Watch
from nightpress.jobs.signals import first_interruption
from nightpress.pipelines.errors import PlanDamaged
from nightpress.pipelines.inputs.node_cache import remove_start
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.location import absolute_source
from nightpress.pipelines.planning import (
    Mapper,
    planned_file_changes,
    rewrite_plan_part,
    shards_in_order,
)
from nightpress.pipelines.reporting.expected_time import expected_report_s
from nightpress.pipelines.run_directory.lease import (
    SILENCE_S,
    FreeLease,
    Holder,
    Lease,
    require_free,
)
from nightpress.pipelines.run_directory.record import RunRecord, refuse_changes, threads_for
from nightpress.pipelines.scoring.job_scorers import JobScorers
from nightpress.pipelines.storage import Store, is_local

if TYPE_CHECKING:  # they import Ray, and commands that sample nothing start without it
    from nightpress.jobs.dispatch.actor import ActorFactory
    from nightpress.jobs.dispatch.dispatcher import Dispatcher
    from nightpress.jobs.dispatch.held_models import ModelSpecs

T = TypeVar("T")
R = TypeVar("R")

OnEvent = Callable[[Event], None]
OnMessage = Callable[[Message], None]

READS_BACK = (
    "this store ignores If-None-Match: *, so it would let a name be written twice; nightpress "
    "looks for each name before writing it and reads it back afterwards, which is safe for one "
    "driver at a time"
)


def ignore(event: Event) -> None:
    """Do nothing: the default of `on_event`."""


def create_only_store(store: Store, on_event: OnMessage) -> Store:
    """The store; if it lets a name be written twice, warn and have it read back what it writes."""
    if store.honours_create_only():
        return store
    on_event(Message(READS_BACK, warning=True))
    return store.reading_back()


def require_free_run(store: Store, take_over: bool, on_event: OnMessage) -> FreeLease:
    """Like `require_free`; says whose heartbeat it watches, if it has to.

    Raises:
        RunHeld: another process holds the lease.
    """

    def say(holder: Holder) -> None:
        on_event(
            Message(
                f"{holder} may still be working on this run; watching its heartbeat for "
                f"{SILENCE_S:.0f} s"
            )
        )

    return require_free(store, take_over, say)


@contextmanager
def cluster_for(spec: RunSpec, store: Store, begun: LocalStart | None = None) -> Iterator[None]:
    """Connect to the job's cluster, whose nodes must all reach the output.

    Args:
        spec: the job.
        store: the run directory.
        begun: the Ray that starts beside the checks of the job, if it was begun.

    Raises:
        ClusterError, ClusterUnavailable: as `connection.cluster`, or a node cannot write there.
        StoreError: the store keeps failing for a node.
    """
    from nightpress.jobs.cluster.connection import cluster
    from nightpress.jobs.cluster.preflight import require_store_on_every_node

    with nullcontext() if begun is None else closing(begun), ExitStack() as stack:
        if begun is None or not begun.wait():
            stack.enter_context(cluster(spec.cluster))
        require_store_on_every_node(spec.cluster, store)
        yield


def actor_factory(spec: RunSpec, traced: bool = False) -> "ActorFactory":
    """A factory of actors of the size that the job asks for, on the connected cluster.

    Raises:
        ClusterError: the cluster has no node for such an actor, and cannot grow.
    """
    from nightpress.jobs.cluster.capacity import require_room
    from nightpress.jobs.cluster.connection import resolved_gpus
    from nightpress.jobs.dispatch.actor import ActorFactory

    gpus = resolved_gpus(spec.cluster.gpus_per_actor)
    cpus = spec.cluster.cpus_per_actor
    require_room(
        "cluster.gpus_per_actor" if gpus else "cluster.cpus_per_actor", cpus, gpus, "an actor"
    )
    factory = ActorFactory(
        spec=absolute_models(spec),
        options=spec.storage,
        cpus=cpus,
        gpus=gpus,
        threads=threads_for(spec, "cuda" if gpus else "cpu"),
        traced=traced,
        scorers=JobScorers.of(spec.scores, spec.storage),
    )
    if not spec.models:
        return factory
    from nightpress.jobs.dispatch.batch_size import memory_share

    return replace(factory, share=memory_share(spec, factory))


def absolute_models(spec: RunSpec) -> "ModelSpecs":
    """The model of a job, or each of several, with its local sources as full paths."""
    if not spec.models:
        return _absolute_model(spec.model)
    return {each.name: _absolute_model(each.alone) for each in spec.models}


def _absolute_model(model: ModelSpec) -> ModelSpec:
    """The model with its local sources as full paths: actors have another working directory.

    Resolving symbolic links may change the last part of a path, so all keep the job's names.
    """
    added = {
        name: tuple(
            each.model_copy(update={"source": absolute_source(each.source), "name": each.label})
            for each in getattr(model, name)
        )
        for name in ("loras", "row_loras", "controlnets")
    }
    embeddings = tuple(
        each.model_copy(update={"source": absolute_source(each.source), "token": each.label})
        for each in model.embeddings
    )
    references = tuple(map(_absolute_reference, model.references))
    others = {
        "source": absolute_source(model.source),
        "config": None if model.config is None else absolute_source(model.config),
        "references": references,
        "embeddings": embeddings,
    }
    return model.model_copy(update=others | added)


def _absolute_reference(adapter: ReferenceSpec) -> ReferenceSpec:
    """An IP-Adapter with full paths; an image encoder in its source keeps its name."""
    source, encoder = absolute_source(adapter.source), adapter.image_encoder
    inside = [Path(source, adapter.subfolder or "", encoder or ""), Path(source, encoder or "")]
    if encoder and not any(folder.is_dir() for folder in inside):
        encoder = absolute_source(encoder)
    return adapter.model_copy(
        update={"source": source, "image_encoder": encoder, "name": adapter.label}
    )


def planning_mapper(spec: RunSpec) -> Mapper:
    """`map` over Ray tasks, unless the manifest is on a disk that only this machine may have."""
    from nightpress.jobs.cluster.connection import alive_nodes

    local = any(is_local(url) for url in spec.manifests)
    return map if local and len(alive_nodes()) > 1 else spread_several


def spread_several(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`spread_map`; a single item is worked on in this process, which waits for no worker."""
    from nightpress.jobs.cluster.connection import spread_map

    left = iter(items)
    first_two = tuple(islice(left, 2))
    if len(first_two) == 1:
        yield function(first_two[0])
    else:
        yield from spread_map(function, chain(first_two, left))


def dispatch_until(deadline_at: float | None, num_shards: int) -> float | None:
    """By when the last batch must be stored, so that the report is written before a deadline."""
    return None if deadline_at is None else deadline_at - expected_report_s(num_shards)


@contextmanager
def failures_as_run_stopped() -> Iterator[None]:
    """Turn failures into RunStopped, or into RunBlocked if the same command would fail again.

    For what happens once something is written; see `in_mid_run`.
    """
    try:
        yield
    except NightpressError as error:
        meaning = in_mid_run(error)
        if meaning is error:
            raise
        raise meaning from error


def repair_plan(store: Store, record: RunRecord, lease: Lease, shard: int) -> None:
    """Write the part of the plan that holds a shard again.

    Raises:
        ChangedRunError: the manifest's files are not those that were planned.
        LeaseLost: another process has taken the run over.
        StoreError: a file cannot be read or written.
    """
    lease.fence.require(store)
    section = record.layout.section_of(shard)
    refuse_changes(store, planned_file_changes(section, record.spec.storage))
    rewrite_plan_part(record.spec, record.infos, record.layout, store, shard)


def ordered_shards(store: Store, record: RunRecord, lease: Lease) -> list[int]:
    """All shards in the order in which they are handed out; repairs parts of the plan for that.

    Raises:
        PlanDamaged: a part that was just written again is damaged.
        ChangedRunError, LeaseLost, StoreError: see `repair_plan`.
    """
    repaired: set[int] = set()
    while True:
        try:
            return shards_in_order(store, record.layout)
        except PlanDamaged as damaged:
            if damaged.shard is None or damaged.shard in repaired:
                raise
            repaired.add(damaged.shard)
            repair_plan(store, record, lease, damaged.shard)


@contextmanager
def dispatching(
    store: Store,
    record: RunRecord,
    factory: "ActorFactory",
    config: DispatchConfig,
    lease: Lease,
    watch: Watch,
) -> Iterator["Dispatcher"]:
    """A dispatcher that stops on an interruption, a lost lease, or when the watch says so."""
    from nightpress.jobs.dispatch.dispatcher import Dispatcher

    with first_interruption() as interrupted:

        def reason_to_stop() -> StopReason | str | None:
            lease.require()
            return StopReason(ASKED_TO_STOP) if interrupted.is_set() else watch.reason_to_stop

        dispatcher = Dispatcher(
            store,
            record,
            factory,
            config,
            reason_to_stop=reason_to_stop,
            repair_plan=partial(repair_plan, store, record, lease),
        )
        try:
            with closing(dispatcher):
                yield dispatcher
        finally:
            if config.inputs is not None and config.inputs.start is not None:
                remove_start(config.inputs.start)
