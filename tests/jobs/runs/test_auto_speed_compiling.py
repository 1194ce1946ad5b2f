"""Whole runs with `model.speed: auto` that compile, in processes of their own with a low floor."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

PROMPTS = 24
PATIENCE_S = 1200.0

LOW_FLOOR = """
from nightpress.diffusion_core.tuning import auto_speed as rules
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.jobs.dispatch import auto_speed

rules.FEWEST_STEPS, rules.Attempt.pays = 1, lambda *given: True
rules.SHORTEST_LIMIT_S = 1_000.0
rules.last_bit_candidates = lambda: [TuningConfig.of(compile="regional")]
auto_speed.choose = lambda work, trials: next(filter(None, trials.values()), None)

from nightpress.jobs.cli import command

command()
"""
"""The command line, where even a short run compiles, and keeps that however fast it is."""

TRYING = "trying compile regional first"


class Press:
    """Runs of one job, whose compiled code is kept in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.code = folder, folder / "inductor"
        prompts = "\n".join(f"a red apple, number {number}" for number in range(PROMPTS))
        (folder / "prompts.txt").write_text(f"{prompts}\n")

    def start(self, output: str, **environment: str) -> "subprocess.Popen[str]":
        """Start the command, in a process group of its own."""
        settings = ["manifest=prompts.txt", "sampling.num_inference_steps=4", "batch.size=2"]
        settings += ["cluster.actors=2", f"output={output}", "batch.shard_size=4"]
        job = self.folder / "job.yaml"
        job.write_text("".join(f"{each.replace('=', ': ')}\n" for each in settings[:1]))
        options = [part for each in settings[1:] for part in ("--set", each)]
        return subprocess.Popen(
            [sys.executable, "-c", LOW_FLOOR, "run", str(job), *options],
            cwd=self.folder,
            env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(self.code)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, output: str, **environment: str) -> str:
        """Run to the end; returns what was printed."""
        process = self.start(output, **environment)
        try:
            printed, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            kill(process)
        assert process.returncode == 0, printed
        return printed

    def run_directory(self, output: str) -> Path:
        return self.folder / output / "job"

    def images(self, output: str) -> dict[str, bytes]:
        paths = (self.run_directory(output) / "images").glob("*.png")
        return {path.name: path.read_bytes() for path in paths}

    def decision(self, output: str) -> dict[str, Any]:
        values = json.loads((self.run_directory(output) / "run.json").read_text())
        (found,) = values["auto_speed"]
        return dict(found)


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill the process and those that it has started, at once."""
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def killed_when(process: "subprocess.Popen[str]", is_time: Callable[[], bool]) -> None:
    """Kill a process when it is time to, which must come before its end."""
    end = time.monotonic() + PATIENCE_S
    while not is_time():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    kill(process)


@pytest.fixture
def press(tmp_path: Path) -> Press:
    return Press(tmp_path)


def test_a_run_that_is_killed_while_it_compiles_ends_with_the_bits_of_one_that_was_not(
    press: Press,
) -> None:
    process = press.start("killed")
    killed_when(process, lambda: any(press.code.rglob("*.cpp")) or any(press.code.rglob("*.py")))
    assert not (press.run_directory("killed") / "run.json").exists()
    assert TRYING in press.finish("killed")
    assert press.decision("killed")["speed"] == {"compile": "regional"}

    process = press.start("stopped")
    killed_when(process, lambda: bool(press.images("stopped")))
    assert TRYING not in press.finish("stopped")

    press.finish("undisturbed")
    expected = press.images("undisturbed")
    assert len(expected) == PROMPTS
    assert press.images("killed") == expected
    assert press.images("stopped") == expected


def test_a_run_without_a_compiler_is_exact_and_says_why(press: Press) -> None:
    printed = press.finish("plain", CXX=str(press.folder / "no-compiler"))
    assert "compile regional cannot be used: model.speed.compile: on a CPU torch.compile" in printed
    assert press.decision("plain")["speed"] == {}
    assert len(press.images("plain")) == PROMPTS
