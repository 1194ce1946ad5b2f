"""A job on a real cluster through Ray's Jobs API: how it is followed, and how it ends."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.ray_head import RayHead, ray_head

from nightpress.pipelines import open_run

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).parent / "nightpress"


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as started:
        yield started


def write_job(
    folder: Path, tiny_model: Path, num_rows: int = 3, steps: int = 2, ships: bool = False
) -> Path:
    """A job whose manifest lies beside it, and whose output is a shared folder."""
    rows = [{"id": f"r{i}", "prompt": f"a cat {i}"} for i in range(num_rows)]
    (folder / "rows").mkdir()
    (folder / "rows/cats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "manifest": "rows/cats.jsonl",
        "output": str(folder / "press"),
        "model": str(tiny_model),
        "sampling": {"num_inference_steps": steps, "height": 32, "width": 32},
        "batch": {"size": 1, "shard_size": 2},
        "cluster": {"actors": 1, "ship_package": ships, "drain_s": 20},
    }
    path = folder / "cats.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def submit(job: Path, head: RayHead, *options: str) -> "subprocess.Popen[str]":
    command = [PROGRAM, "submit", job.name, "--to", head.dashboard, *options]
    return subprocess.Popen(
        command,
        cwd=job.parent,
        env=head.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_job_runs_with_its_manifest_and_its_own_exit_code(
    head: RayHead, tmp_path: Path, tiny_model: Path
) -> None:
    job = write_job(tmp_path, tiny_model, ships=True)
    first = submit(job, head, "--json")
    out, log = first.communicate(timeout=240)
    assert first.returncode == 0, log
    result = json.loads(out)
    assert (result["status"], result["exit_code"], result["attached"]) == ("SUCCEEDED", 0, False)
    assert result["job_id"].startswith("cats-")
    assert result["job_id"].endswith("-1")
    assert "3 of 3 images" in log
    assert open_run(str(tmp_path / "press/cats")).progress().num_ok == 3
    # A job that is refused ends as `run` would.
    (tmp_path / "rows/cats.jsonl").write_text('{"id": "r0", "prompt": "a dog"}\n')
    second = submit(job, head)
    out, log = second.communicate(timeout=240)
    assert second.returncode == 2, log
    assert "give this job another name" in log
    assert "ended with exit code 2" in out


def test_a_second_submission_attaches_and_sigterm_stops_the_job_with_its_drain(
    head: RayHead, tmp_path: Path, tiny_model: Path
) -> None:
    job = write_job(tmp_path, tiny_model, num_rows=400, steps=900)  # longer than Ray's own 3 s
    first = submit(job, head)
    assert first.stderr is not None
    for line in first.stderr:
        if " / 400 images" in line:
            break
    second = submit(job, head, "--no-wait")
    out, said = second.communicate(timeout=60)
    assert second.returncode == 0
    assert out.strip().endswith("-1")
    assert f"attached to job {out.strip()}" in said
    time.sleep(1)
    first.send_signal(signal.SIGTERM)
    out, log = first.communicate(timeout=120)
    assert first.returncode == 4, log
    assert "was stopped; run the same command again to resume" in out
    assert "stopped: asked to stop; run the same command again to resume" in log
