"""The run that a caller means, and the cluster and failure limit of its repair."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.fakes.fake_runs import finished_run

from nightpress.jobs.runs.targets import failure_limit, open_images
from nightpress.pipelines import Run, RunSpec
from nightpress.pipelines.errors import RunNotFound, SpecError
from nightpress.pipelines.job.sections import ClusterSpec
from nightpress.pipelines.training.layout import TRAIN_FILE


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that was started with `max_failures: 0`, on a cluster that no longer exists."""
    store, record = finished_run(tmp_path, ["a picture"])
    started_on = ClusterSpec(address="gone:6379", max_failures=0, drain_s=5)
    spec = record.spec.model_copy(update={"cluster": started_on})
    return Run(store, replace(record, spec=spec))


def test_a_run_is_opened_by_url_by_job_and_as_it_is(run: Run) -> None:
    assert open_images(run) is run
    assert open_images(run.url).record.fingerprint == run.record.fingerprint
    output, _, name = run.url.rpartition("/")
    job = RunSpec.from_dict(run.spec.as_dict() | {"output": output, "name": name})
    assert open_images(job).url == run.url


def test_a_place_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match=rf"{tmp_path}: no run here \(found neither run\.json"):
        open_images(str(tmp_path))


def test_a_training_run_is_no_run_of_images(tmp_path: Path) -> None:
    Path(tmp_path, TRAIN_FILE).write_text("{}")
    with pytest.raises(RunNotFound, match=rf"{tmp_path}: this is a training run, not a run of im"):
        open_images(str(tmp_path))


@pytest.mark.parametrize(("limit", "read"), [(5, 5), ("5", 5), ("5%", "5%"), (None, None)], ids=str)
def test_a_failure_limit_is_a_number_or_a_percentage(
    limit: int | str | None, read: int | str | None
) -> None:
    assert failure_limit(limit, "--max-failures") == read


@pytest.mark.parametrize("limit", ["many", -1, "-1%"])
def test_another_failure_limit_is_refused(limit: int | str) -> None:
    with pytest.raises(SpecError, match=r"^--max-failures: cluster\.max_failures: "):
        failure_limit(limit, "--max-failures")


@pytest.mark.parametrize("wrong", ["5x", "-1", -1, "101%", "100%", "%", "", "5 %", "five", "1.5"])
def test_a_failure_limit_is_refused_in_words_and_under_the_name_it_was_given(
    wrong: int | str, tmp_path: Path
) -> None:
    allowed = "a number of images, such as 100, or a share of them below 100%, such as 5%"
    with pytest.raises(SpecError) as caught:
        failure_limit(wrong, "--max-failures")
    assert str(caught.value).startswith("--max-failures: ")
    assert str(caught.value).endswith(f": must be {allowed}")
    assert "pattern" not in str(caught.value)
    job = {"name": "night", "output": str(tmp_path), "cluster": {"max_failures": wrong}}
    with pytest.raises(SpecError) as caught:
        RunSpec.from_dict(job)
    assert f"must be {allowed}" in str(caught.value)
    assert "pattern" not in str(caught.value)


@pytest.mark.parametrize(("text", "limit"), [("5", 5), (0, 0), ("5%", "5%"), ("0.5%", "0.5%")])
def test_a_failure_limit_is_a_number_or_a_share(text: int | str, limit: int | str) -> None:
    assert failure_limit(text, "--max-failures") == limit


def test_a_job_that_was_never_started_says_what_starts_it(tmp_path: Path) -> None:
    spec = RunSpec.from_dict({"name": "night", "output": str(tmp_path)})
    with pytest.raises(RunNotFound, match=r"run\.json is missing\); nightpress run starts it"):
        open_images(spec)
