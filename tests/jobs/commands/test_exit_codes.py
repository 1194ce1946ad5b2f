"""Exit code 4 means that the same command goes on; 2 means that nothing was written."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.fakes.fake_runs import finished_run

from nightpress import jobs
from nightpress.diffusion_core.errors import ModelError
from nightpress.jobs.cli import command, exit_code
from nightpress.jobs.cluster.local_start import LocalStart
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.errors import ClusterError, NightpressError, RunBlocked, RunStopped
from nightpress.jobs.runs import repair, runner
from nightpress.jobs.runs.shared import failures_as_run_stopped
from nightpress.pipelines import Run
from nightpress.pipelines.errors import Change, ChangedRunError, Damaged, StoreDenied, StoreError
from nightpress.pipelines.run_directory.commit import shard_path
from nightpress.pipelines.run_directory.log import read_starts


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(*finished_run(tmp_path, [f"picture {n}" for n in range(6)] + ["nan"]))


@pytest.mark.parametrize("words", [["status"], ["retry", "--address", "local"]])
def test_a_damaged_commit_is_1_with_what_mends_it_and_not_4_for_ever(
    run: Run, words: list[str]
) -> None:
    path = Path(run.url, shard_path(1))
    path.write_bytes(path.read_bytes()[:-20])
    result = CliRunner().invoke(command, [*words, run.url])
    assert result.exit_code == 1, result.output
    assert f"{run.url}/{shard_path(1)} is damaged" in result.output
    assert "nightpress verify --repair makes it again" in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Damaged("metadata/shard-00003.parquet is damaged", 3), 1),
        (ChangedRunError("s3://runs/night", [Change("manifest", "a", "b")]), 1),
        (StoreError("the store keeps failing"), 4),
    ],
    ids=["a damaged commit", "a changed manifest", "a store that is away"],
)
def test_what_stops_a_run_in_the_middle_says_whether_the_same_command_goes_on(
    error: Exception, code: int
) -> None:
    with pytest.raises((RunStopped, RunBlocked)) as caught, failures_as_run_stopped():
        raise error
    assert exit_code(caught.value) == code
    assert str(error) in str(caught.value)
    assert ("what is committed is kept" in str(caught.value)) == (code == 1)


ERRORS: list[tuple[NightpressError, int]] = [
    (ModelError("no such model"), 1),
    (ClusterError("3 actors in a row failed to start"), 1),
    (ChangedRunError("press/night", [Change("model_fingerprint", "a", "b")]), 1),
    (StoreDenied("access denied"), 4),
]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[NightpressError], None]:
    """Make the first actor of a start fail with an error, without any Ray."""

    def fail(error: NightpressError) -> None:
        def start(first: FirstActor) -> Iterator[None]:
            yield from ()
            raise error

        monkeypatch.setattr(FirstActor, "start", start)
        monkeypatch.setattr(runner, "cluster_for", lambda *_: nullcontext())
        monkeypatch.setattr(LocalStart, "begin", lambda start: None)
        monkeypatch.setattr(repair, "cluster", lambda spec: nullcontext(True))
        monkeypatch.setattr(repair, "require_store_on_every_node", lambda spec, store: None)
        for module in (runner, repair):
            monkeypatch.setattr(module, "actor_factory", lambda *_: None)

    return fail


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("verb", ["run", "retry"])
def test_a_start_that_has_written_its_log_never_says_that_nothing_was_written(
    run: Run, fails: Callable[[NightpressError], None], verb: str, error: NightpressError, code: int
) -> None:
    Path(run.url, shard_path(0)).unlink()
    fails(error)
    with pytest.raises((RunStopped, RunBlocked)) as caught:
        jobs.run(run.record.spec) if verb == "run" else jobs.retry(run.record.spec)
    assert str(error) in str(caught.value)
    assert exit_code(caught.value) == code
    assert [start.exit_code for start in read_starts(run.store)] == [code]


@pytest.mark.parametrize("error", [error for error, _ in ERRORS], ids=lambda e: type(e).__name__)
def test_a_new_run_that_ends_with_2_has_written_nothing(
    run: Run, fails: Callable[[NightpressError], None], error: NightpressError
) -> None:
    spec = run.record.spec.model_copy(update={"name": "another"})
    fails(error)
    with pytest.raises(type(error)) as caught:
        jobs.run(spec)
    assert exit_code(caught.value) == 2
    assert not Path(spec.url).exists()
