"""Nothing but our own lines reaches the terminal, whatever the libraries have to say."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.cat_facts import CAT
from support.training_jobs import draw_images

from nightpress.diffusion_core.models.loading import describe
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.silence_libraries import QUIET
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.models.location import locate

LONG = "a red circle above a blue square, " * 20
"""More tokens than any text encoder takes, which transformers and diffusers both remark upon."""

JOB = """\
manifest: prompts.txt
output: runs
sampling: {num_inference_steps: 2, width: 32, height: 32}
cluster: {actors: 1}
"""

OURS = re.compile(
    r"manifest .*|(reads|carries) the columns: .*|(run|state|reads|carries|warning|names|modes|"
    r"model|weights|inputs|rows|images|shards|takes|size|stored|started|spent|rate|speed|metadata|"
    r"report) {2,}\S.*"
    r"| *size +sampler +steps.*| *[\d,]+ x [\d,]+ .*"
    r"|cat_00: builtin .*|differs by at most \d+ of 255, PSNR .*|bit-exact.*"
    r"|wrote .*|[\d,]+ images? (read: .*|in [\d,]+ shards?)|[\d,]+ of [\d,]+ images|"
    r"|[\d,]+ made now in .*|[\d.]+ images/s of sampling time in the whole run"
    r"|actors: loading the model .*|(batch.size|model.speed) auto: .*"
    r"|an actor on \S+ has loaded its model.*|[\d,]+ / [\d,]+ images · .*"
    r"|read [\d,]+ .*|step .*|.*[\d,]+ / [\d,]+ steps.*|.*checkpoint.*|samples .*|loss .*"
    # On a machine that is busy with something else:
    r"|warning: waiting for .* to start: .*|waiting for the first actor to load its model"
    r"|[\d,]+ / [\d,]+ images encoded|.*/runs/.*|training .*|.* loss [\d.]+.*|[\d,]+ steps?.*"
)
"""The lines of our own that the commands below print."""


def lines_of(folder: Path, *arguments: str, code: int = 0) -> list[str]:
    """All that a command prints on a machine with the libraries' default settings."""
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    program = "from nightpress.jobs.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == code, done.stdout
    return done.stdout.splitlines()


def foreign(lines: list[str]) -> list[str]:
    return [line for line in lines if not OURS.fullmatch(line)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.mark.slow  # the next test loads all libraries that this one does, and more
def test_plan_prints_only_its_own_lines(folder: Path) -> None:
    lines = lines_of(folder, "plan", "job.yaml")
    assert lines[0].startswith("run ")
    assert foreign(lines) == []


@pytest.mark.slow
def test_reproduce_prints_only_its_own_lines(folder: Path) -> None:
    spec = ModelSpec()
    facts = replace(
        CAT,
        prompt=LONG,
        negative_prompt=LONG,
        width=32,
        num_inference_steps=1,
        model_fingerprint=describe(locate(spec), spec).fingerprint,
    )
    (folder / "cat.png").write_bytes(encode(np.zeros((32, 32, 3), np.uint8), facts, ImagesSpec()))
    lines = lines_of(folder, "reproduce", "cat.png", code=3)
    assert lines[0].startswith("cat_00: builtin ")
    assert foreign(lines) == []


@pytest.mark.slow
def test_commands_that_sample_print_only_their_own_lines(folder: Path) -> None:
    for arguments in (
        ("preview", "job.yaml", "-n", "2"),
        ("run", "job.yaml"),
        ("verify", "runs/job"),
        ("status", "runs/job"),
        ("steps", "a red circle", "--steps", "2"),
    ):
        assert foreign(lines_of(folder, *arguments)) == [], arguments


@pytest.mark.slow
def test_training_prints_only_its_own_lines(folder: Path) -> None:
    draw_images(folder / "pictures")
    (folder / "lora.yaml").write_text(
        "recipe: lora\nmodel: builtin\ndata: {source: pictures}\noutput: runs\n"
        "training: {max_train_steps: 2, train_batch_size: 2, resolution: 32}\n"
    )
    assert foreign(lines_of(folder, "train", "lora.yaml")) == []


UNFINISHED = """
import asyncio, atexit, sys
from nightpress.jobs import cli

async def request():
    try:
        await asyncio.Future()
    finally:
        raise ValueError("a request that was under way")

under_way = [request()]
under_way[0].send(None)
atexit.register(under_way.clear)
cli.command = lambda: sys.exit(4)
cli.main()
"""
"""Ends the program while a request to a store waits for its answer."""


def test_requests_that_end_with_the_process_print_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", UNFINISHED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")
