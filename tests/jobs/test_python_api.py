"""The Python API: what a notebook calls, and the typed results that it gets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from support.run_files import PROMPTS, hashes

import nightpress
from nightpress import RunSpec, jobs, open_run, plan, reproduce, retry, run, select, status, verify
from nightpress.jobs import RunStatus, UnfinishedRun
from nightpress.jobs.cli import command
from nightpress.pipelines.errors import ImageNotFound
from nightpress.pipelines.run_directory.commit import shard_path
from nightpress.pipelines.run_directory.verify import Damage

MakeSpec = Callable[..., RunSpec]

COMMANDS = [
    "convert",
    "deliver",
    "doctor",
    "export",
    "fid",
    "gates",
    "inspect",
    "plan",
    "preview",
    "reproduce",
    "retry",
    "review",
    "run",
    "select",
    "score",
    "status",
    "train",
    "tune",
    "verify",
    "walk",
]


def printed(*arguments: str) -> Any:
    """What a command prints as JSON."""
    result = CliRunner().invoke(command, [*arguments, "--json"])
    assert not isinstance(result.exception, click.ClickException), result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_documented_function(name: str) -> None:
    function = getattr(nightpress, name)
    assert function is getattr(jobs, name)
    for section in ("Raises:",) if name == "tune" else ("Args:", "Raises:"):
        assert section in function.__doc__


def test_what_is_exported_can_be_imported() -> None:
    for package in (nightpress, nightpress.jobs, nightpress.pipelines):
        for name in package.__all__:
            assert getattr(package, name) is not None, name


@pytest.mark.usefixtures("local_ray")
def test_plan_and_status_say_what_the_commands_print(finished: MakeSpec, tmp_path: Path) -> None:
    spec = finished()
    planned, found = plan(spec), status(spec)
    assert (planned.num_rows, planned.num_images, planned.num_shards) == (PROMPTS, PROMPTS, 3)
    assert planned.estimate is not None
    assert isinstance(found, RunStatus)
    assert found.progress.complete
    assert found.holder is None
    assert status(spec.url) == status(open_run(spec.url)) == found
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(spec.as_dict()))
    values = printed("plan", str(job))
    assert list(values) == [
        *("run", "num_rows", "num_images", "num_shards", "shard_size", "batch_size", "model"),
        *("weights", "models", "batches", "prompts", "modes", "num_pictures", "scorers", "draws"),
        *("estimate", "cost"),
        *("forecast", "auto_speed"),
        "unread_runs",
        *("run_state", "files", "columns", "file_names"),
        *("exit_code", "error"),
    ]
    assert values["estimate"]["actor_s"] == pytest.approx(planned.estimate.actor_s)
    told = printed("status", str(job))
    assert list(told)[:4] == ["url", "created_at", "holder", "num_images"]
    assert (told["num_starts"], told["gpu_s"], told["cost"]) == (1, 0.0, None)
    assert told["actor_s"] > 0.0
    assert told["num_bytes"] == found.progress.num_bytes


@pytest.mark.usefixtures("local_ray")
def test_verify_finds_repairs_and_deletes(finished: MakeSpec) -> None:
    spec = finished()
    before = hashes(spec)
    assert verify(spec).is_sound
    Path(spec.url, "images/00000004_00.png").unlink()
    Path(spec.url, "images/old.png").write_bytes(b"old")
    found = verify(spec.url)
    assert not found.is_sound
    assert [finding.damage for finding in found.findings] == [Damage.MISSING]
    assert found.orphans == ("images/old.png",)
    assert (found.repaired, found.deleted) == (None, ())
    values = printed("verify", spec.url)
    assert list(values) == [
        *("url", "num_checked", "num_failed", "num_rejected", "num_uncommitted"),
        *("findings", "strays"),
        *("signed_by", "inputs", "selections", "repaired"),
        *("exit_code", "error"),
    ]
    assert values["strays"] == ["images/old.png"]

    events: list[object] = []
    mended = verify(open_run(spec.url), events.append, repair=True, remove_orphans=True)
    assert mended.is_sound
    assert mended.repaired is not None
    assert (mended.repaired.num_rows, mended.repaired.num_failed) == (1, 0)
    assert mended.deleted == ("images/old.png",)
    assert events
    assert hashes(spec) == before
    assert verify(spec) == verify(spec.url)


@pytest.mark.usefixtures("local_ray")
def test_selections_are_not_compared_while_a_commit_is_damaged(finished: MakeSpec) -> None:
    spec = finished()
    select(spec, "all")
    path = Path(spec.url, shard_path(0))
    path.write_bytes(path.read_bytes()[:100])
    assert verify(spec).selections == ()
    mended = verify(spec, repair=True)
    assert (mended.is_sound, mended.selections) == (True, ())


@pytest.mark.usefixtures("local_ray")
def test_orphans_of_an_unfinished_run_are_not_deleted(finished: MakeSpec) -> None:
    spec = finished()
    Path(spec.url, shard_path(1)).unlink()
    with pytest.raises(UnfinishedRun, match="the run has 1 shard without a commit"):
        verify(spec, remove_orphans=True)
    assert len(list(Path(spec.url, "images").iterdir())) == PROMPTS


@pytest.mark.usefixtures("local_ray")
def test_retry_makes_only_the_rows_that_failed(make_spec: MakeSpec, tmp_path: Path) -> None:
    manifest = tmp_path / "guidance.csv"
    manifest.write_text("prompt,guidance_scale\na,3\nb,3e38\n")
    sampling = {"width": 64, "height": 64, "num_inference_steps": 2}
    spec = make_spec(manifest=str(manifest), sampling=sampling)
    assert run(spec).num_failed == 1
    result = retry(spec)
    assert (result.num_rows, result.num_ok, result.num_failed) == (1, 0, 1)


@pytest.mark.usefixtures("local_ray")
def test_an_image_is_reproduced_by_its_path_and_by_its_id(finished: MakeSpec) -> None:
    spec = finished()
    path = Path(spec.url, "images/00000005_00.png")
    result = reproduce(path)
    assert result.comparison.same_file
    assert result.image == path.read_bytes()
    assert result.facts.image_id == "00000005_00"
    assert reproduce(open_run(spec.url), "00000005_00") == result
    with pytest.raises(ImageNotFound, match="no image 'none' is stored"):
        reproduce(open_run(spec.url), "none")
    with pytest.raises(ImageNotFound, match="image_id"):
        reproduce(open_run(spec.url))
