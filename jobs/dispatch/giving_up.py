"""What the driver does about a shard that no actor survives."""

from collections.abc import Iterator

from nightpress.jobs.dispatch.config import DispatchConfig
from nightpress.jobs.errors import UNSCORED
from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.failed_shard import fail_shard
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store


def give_up(
    store: Store,
    record: RunRecord,
    config: DispatchConfig,
    work: ShardWork,
    cause: tuple[FailureType, str],
) -> Iterator[Event]:
    """Commit a shard as failed; the commit of one that was to be amended stays as it is.

    Args:
        cause: what its last attempt ended with.
    """
    if config.fence is not None:
        config.fence.require(store)
    if work.amends is not None:
        yield ShardDone(work.shard, num_ok=0, num_failed=len(work.amends.rows))
        return
    rows = read_shard(store, record.layout, work.shard)
    done = fail_shard(store, record, work, rows, *cause)
    if done.num_ok and record.spec.scores:
        yield Message(UNSCORED.format(done.shard, plural(done.num_ok, "image")), warning=True)
    yield done
