"""Verifying in tasks on the nodes of a cluster finds what verifying here finds."""

from pathlib import Path

import pytest
from support.fakes.fake_runs import finished_run

from nightpress import jobs
from nightpress.jobs.cluster import preflight
from nightpress.jobs.errors import ClusterError
from nightpress.jobs.runs import verify as module
from nightpress.pipelines import Run
from nightpress.pipelines.errors import StoreDenied
from nightpress.pipelines.run_directory.commit import shard_path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(*finished_run(tmp_path, [f"picture {n}" for n in range(24)] + ["nan"], shard_size=2))


@pytest.mark.usefixtures("local_ray")
def test_a_spread_check_finds_the_same_damage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARDS_A_TASK", 3)
    assert jobs.verify(run, spread=True) == jobs.verify(run)
    image = Path(run.url, "images/00000005_00.png")
    image.write_bytes(image.read_bytes()[:-9])
    Path(run.url, "images/00000020_00.png").unlink()
    Path(run.url, "images/left-over.png").write_bytes(b"nobody's")
    Path(run.url, shard_path(8)).write_bytes(b"cut")
    here = jobs.verify(run)
    assert len(here.findings) == 3
    assert jobs.verify(run, spread=True) == here
    assert jobs.verify(run, spread=True, sample=0.5) == jobs.verify(run, sample=0.5)


def test_a_node_that_does_not_see_the_run_is_named_and_nothing_is_called_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, object]] = [("10.0.0.1", run.store.read("run.json")), ("10.0.0.2", None)]
    monkeypatch.setattr(preflight, "on_every_node", lambda function, item: seen)
    with pytest.raises(
        ClusterError, match=r"^node 10\.0\.0\.2 cannot read .*/run\.json: it finds no"
    ):
        preflight.require_readable_on_every_node(run.store, "run.json")
    seen[1] = ("10.0.0.2", StoreDenied("access denied"))
    with pytest.raises(ClusterError, match="access denied"):
        preflight.require_readable_on_every_node(run.store, "run.json")
