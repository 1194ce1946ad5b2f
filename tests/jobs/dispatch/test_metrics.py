"""The metrics of an actor, as Prometheus reads them from its node."""

import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from nightpress.jobs.dispatch.actor import RemoteActor
from nightpress.jobs.dispatch.config import DispatchConfig
from nightpress.jobs.dispatch.dispatcher import Dispatcher
from nightpress.jobs.dispatch.metrics import RunGauges
from nightpress.jobs.progress.events import Planned
from nightpress.jobs.progress.tally import Tally
from nightpress.jobs.runs.shared import actor_factory
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.commit import shard_path
from nightpress.pipelines.run_directory.record import require_record
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.timeline import Activity
from nightpress.pipelines.storage import Store

PATIENCE_S = 30.0
"""Ray's processes export their metrics every ten seconds."""

SECONDS, IMAGES = "ray_nightpress_actor_seconds_total", "ray_nightpress_images_total"


def node_samples() -> list[Sample]:
    """All that the only node exports."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urlopen(address, timeout=PATIENCE_S) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return [sample for family in families for sample in family.samples]


def gauges_of(run: str) -> dict[str, float]:
    """Gauge -> its value, of the run with this name."""
    prefix = "ray_nightpress_run_"
    return {
        each.name.removeprefix(prefix): each.value
        for each in node_samples()
        if each.name.startswith(prefix) and each.labels["run"] == run
    }


def exported(actor: RemoteActor) -> dict[tuple[str, str], float]:
    """(metric, activity or status) -> the value that the node of an actor exports."""
    worker_id = ray.get(
        actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_worker_id())
    )
    return {
        (each.name, each.labels.get("activity") or each.labels["status"]): each.value
        for each in node_samples()
        if each.name in (SECONDS, IMAGES)
        and each.labels["WorkerId"] == worker_id
        and each.labels["run"] == "night"
    }


@pytest.mark.usefixtures("local_ray")
def test_the_images_and_the_busy_time_of_an_actor_are_exported(
    finished: Callable[..., RunSpec],
) -> None:
    spec = finished()
    store = Store(spec.url)
    for name in [*store.list("images"), shard_path(0)]:
        store.delete(name)
    record = require_record(store)
    config = DispatchConfig(min_actors=1, max_actors=1, max_attempts=1, look_first=False)
    tally = Tally()
    tally.add(Planned(num_images=64, num_shards=8, num_done=16))
    RunGauges("half", None).update(tally)
    tally.add(ShardDone(1, num_ok=47, num_failed=1))
    RunGauges("whole", time.time() + 600).update(tally)
    with closing(Dispatcher(store, record, actor_factory(spec), config)) as dispatcher:
        list(dispatcher.run([0]))
        (worker,) = dispatcher.pool.workers
        (spent,) = dispatcher.pool.time_spent()
        expected = {
            (IMAGES, "ok"): record.layout.shard_images(0),
            (SECONDS, "busy"): pytest.approx(spent.seconds[Activity.BUSY]),
        }
        end, found = time.monotonic() + PATIENCE_S, dict[tuple[str, str], float]()
        while {key: found.get(key) for key in expected} != expected:
            assert time.monotonic() < end, found
            time.sleep(0.5)
            found = exported(worker.handle)
    assert found[SECONDS, "loading the model"] > 0
    assert (IMAGES, "failed") not in found
    while not (gauges_of("half") and gauges_of("whole")):
        assert time.monotonic() < end
        time.sleep(0.5)
    assert gauges_of("half") == {"planned": 64, "done": 16, "failed": 0}
    whole = gauges_of("whole")
    assert whole.pop("deadline_margin_seconds") == pytest.approx(600, abs=2)
    assert whole == {"planned": 64, "done": 64, "failed": 1, "seconds_left": 0}


def test_the_rules_of_infra_use_the_names_of_the_gauges() -> None:
    rules = (Path(__file__).parents[3] / "infra/observability/rules.yml").read_text()
    named = set(re.findall(r"ray_nightpress_run_(\w+)", rules))
    assert named == {"planned", "done", "failed", "seconds_left", "deadline_margin_seconds"}
