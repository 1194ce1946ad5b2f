"""`run`: the whole story of a run, from a job to a finished image set.

Owns the order of things. What each of them is, the rooms beside this one know.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from diffusion_core.model import ModelInfo
from jobs.actors import ActorFactory, RemoteActor
from jobs.cluster import (
    alive_nodes,
    cluster,
    gpus_per_actor,
    on_every_node,
    remote_value,
    room,
    spread_map,
)
from jobs.dispatch import Dispatcher
from jobs.errors import ClusterError, IncompleteRun, RunStopped
from jobs.events import Event, Message, Planned
from jobs.tally import Tally
from pipelines.commit import committed_shards
from pipelines.errors import StoreError
from pipelines.planning import check, manifest_changes, write_plan
from pipelines.report import write_report
from pipelines.run_record import (
    RunRecord,
    claim,
    new_record,
    read_record,
    refuse_changes,
)
from pipelines.runs import open_run
from pipelines.spec import RunSpec
from pipelines.storage import Store, find, is_local

AUTO_BATCH_SIZE = {"cpu": 4, "cuda": 8}
"""What `batch.size: auto` stands for until it is measured for each model."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    url: str
    num_images: int
    num_ok: int
    num_failed: int
    num_made: int
    """Images made since this start; the others were there."""
    elapsed_s: float
    images_per_s: float | None


def run(spec: RunSpec, on_event: Callable[[Event], None] = lambda event: None) -> RunResult:
    """Run a job to its end, or go on with one that was interrupted.

    Args:
        spec: the job.
        on_event: called with every event, for those who show progress.

    Raises:
        SpecError, ManifestError, ModelError, StoreDenied, ClusterError: nothing was written.
        ChangedRunError: the run directory belongs to a job that has changed since.
        RunStopped: stopped early; calling this again goes on from there.
    """
    tally = Tally()
    store = Store(spec.url, spec.storage)
    store.check()
    find(spec.manifests, spec.storage)
    with cluster(spec.cluster):
        for event in _events(spec, store):
            tally.add(event)
            on_event(event)
    return RunResult(
        url=spec.url,
        num_images=tally.num_images,
        num_ok=tally.num_ok,
        num_failed=tally.num_failed,
        num_made=tally.num_made,
        elapsed_s=tally.elapsed_s,
        images_per_s=tally.images_per_s,
    )


def actor_factory(spec: RunSpec) -> ActorFactory:
    """Actors as the job asks for them, on the cluster that is connected."""
    gpus = gpus_per_actor(spec.cluster)
    cpus = spec.cluster.cpus_per_actor
    return ActorFactory(spec.model, spec.storage, cpus=cpus, gpus=gpus, threads=0 if gpus else cpus)


def resolve_batch_size(spec: RunSpec, device: str) -> int:
    """`batch.size`, with `auto` resolved for the device."""
    return AUTO_BATCH_SIZE[device] if spec.batch.size == "auto" else spec.batch.size


def _events(spec: RunSpec, store: Store) -> Iterator[Event]:
    require_shared_disk(spec)
    factory = actor_factory(spec)
    first = factory.start()
    yield from _waiting_for_room(factory)
    model: ModelInfo = remote_value(first.describe.remote())
    batch_size = resolve_batch_size(spec, factory.device)
    record = read_record(store)
    resumed = record is not None
    if record is None:
        first.load.remote(model.fingerprint, batch_size)  # beside the planning
        record = _begin(spec, store, model, factory.device, batch_size)
    else:
        _refuse_changed(spec, store, record, model, factory.device)
        yield from _version_warnings(record)
    try:
        yield from _create_only_warning(store)
        yield from _write_plan(spec, store, record)
        yield from _dispatch(spec, store, record, factory, first, resumed)
        _require_complete(store, record)
        write_report(open_run(store.url, spec.storage), store)
    except StoreError as error:
        raise RunStopped(str(error)) from error


def _begin(
    spec: RunSpec, store: Store, model: ModelInfo, device: str, batch_size: int
) -> RunRecord:
    layout = check(spec, model, batch_size, mapper=spread_map)
    return claim(store, new_record(spec, model, device, batch_size, layout))


def _refuse_changed(
    spec: RunSpec, store: Store, record: RunRecord, model: ModelInfo, device: str
) -> None:
    changes = record.changes(spec, model, device)
    refuse_changes(store, changes or manifest_changes(record.layout, spec))


def _version_warnings(record: RunRecord) -> Iterator[Event]:
    for change in record.newer_packages():
        yield Message(
            f"{change.field} is {change.new} now; the run began with {change.old}, "
            "and another version may change the last bits of a pixel",
            warning=True,
        )


def _create_only_warning(store: Store) -> Iterator[Event]:
    if not store.honours_create_only():
        yield Message(
            "this store lets a name be written twice (it ignores If-None-Match: *); "
            "start no second driver on this run while this one goes on",
            warning=True,
        )


def _write_plan(spec: RunSpec, store: Store, record: RunRecord) -> Iterator[Event]:
    """Write the parts of the plan that are not there yet."""
    written = write_plan(spec, record.model, record.layout, store, mapper=spread_map)
    for count, _ in enumerate(written, start=1):
        if count % 10 == 0:
            yield Message(f"{count} of {len(record.layout.parts)} plan parts are written")


def _dispatch(
    spec: RunSpec,
    store: Store,
    record: RunRecord,
    factory: ActorFactory,
    first: RemoteActor,
    resumed: bool,
) -> Iterator[Event]:
    done = committed_shards(store)
    progress = open_run(store.url, spec.storage).progress()
    yield Planned(
        num_images=record.layout.num_images,
        num_shards=record.layout.num_shards,
        num_ok=progress.num_ok,
        num_failed=progress.num_failed,
    )
    left = [shard for shard in range(record.layout.num_shards) if shard not in done]
    dispatcher = Dispatcher(
        store,
        record,
        factory,
        min_actors=spec.cluster.min_actors,
        max_actors=spec.cluster.max_actors,
        max_attempts=spec.cluster.max_attempts,
        look_first=resumed,
    )
    with closing(dispatcher):
        dispatcher.adopt(first)
        yield from dispatcher.run(left)


def _require_complete(store: Store, record: RunRecord) -> None:
    missing = set(range(record.layout.num_shards)) - committed_shards(store)
    if missing:
        raise IncompleteRun(
            f"{store.url}: {len(missing)} shards have no commit, the first is {min(missing)}"
        )


def require_shared_disk(spec: RunSpec) -> None:
    """A local output folder must be the same folder on every node."""
    if len(alive_nodes()) < 2 or not is_local(spec.output):
        return
    marker = Path(spec.output) / f".nightpress-{uuid.uuid4().hex}"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    try:
        seen = on_every_node(_exists, str(marker))
    finally:
        marker.unlink()
    blind = sorted(node for node, sees in seen.items() if not sees)
    if blind:
        raise ClusterError(
            f"output {spec.output} is a local folder that {', '.join(blind)} does not share; "
            "use a URL that every node reaches, such as s3://bucket/runs"
        )


def _exists(path: str) -> bool:
    return Path(path).exists()


def _waiting_for_room(factory: ActorFactory) -> Iterator[Event]:
    if room(factory.cpus, factory.gpus) == 0:
        yield Message(
            f"waiting for a node with {factory.cpus:g} CPUs and {factory.gpus:g} GPUs",
            warning=True,
        )
