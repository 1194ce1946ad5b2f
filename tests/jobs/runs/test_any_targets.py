"""What a caller names: a run of images, a training run, or neither."""

from pathlib import Path

import pytest
from support.fakes.fake_runs import finished_run

from nightpress.jobs.runs.any_targets import open_any
from nightpress.pipelines import Run
from nightpress.pipelines.errors import RunNotFound


def test_a_run_of_images_is_opened_by_its_url_and_as_it_is(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a picture"]))
    assert open_any(run) is run
    opened = open_any(run.url)
    assert isinstance(opened, Run)
    assert opened.record.fingerprint == run.record.fingerprint


def test_a_place_without_any_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match=rf"{tmp_path}: no run here \(found neither run\.json"):
        open_any(str(tmp_path))
