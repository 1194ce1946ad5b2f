"""A finished run that is started again: nothing is made, so neither Ray nor a model is needed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.run_files import PROMPTS, hashes

from nightpress import jobs
from nightpress.jobs.cluster import connection
from nightpress.jobs.progress.events import Event
from nightpress.jobs.progress.lines import event_line
from nightpress.jobs.runs import finished as finished_runs
from nightpress.pipelines import open_run
from nightpress.pipelines.errors import ChangedRunError, RunHeld
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.run_directory import lease as lease_file
from nightpress.pipelines.run_directory.lease import acquire, require_free
from nightpress.pipelines.run_directory.record import require_record
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would start Ray or describe a model with its library fails the test."""

    def fail(*args: object) -> None:
        raise AssertionError("this start needs neither Ray nor a model")

    monkeypatch.setattr(connection, "cluster", fail)
    monkeypatch.setattr(ModelFiles, "describe", fail)


@pytest.mark.usefixtures("no_ray")
def test_a_finished_run_started_again_neither_starts_ray_nor_loads_a_model(
    finished: MakeSpec,
) -> None:
    spec = finished()
    before, report = hashes(spec), Path(spec.url, "report.html")
    report.unlink()
    events: list[Event] = []
    result = jobs.run(spec, events.append)
    assert (result.num_ok, result.num_made, result.time_shares) == (PROMPTS, 0, {})
    assert result.images_per_s == open_run(spec.url).progress().images_per_s
    assert hashes(spec) == before
    assert report.exists()
    assert [event_line(event) for event in events] == [
        f"all {PROMPTS} images are already committed: nothing is left to make"
    ]


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 5},
        {"model": "builtin"},
        {"cluster": {"actors": 1, "cpus_per_actor": 2}},
        {"cluster": {"actors": 1, "gpus_per_actor": 1}},
        {"sampling": {"num_inference_steps": 3, "height": 64, "guidance_scale": 3.0}},
    ],
)
def test_a_finished_run_is_not_taken_for_another_job_s(
    finished: MakeSpec, changed: dict[str, object]
) -> None:
    with pytest.raises(ChangedRunError):
        jobs.run(finished(**changed))


@pytest.mark.usefixtures("no_ray")
def test_a_finished_run_whose_model_or_manifest_has_changed_is_refused(
    finished: MakeSpec, tiny_model: Path
) -> None:
    spec = finished()
    weights = next(tiny_model.glob("unet/*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(ChangedRunError, match="model_fingerprint"):
            jobs.run(spec)
    finally:
        weights.write_bytes(data)
    manifest = Path(spec.manifests[0])
    manifest.write_text(manifest.read_text().replace("number 3", "number 4", 1))
    with pytest.raises(ChangedRunError):
        jobs.run(spec)


@pytest.mark.usefixtures("no_ray")
def test_a_finished_run_that_another_process_holds_is_left_to_it(
    finished: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = finished()
    monkeypatch.setattr(lease_file, "has_ended", lambda mark, pid: False)
    store = Store(spec.url)
    lease = acquire(store, require_free(store), heartbeat_s=0.2)
    with pytest.raises(RunHeld, match="take over from it"):
        jobs.run(spec)
    lease.release()


def test_a_finished_run_s_model_is_not_downloaded_to_find_out_that_nothing_is_left(
    finished: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = finished()
    store, record = Store(spec.url), require_record(Store(spec.url))
    remote = spec.model_copy(
        update={"model": spec.model.model_copy(update={"source": "studio/never-fetched"})}
    )

    def fail(*args: object) -> None:
        raise AssertionError("the model was downloaded")

    monkeypatch.setattr(finished_runs, "locate", fail)
    assert not finished_runs.nothing_is_left(remote, store, record)


@pytest.mark.parametrize("folder", ["metadata", "plan"])
def test_a_run_that_lacks_a_commit_or_a_part_of_its_plan_is_not_finished(
    finished: MakeSpec, folder: str
) -> None:
    spec = finished()
    store, record = Store(spec.url), require_record(Store(spec.url))
    assert finished_runs.nothing_is_left(spec, store, record)
    store.delete(min(store.list(folder)))
    assert not finished_runs.nothing_is_left(spec, store, record)
    gone = spec.model_copy(
        update={"model": spec.model.model_copy(update={"source": "/no/such/model"})}
    )
    assert not finished_runs.nothing_is_left(gone, store, record)
