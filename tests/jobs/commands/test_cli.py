"""The command line: what each command prints, and the exit code that a scheduler sees."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from support.run_files import PROMPTS, files_of, hashes, read_metadata
from support.servers import Folder

from nightpress import jobs
from nightpress.jobs.cli import COMMANDS, command
from nightpress.jobs.commands import preview as preview_command
from nightpress.jobs.commands.run import summary
from nightpress.jobs.runs.runner import RunResult
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.job.settings import SETTING_COLUMNS
from nightpress.pipelines.job.spec import RunSpec

MakeSpec = Callable[..., RunSpec]


def nightpress(*arguments: str) -> Result:
    """Run the command in this process, on this session's Ray."""
    return CliRunner().invoke(command, arguments)


def write_job(path: Path, spec: RunSpec) -> Path:
    path.write_text(yaml.safe_dump(spec.as_dict()))
    return path


@pytest.fixture
def job(tmp_path: Path, make_spec: MakeSpec) -> Path:
    return write_job(tmp_path / "job.yaml", make_spec())


def one_line_error(result: Result) -> str:
    """The error on stderr, without a traceback and with nothing on stdout."""
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def test_help_names_every_command() -> None:
    result = nightpress("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"  {name} " in result.stdout
        assert nightpress(name, "--help").exit_code == 0


@pytest.mark.usefixtures("local_ray")
def test_run_makes_the_images_and_says_where_they_are(job: Path, make_spec: MakeSpec) -> None:
    result = nightpress("run", str(job))
    assert result.exit_code == 0
    assert f"{PROMPTS} of {PROMPTS} images" in result.stdout
    assert f"{make_spec().url}/images/" in result.stdout
    assert f"{PROMPTS} / {PROMPTS} images" in result.stderr
    assert len(hashes(make_spec())) == PROMPTS


@pytest.mark.parametrize(
    ("images_per_s", "line"),
    [
        (2.113, "2.11 images/s of sampling time in the whole run"),
        (None, "5 made now in 50 s"),
    ],
)
def test_the_summary_has_the_rate_of_the_whole_run_as_status_has_it(
    images_per_s: float | None, line: str
) -> None:
    result = RunResult("press/night", 9, 9, 0, 5, 50.0, images_per_s, {}, None)
    assert line in summary(result).splitlines()


def test_the_summary_says_what_a_tuning_could_gain() -> None:
    result = RunResult("press/night", 9, 9, 0, 5, 50.0, None, {}, None)
    line = "nightpress tune has measured 1.80 times the speed"
    assert line in summary(replace(result, tuned=line)).splitlines()
    assert "tune" not in summary(result)


@pytest.mark.usefixtures("local_ray")
def test_run_with_a_failed_row_exits_3(tmp_path: Path, make_spec: MakeSpec) -> None:
    manifest = tmp_path / "guidance.csv"
    manifest.write_text("prompt,guidance_scale\na,3\nb,3e38\n")
    sampling = {"width": 64, "height": 64, "num_inference_steps": 2}
    job = write_job(tmp_path / "job.yaml", make_spec(manifest=str(manifest), sampling=sampling))
    result = nightpress("run", str(job), "--json")
    assert result.exit_code == 3
    values = json.loads(result.stdout)
    assert (values["num_ok"], values["num_failed"]) == (1, 1)


@pytest.mark.usefixtures("local_ray")
def test_a_changed_job_exits_2_and_lists_the_change(finished: MakeSpec, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.yaml", finished())
    result = nightpress("run", str(job), "--set", "seed=9")
    assert result.exit_code == 2
    assert "seed: 0 -> 9" in one_line_error(result)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "sampling.scheduler=k_lms"], "sampling.scheduler: 'k_lms'"),
        (["--set", "manifest=nowhere.parquet"], "nowhere.parquet"),
        (["--set", "output=s4://bucket/runs"], "s4"),
        (["--set", "columns.width=breadth"], "breadth"),
        (["--set", "images.file_name='{nothing}.png'"], "nothing"),
        (["--set", "model=nowhere/model"], "nowhere/model"),
    ],
)
@pytest.mark.usefixtures("local_ray")
def test_a_job_that_cannot_run_exits_2_with_a_message_and_writes_nothing(
    job: Path, make_spec: MakeSpec, arguments: list[str], words: str
) -> None:
    result = nightpress("run", str(job), *arguments)
    assert result.exit_code == 2
    assert words in one_line_error(result)
    assert not Path(make_spec().url).exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"output": "s3://no-such-bucket/runs"}, ["no-such-bucket"]),
        ({"storage": {"s3": {"endpoint_url": "http://127.0.0.1:9"}}}, ["127.0.0.1:9"]),
        ({}, ["AWS_ACCESS_KEY_ID"]),
    ],
)
def test_a_wrong_bucket_endpoint_or_key_is_refused_before_the_model_is_loaded(
    make_spec: MakeSpec,
    bucket: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, object],
    words: list[str],
) -> None:
    if not wrong:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    spec = make_spec(
        **{"output": bucket.url, "storage": bucket.options, "model": "no/such/model"} | wrong
    )
    result = nightpress("run", str(write_job(tmp_path / "job.yaml", spec)))
    assert result.exit_code == 2
    error = one_line_error(result)
    assert len(error.strip().splitlines()) == 1
    assert "no/such/model" not in error
    assert [word for word in words if word not in error] == []
    assert "SECRET_ACCESS_KEY=" not in error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_end_changes_nothing(number: signal.Signals) -> None:
    version_after(f"import atexit, os; atexit.register(os.kill, os.getpid(), {int(number)})")


def test_a_running_thread_does_not_delay_the_end() -> None:
    version_after("import threading, time; threading.Thread(target=time.sleep, args=[600]).start()")


def version_after(preparation: str) -> None:
    """Run `--version` in a process that has something else going on."""
    code = f"{preparation}; from nightpress.jobs.cli import main; main()"
    command = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nightpress")


def test_a_missing_job_file_exits_2() -> None:
    result = nightpress("run", "nowhere.yaml")
    assert result.exit_code == 2
    assert "nowhere.yaml" in one_line_error(result)


def test_plan_says_what_would_be_made_and_writes_nothing(job: Path, make_spec: MakeSpec) -> None:
    result = nightpress("plan", str(job))
    assert result.exit_code == 0
    assert "images   21" in result.stdout
    assert "32 x 64" in result.stdout
    assert "unknown" in result.stdout
    assert not Path(make_spec().url).exists()


def test_plan_does_not_require_the_cluster_s_devices_on_this_machine(job: Path) -> None:
    for_a_gpu = ["--set", "model.speed.attention_backend=_native_cudnn"]
    assert nightpress("plan", str(job), *for_a_gpu).exit_code == 0
    for_others = ["--set", "model.speed.taylorseer_cache.cache_interval=2"]
    assert nightpress("plan", str(job), *for_others).exit_code == 2


@pytest.mark.usefixtures("local_ray")
def test_plan_estimates_from_a_run_of_the_same_model(finished: MakeSpec, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.yaml", finished())
    values = json.loads(nightpress("plan", str(job), "--set", "name=other", "--json").stdout)
    assert values["num_images"] == PROMPTS
    assert sum(batch["num_images"] for batch in values["batches"]) == PROMPTS
    assert values["estimate"]["actor_s"] > 0
    assert values["estimate"]["num_bytes"] > 1000


@pytest.mark.usefixtures("local_ray")
def test_status_reads_the_store_alone(
    finished: MakeSpec, make_spec: MakeSpec, tmp_path: Path
) -> None:
    missing = nightpress("status", make_spec().url)
    assert missing.exit_code == 2
    assert "no run here" in missing.stderr
    url, job = finished().url, write_job(tmp_path / "job.yaml", finished())
    (Path(url) / "metadata/shard-00000.parquet").unlink()
    result = nightpress("status", url)
    assert result.exit_code == 0
    assert "not complete" in result.stdout
    assert "images/s of sampling time" in result.stdout
    values = json.loads(nightpress("status", str(job), "--json").stdout)
    assert values["num_committed_shards"] == values["num_shards"] - 1
    assert values["complete"] is False


def test_status_of_a_store_that_does_not_answer_exits_2_in_one_line() -> None:
    result = nightpress(
        "status", "s3://bucket/run", "--storage", "s3.endpoint_url=http://127.0.0.1:9"
    )
    assert result.exit_code == 2
    assert "127.0.0.1:9" in one_line_error(result)


def test_a_run_json_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    result = nightpress("status", str(tmp_path))
    assert result.exit_code == 2
    assert "run.json: not the record of a run" in one_line_error(result)


@pytest.mark.parametrize("path", ["sheet.gif", "nowhere/sheet.png"])
def test_preview_refuses_a_sheet_it_cannot_write_before_it_samples(job: Path, path: str) -> None:
    result = nightpress("preview", str(job), "-o", path)
    assert result.exit_code == 2
    assert path in one_line_error(result)


def test_preview_says_in_one_line_that_the_sheet_could_not_be_written(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()

    def preview_while_the_disk_goes(*_args: object, **_options: object) -> Image.Image:
        folder.rmdir()
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(preview_command, "preview", preview_while_the_disk_goes)
    result = nightpress("preview", str(job), "-o", str(folder / "sheet.png"))
    assert isinstance(result.exception, SystemExit)
    assert "disk/sheet.png" in one_line_error(result)
    assert "No such file or directory" in one_line_error(result)


@pytest.mark.usefixtures("local_ray")
def test_preview_writes_a_sheet_and_no_run(job: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = nightpress("preview", str(job), "-n", "5", "-o", str(sheet))
    assert result.exit_code == 0
    with Image.open(sheet) as image:
        assert image.width > 200
    assert not Path(make_spec().url).exists()


def test_init_writes_a_job_that_is_valid_and_refuses_to_replace_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert nightpress("init", "jobs/night.yaml").exit_code == 0
    spec = RunSpec.from_file("jobs/night.yaml")
    assert spec.name == "night"
    assert Path(spec.manifests[0]).read_text().splitlines()
    again = nightpress("init", "jobs/night.yaml")
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert nightpress("init", "jobs/night.yaml", "--force").exit_code == 0


def test_the_example_is_valid_with_everything_in_it_switched_on(tmp_path: Path) -> None:
    lines = (Path("jobs/examples/commented.yaml")).read_text().splitlines()
    assert sum(line.startswith("# model:") for line in lines) == 1
    switched = [
        line.removeprefix("# ")
        for line in lines
        if line[:1] not in "#" or _is_yaml(line.removeprefix("# "))
    ]
    path = tmp_path / "all.yaml"
    path.write_text("\n".join(line for line in switched if line != "model: builtin"))
    spec = RunSpec.from_file(path)
    assert spec.columns["width"] is None
    assert spec.model.source == "s3://models/sdxl"
    assert [(lora.label, lora.scale) for lora in spec.model.loras] == [("model", 0.8)]
    assert [(lora.label, lora.scale) for lora in spec.model.row_loras] == [("ink", 1.0)]
    assert [net.label for net in spec.model.controlnets] == ["edges"]
    assert spec.inputs.root == "pictures"
    assert spec.storage["s3"]["profile"] == "press"


def test_the_example_names_every_section_and_every_column() -> None:
    text = Path("jobs/examples/commented.yaml").read_text()
    assert "`models`" in text  # a job has either of the two, so it is not switched on
    for key in RunSpec.model_fields.keys() - {"models"}:
        assert re.search(f"^(# )?{key}:", text, re.MULTILINE), key
    for key in InputsSpec.model_fields:
        assert f"#   {key}: " in text, key
    for name in SETTING_COLUMNS:
        assert re.search(rf"\b{name}\b", text), name


def _is_yaml(line: str) -> bool:
    key = line.strip().split(":")[0]
    return ":" in line and key.replace("_", "").isalnum() and key == key.lower()


def test_the_schema_accepts_the_example_and_refuses_a_typo() -> None:
    schema = json.loads(nightpress("schema").stdout)
    example = yaml.safe_load(Path("jobs/examples/commented.yaml").read_text())
    jsonschema.validate(example, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(example | {"bacth": {}}, schema)


def start(job: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a driver in its own process, with its own Ray."""
    program = Path(sys.executable).parent / "nightpress"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        [program, "run", str(job), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait_for_images(spec: RunSpec, count: int, process: "subprocess.Popen[str]") -> None:
    """Wait until the run directory has `count` images."""
    folder = Path(spec.url) / "images"
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if folder.is_dir() and len(list(folder.iterdir())) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} images: {process.communicate(timeout=5)}")


def made_of(spec: RunSpec) -> dict[str, tuple[int, int]]:
    """The images and commits that the run has stored, as from `files_of`."""
    return {n: f for n, f in files_of(spec).items() if n.startswith(("images/", "metadata/"))}


def settled(spec: RunSpec) -> dict[str, tuple[int, int]]:
    """`made_of`, once the actors of a killed driver have stopped storing."""
    before = None
    while (made := made_of(spec)) != before:
        before = made
        time.sleep(2)
    return made


def num_images(files: Iterable[str]) -> int:
    return sum(name.startswith("images/") for name in files)


def sampled_since(spec: RunSpec, moment: datetime) -> set[str]:
    """Files of the images that were sampled, not found, since a moment."""
    rows = read_metadata(spec).to_pylist()
    return {r["file"] for r in rows if r["sampling_s"] is not None and r["started_at"] >= moment}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_that_is_killed_and_then_stopped_ends_with_the_same_images(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    slow = {"num_inference_steps": 40, "height": 64, "guidance_scale": 3.0}
    spec = make_spec(sampling=slow, batch={"size": 2, "shard_size": 6})
    job = write_job(tmp_path / "job.yaml", spec)
    process = start(job)
    wait_for_images(spec, 3, process)
    os.killpg(process.pid, signal.SIGKILL)  # the driver, and the Ray that it started
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    killed = settled(spec)
    assert 3 <= num_images(killed) < PROMPTS

    process = start(job)
    wait_for_images(spec, num_images(killed) + 3, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "run the same command again to resume" in said
    assert "Traceback" not in said
    stopped = made_of(spec)
    assert {name: stopped[name] for name in killed} == killed
    assert num_images(killed) < num_images(stopped) < PROMPTS

    again_at = datetime.now(UTC)
    jobs.run(spec)
    after = files_of(spec)
    assert {name: after[name] for name in stopped} == stopped
    assert len(read_metadata(spec)) == PROMPTS
    made = sampled_since(spec, again_at)
    assert made  # images were left to make, and what was stored is found
    assert made.isdisjoint(stopped)

    undisturbed = make_spec(name="undisturbed", sampling=slow, batch=dict(spec.batch))
    jobs.run(undisturbed)
    assert hashes(spec) == hashes(undisturbed)


@pytest.mark.parametrize("name", ["run.json", "train.json", "some.json", "some.txt"])
def test_a_file_that_is_no_job_is_refused_in_words(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("{}")
    result = CliRunner().invoke(command, ["status", str(path)])
    assert result.exit_code == 2
    assert "Errno" not in result.output
    assert len(result.output.splitlines()) == 1
