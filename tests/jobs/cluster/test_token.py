"""A real cluster that asks for a token, and what each command says about a missing or wrong one."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ray_head import RayHead, ray_head

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).parent / "nightpress"
SOON_S = 30.0
"""Imports on a busy machine included; by itself Ray tries for as long on an idle one."""

TOKENS: dict[str, dict[str, str]] = {
    "asks for a token: set RAY_AUTH_MODE=token, and set RAY_AUTH_TOKEN": {},
    "refuses this token: set RAY_AUTH_TOKEN": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"},
    "RAY_AUTH_MODE is token, but there is no token": {"RAY_AUTH_MODE": "token"},
}


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cats.csv").write_text("id,prompt\na,a cat\n")
    (tmp_path / "cats.yaml").write_text(f"manifest: cats.csv\noutput: {tmp_path}/press\n")
    return tmp_path


def call(
    folder: Path, environment: dict[str, str], *words: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [PROGRAM, *words], cwd=folder, env=environment, text=True, capture_output=True, timeout=200
    )


def where(command: str, head: RayHead) -> list[str]:
    return ["--to", head.dashboard] if command == "submit" else ["--address", head.address]


@pytest.mark.parametrize("words", TOKENS)
@pytest.mark.parametrize("command", ["run", "submit", "doctor"])
def test_a_missing_or_wrong_token_is_said_at_once_in_one_line(
    head: RayHead, folder: Path, command: str, words: str
) -> None:
    others = {k: v for k, v in head.environment.items() if not k.startswith("RAY_AUTH")}
    environment = others | {"HOME": str(folder)} | TOKENS[words]
    began = time.monotonic()
    done = call(folder, environment, command, "cats.yaml", *where(command, head))
    assert time.monotonic() - began < SOON_S
    assert done.returncode == 2, done.stderr
    told = done.stdout if command == "doctor" else done.stderr
    assert words in told
    if command != "doctor":
        assert len(told.splitlines()) == 1
    assert not (folder / "press").exists()


def test_the_doctor_finds_a_cluster_with_its_token_healthy(head: RayHead, folder: Path) -> None:
    done = call(folder, head.environment, "doctor", "cats.yaml", *where("doctor", head), "--json")
    values = json.loads(done.stdout)
    found = {check["name"]: check["state"] for check in values["checks"]}
    assert done.returncode == 0, values
    for name in ("token", "cluster", "clock", "versions", "output", "inputs", "home"):
        assert found[name] == "ok", values
    assert found["grace"] == "warning"  # Ray's own 30 s are less than the job's 60 s
    assert not (folder / "press").exists()


def test_a_home_that_cannot_be_written_says_so(head: RayHead, folder: Path) -> None:
    environment = head.environment | {"HOME": "/proc/self"}
    done = call(folder, environment, "doctor", *where("doctor", head))
    assert done.returncode == 2
    assert "/proc/self cannot be written" in done.stdout
