"""`export` on a real Ray: on disks and S3, after kills, and through the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from support import made_runs
from support.exports import SPLIT, begin_with, files_of, finished_run, ids_of, spec_of, stored
from support.made_runs import SHARD_SIZE, commit
from support.servers import Folder

import nightpress
from nightpress import ExportSpec, Run, export, open_run
from nightpress.jobs.cli import command
from nightpress.jobs.progress.exporting import ExportProgressText
from nightpress.jobs.runs.verify_export import is_export, verify_export
from nightpress.pipelines.errors import RunHeld
from nightpress.pipelines.export.events import (
    ExportPlanned,
    ImagesCompared,
    ShardExported,
    ShardSurveyed,
)
from nightpress.pipelines.export.summary import SUMMARY_FILE
from nightpress.pipelines.run_directory.commit import amend_commit
from nightpress.pipelines.run_directory.lease import held
from nightpress.pipelines.storage import Store

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return finished_run(tmp_path / "press")


def printed(*arguments: str) -> tuple[int, Any, str]:
    """Exit code, the object on stdout, and stderr."""
    result = CliRunner().invoke(command, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout), result.stderr


def file_of(folder: Path, spec: ExportSpec) -> str:
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump(spec.as_dict()))
    return str(path)


def test_an_export_is_written_once_and_brought_up_to_date(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, split=SPLIT)
    events: list[object] = []
    result = export(spec, events.append)
    assert (result.num_images, result.num_dropped) == (
        {"train": 6, "validation": 2, "test": 1},
        {"failed": 1},
    )
    assert (result.num_shards, result.num_written) == (3, 3)
    assert [type(each) for each in events] == [
        *[ShardSurveyed] * 3,
        ExportPlanned,
        *[ShardExported] * 3,
    ]
    assert verify_export(spec.url).is_sound
    assert export(spec).num_written == 0
    amend_commit(run.store, 1, {1: made_runs.made(run, 5)})
    assert not verify_export(spec).is_sound
    assert export(spec).num_written == 1
    assert verify_export(spec).is_sound
    assert len(ids_of(spec.url)) == 10


def test_an_export_lies_in_a_bucket_like_its_runs(tmp_path: Path, bucket: Folder) -> None:
    name = "run"
    record = made_runs.record_of(f"{bucket.url}/press", name=name, storage=bucket.options)
    store = Store(record.spec.url, bucket.options)
    store.create("run.json", record.to_json())
    made_runs.finish(open_run(store.url, bucket.options))
    keys = {"output": f"{bucket.url}/sets", "storage": bucket.options}
    spec = spec_of(tmp_path, store.url, split=SPLIT, layout="imagefolder", **keys)
    assert export(spec).num_images == {"train": 6, "validation": 2, "test": 1}
    assert export(spec).num_written == 0
    assert is_export(spec.url, bucket.options)
    result = verify_export(spec.url, storage=bucket.options)
    assert (result.is_sound, result.num_checked) == (True, 9)


SCRIPT = """
import sys, yaml
from nightpress import ExportSpec, export

def say(event):
    print(type(event).__name__, flush=True)

export(ExportSpec.from_dict(yaml.safe_load(open(sys.argv[1]))), say)
"""


def many_shards(folder: Path, num_shards: int) -> Run:
    run = begin_with(folder, "many", num_shards * SHARD_SIZE)
    for shard in range(num_shards):
        numbers = range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE)
        commit(run, shard, [stored(run, f"i{n}", _square(n)) for n in numbers])
    return open_run(run.url)


def _square(number: int) -> Any:
    import numpy as np

    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.mark.slow
def test_a_killed_export_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    run = many_shards(tmp_path / "press", 12)
    spec = spec_of(tmp_path, run.url, split=SPLIT)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    driver = subprocess.Popen(
        [sys.executable, str(script), file_of(tmp_path, spec)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert driver.stdout is not None
        seen = 0
        for line in driver.stdout:
            seen += line.strip() == "ShardExported"
            if seen == 3:
                break
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
    assert not Path(spec.url, SUMMARY_FILE).exists()
    result = export(spec)
    assert 0 < result.num_written <= 9
    fresh = spec_of(tmp_path / "fresh", run.url, split=SPLIT)
    export(fresh)
    assert _content(spec.url) == _content(fresh.url)
    assert verify_export(spec).is_sound


def _content(url: str) -> dict[str, bytes]:
    """Every file but those that have times, or say who wrote."""
    changing = ("lease/", "export.json", "croissant.json", SUMMARY_FILE)
    return {k: v for k, v in files_of(url).items() if not k.startswith(changing)}


@pytest.mark.slow
def test_a_stop_that_is_asked_for_is_no_failure(tmp_path: Path) -> None:
    run = many_shards(tmp_path / "press", 12)
    spec = spec_of(tmp_path, run.url)
    program = [sys.executable, "-m", "nightpress", "export", file_of(tmp_path, spec)]
    driver = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(Path(spec.url).glob("index/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    driver.send_signal(signal.SIGTERM)
    _, said = driver.communicate(timeout=120)
    if driver.returncode == 0:
        pytest.skip("the export was finished before the signal came")
    assert driver.returncode == 4, said
    assert "the same command" in said
    assert "Traceback" not in said
    assert export(spec).num_images == {"train": 48}


def test_another_live_process_is_left_alone(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url)
    with held(Store(spec.url)), pytest.raises(RunHeld, match="--take-over"):
        export(spec)
    assert export(spec, take_over=True).num_written == 3


def test_the_command_says_what_is_in_the_set(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, split=SPLIT)
    code, values, _ = printed("export", file_of(tmp_path, spec))
    assert (code, values["exit_code"], values["error"]) == (0, 0, None)
    assert list(values) == [
        *("url", "num_images", "num_dropped", "num_rows_apart", "num_bytes", "num_shards"),
        *("num_written", "elapsed_s", "exit_code", "error"),
    ]
    result = CliRunner().invoke(command, ["export", file_of(tmp_path, spec)])
    assert "9 images" in result.stdout
    assert "1 image left out: failed" in result.stdout
    assert "nothing has changed since this export was finished" in result.stderr


def test_verify_recognises_an_export_by_its_url_and_by_its_file(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url)
    file = file_of(tmp_path, spec)
    export(spec)
    for target in (spec.url, file):
        code, values, _ = printed("verify", target)
        assert (code, values["num_checked"], values["findings"]) == (0, 9, [])
    part = next(Path(spec.url).glob("data/*"))
    part.write_bytes(part.read_bytes() + b"x")
    code, values, _ = printed("verify", spec.url)
    assert code == 3
    assert values["findings"][0]["damage"] == "changed"
    assert printed("verify", spec.url, "--spread")[:2] == (code, values)
    next(Path(spec.url).glob("index/*")).unlink()
    code, values, _ = printed("verify", spec.url)
    assert (code, values["findings"][-1]["path"]) == (3, "index")
    for option in (["--inputs"], ["--night", "2027-01-15"]):
        code, values, said = printed("verify", spec.url, *option)
        assert (code, f"{option[0]}: this is an export" in said) == (2, True)
    code, values, _ = printed("verify", spec.url, "--repair")
    assert (code, values["findings"]) == (0, [])
    assert values["num_repaired"] > 0
    assert printed("verify", spec.url)[0] == 0


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"caption": "{nonsense}"}, "caption: '{nonsense}': there is no column"),
        ({"layout": "zip"}, "layout: 'zip'"),
        ({"from": "nowhere"}, "from: nowhere: no run here"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    path = tmp_path / "set.yaml"
    path.write_text(yaml.safe_dump({"from": run.url, "output": f"{tmp_path}/sets"} | keys))
    result = CliRunner().invoke(command, ["export", str(path)])
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path(tmp_path, "sets").exists()


def test_progress_says_how_much_is_left() -> None:
    now = [0.0]
    text = ExportProgressText(clock=lambda: now[0])
    assert text.line() == ""
    text.add(ShardSurveyed())
    assert text.line() == "1 shard compared"
    text.add(ImagesCompared(2_048, 10_000))
    assert text.line() == "2,048 of 10,000 images compared by embeddings"
    assert text.add(ExportPlanned(10, 4)) == "6 shards to export, 4 there already"
    now[0] = 6.0
    text.add(ShardExported(256, 1_200_000))
    assert text.line() == "5 / 10 shards · 256 images · 1.2 MB · 30 s left"
    assert text.share() == (5, 10)


def test_the_function_is_what_the_packages_export() -> None:
    assert nightpress.export is export
    assert "Raises:" in str(export.__doc__)
