"""On which cluster rows are made again, and when that stops."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from support.fakes.fake_runs import finished_run

from nightpress.jobs.commands.common import working_spec
from nightpress.pipelines import Run
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.sections import ClusterSpec


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Begun with `max_failures: 0`, on a cluster that is no more."""
    store, record = finished_run(tmp_path, ["a picture"])
    begun_on = ClusterSpec(address="gone:6379", max_failures=0, drain_s=5)
    spec = record.spec.model_copy(update={"cluster": begun_on})
    return Run(store, replace(record, spec=spec))


def test_the_job_file_says_what_the_cluster_is_now(run: Run, tmp_path: Path) -> None:
    job = {key: value for key, value in run.spec.as_dict().items() if key != "cluster"}
    job["cluster"] = {"address": "new:6379", "watchdog_s": 900, "max_failures": 3}
    path = tmp_path / "night.yaml"
    path.write_text(yaml.safe_dump(job))
    cluster = working_spec(run, str(path), None, None).cluster
    assert (cluster.address, cluster.watchdog_s, cluster.drain_s) == ("new:6379", 900, 60)
    assert working_spec(run, str(path), "other:6379", None).cluster.address == "other:6379"


def test_a_url_means_the_cluster_that_the_run_was_begun_on(run: Run) -> None:
    cluster = working_spec(run, run.url, None, None).cluster
    assert (cluster.address, cluster.drain_s) == ("gone:6379", 5)
    assert working_spec(run, run.url, None, None).changes(run.spec) == []


def test_the_limit_of_the_run_does_not_count_and_one_of_its_own_does(run: Run) -> None:
    assert working_spec(run, run.url, None, None).cluster.max_failures is None
    assert working_spec(run, run.url, None, "12").cluster.max_failures == 12
    assert working_spec(run, run.url, None, "5%").cluster.max_failures == "5%"
    with pytest.raises(SpecError, match="max_failures") as caught:
        working_spec(run, run.url, None, "many")
    assert str(caught.value).startswith("--max-failures: ")
