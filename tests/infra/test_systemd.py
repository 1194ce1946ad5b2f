"""The units are what systemd accepts."""

import re
import shutil
from pathlib import Path

import pytest
from support.infra_checks import INFRA, run_tool

UNITS = INFRA / "systemd"

TIMER = "nightpress@.timer"
SERVICE = "nightpress@.service"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copies of the units, whose programs are where systemd finds them."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("nightpress", "ray"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    copied = Path(shutil.copytree(UNITS, tmp_path / "units"))
    for file in copied.iterdir():
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("/opt/nightpress/bin", str(programs)), encoding="utf-8")
    return copied


def complaints(units: Path) -> list[str]:
    """What systemd says about the units; it ends with 0 when it only warns."""
    done = run_tool("systemd-analyze", "verify", "--man=no", *sorted(units.iterdir()))
    names = [file.name.partition("@")[0].partition(".")[0] for file in units.iterdir()]
    lines = done.stderr.splitlines()
    return [line for line in lines if any(name in line for name in names)] or (
        lines if done.returncode else []
    )


def test_systemd_has_nothing_against_the_units(units: Path) -> None:
    assert complaints(units) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        (SERVICE, "TimeoutStopSec=", "TimeoutStopSeconds="),
        (SERVICE, "KillMode=mixed", "KillMode=main"),
        (SERVICE, "SuccessExitStatus=4 5", "SuccessExitStatus=four"),
        (SERVICE, "ExecStart=", "ExecStart=/nowhere"),
        (TIMER, "22:00:00 Europe/Berlin", "22:00:00 Europe/Berlim"),
        (TIMER, "OnCalendar=*-*-* 00,02,04", "OnCalendar=*-*-* 25,02,04"),
        ("ray-head.service", "Restart=always", "Restart=ever"),
        ("ray-worker.service", "[Service]", "[Services]"),
    ],
)
def test_a_mistake_in_a_unit_is_found(units: Path, name: str, right: str, wrong: str) -> None:
    file = units / name
    text = file.read_text(encoding="utf-8")
    assert right in text
    file.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    assert complaints(units) != []


def lines_of(name: str, key: str) -> list[str]:
    text = (UNITS / name).read_text(encoding="utf-8")
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def test_the_timer_ticks_within_the_hours_of_the_deadline_and_nothing_else_starts_it() -> None:
    (command,) = lines_of(SERVICE, "ExecStart")
    assert command.endswith("--deadline 22:00-06:30 --tz Europe/Berlin")
    assert all(each.endswith(" Europe/Berlin") for each in lines_of(TIMER, "OnCalendar"))
    hours = re.findall(r"(\d\d)(?=[\d,]*:00:00)", " ".join(lines_of(TIMER, "OnCalendar")))
    assert [int(hour) for hour in hours] == [22, 0, 2, 4]
    assert lines_of(SERVICE, "Restart") == []


def test_a_run_that_stopped_early_or_is_held_is_no_failed_unit() -> None:
    assert lines_of(SERVICE, "SuccessExitStatus") == ["4 5"]


def test_a_run_finds_the_sockets_of_a_ray_that_runs_on_its_machine() -> None:
    """They are in /tmp/ray, which PrivateTmp would hide and ProtectSystem make read-only."""
    assert lines_of(SERVICE, "PrivateTmp") == []
    assert lines_of(SERVICE, "ReadWritePaths") == ["/srv/nightpress /tmp"]


def test_the_head_finds_the_python_of_submitted_jobs() -> None:
    (path,) = [each for each in lines_of("ray-head.service", "Environment") if "PATH=" in each]
    assert path.startswith("PATH=/opt/nightpress/bin:")


@pytest.mark.parametrize("name", ["ray-head.service", "ray-worker.service"])
def test_ray_asks_for_a_token_and_its_end_by_a_signal_is_no_failure(name: str) -> None:
    assert "RAY_AUTH_MODE=token" in lines_of(name, "Environment")
    assert lines_of(name, "EnvironmentFile") == ["/etc/nightpress/ray.env"]
    assert lines_of(name, "SuccessExitStatus") == ["1"]
    (command,) = lines_of(name, "ExecStart")
    assert "--block" in command.split()  # without it Ray does not drain its node
    assert "--metrics-export-port=8080" in command.split()


def test_no_unit_runs_as_root() -> None:
    services = [file.name for file in UNITS.glob("*.service")]
    assert {name: lines_of(name, "User") for name in services} == {
        name: ["nightpress"] for name in services
    }
