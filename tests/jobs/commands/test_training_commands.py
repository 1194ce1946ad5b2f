"""`nightpress train` and `status` of a training run: what they print and refuse."""

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from support.training_jobs import autoencoder_job, draw_images

from nightpress.jobs.cli import command
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.lease import acquire
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.events import StepDone
from nightpress.pipelines.training.loop import train
from nightpress.pipelines.training.spec import TrainSpec


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def refusal(result: Result) -> str:
    """The single line on stderr of a refused command."""
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


@pytest.fixture
def job(tmp_path: Path) -> TrainSpec:
    draw_images(tmp_path / "pictures")
    return autoencoder_job(tmp_path)


def write(job: TrainSpec, path: Path) -> str:
    path.write_text(yaml.safe_dump(job.as_dict()))
    return str(path)


def test_a_second_process_exits_with_5_and_names_the_first(job: TrainSpec, tmp_path: Path) -> None:
    lease = acquire(Store(job.url), heartbeat_s=0.2)
    try:
        result = nightpress("train", write(job, tmp_path / "tiny.yaml"))
    finally:
        lease.release()
    assert result.exit_code == 5
    assert result.stdout == ""
    assert "--take-over" in result.stderr


def test_the_status_of_a_training_is_read_from_the_store(job: TrainSpec, tmp_path: Path) -> None:
    events = train(job, cache=tmp_path / "cache")
    for event in events:
        if isinstance(event, StepDone) and event.metrics.step == 5:
            break
    events.close()
    result = nightpress("status", job.url)
    assert result.exit_code == 0, result.stderr
    assert "not complete" in result.stdout
    assert "held by     nobody" in result.stdout
    assert "step        4 of 6 (66.7%)" in result.stdout
    assert "checkpoint  checkpoints/step-00000004.safetensors (" in result.stdout

    list(train(job, cache=tmp_path / "cache"))
    file = write(job, tmp_path / "tiny.yaml")
    result = nightpress("status", file)
    assert f"{job.url}  complete" in result.stdout
    assert "samples     samples/step-00000006.png" in result.stdout
    assert "model       model/" in result.stdout
    values = json.loads(nightpress("status", file, "--json").stdout)
    assert (values["recipe"], values["step"], values["complete"]) == ("autoencoder", 6, True)
    assert values["checkpoint"]["num_bytes"] > 1000


def longer(job: TrainSpec, steps: int) -> TrainSpec:
    training = job.training.model_copy(update={"max_train_steps": steps})
    return job.model_copy(update={"training": training})


def test_the_status_counts_the_steps_that_the_latest_start_was_asked_for(
    job: TrainSpec, tmp_path: Path
) -> None:
    file = write(longer(job, 400), tmp_path / "tiny.yaml")  # each start overrides it with --set
    for asked in (6, 8, 6):
        list(train(longer(job, asked), cache=tmp_path / "cache"))
        for target in (file, job.url):
            values = json.loads(nightpress("status", target, "--json").stdout)
            assert (values["max_train_steps"], values["complete"]) == (asked, True)
    assert "job file    asks for 400 steps, unlike the latest start" in (
        nightpress("status", file).stdout
    )
    assert "job file" not in nightpress("status", job.url).stdout
    assert "job file" not in nightpress("status", write(job, tmp_path / "same.yaml")).stdout


def test_the_status_of_a_folder_without_a_run_says_which_files_are_missing(
    job: TrainSpec, tmp_path: Path
) -> None:
    assert "neither run.json nor train.json" in refusal(nightpress("status", job.url))
    result = refusal(nightpress("status", write(job, tmp_path / "tiny.yaml")))
    assert "no training run here (train.json is missing)" in result


def test_the_status_of_an_invalid_record_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[]")
    assert "train.json: not a training record" in refusal(nightpress("status", str(tmp_path)))


def test_the_key_that_help_shows_is_one_of_images_and_of_training() -> None:
    for name in ("train", "run"):
        text = " ".join(nightpress(name, "--help").output.split())
        shown = re.search(r"such as --set ([a-z_.]+)=", text)
        assert shown is not None
        assert shown[1] in RunSpec.model_fields
        assert shown[1] in TrainSpec.model_fields


def test_a_job_of_the_other_kind_is_named_with_its_command(tmp_path: Path) -> None:
    training, images = tmp_path / "train.yaml", tmp_path / "job.yaml"
    training.write_text("recipe: lora\n")  # other keys are missing too, which is not the point
    images.write_text("manifest: a.csv\noutput: runs\n")
    for name in ("plan", "run", "preview", "tune"):
        assert "a training job, as its key recipe says; use nightpress train" in refusal(
            nightpress(name, str(training))
        )
    for name in ("verify", "retry"):
        assert "this is a training job, not a run of images" in refusal(
            nightpress(name, str(training))
        )
    said = refusal(nightpress("train", str(images)))
    assert "makes images, as its key manifest says" in said
    assert "use nightpress run" in said
    images.write_text("output: runs\n")  # neither kind
    assert "recipe: missing; allowed are" in refusal(nightpress("train", str(images)))
