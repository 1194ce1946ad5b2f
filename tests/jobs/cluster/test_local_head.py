"""What the Ray that nightpress starts leaves out, and that other starts of Ray are as before."""

import json
import os
from typing import Any

import click
import pytest
import ray
from click.testing import CliRunner
from ray._private import node, parameter

from nightpress.jobs.cli import CommandGroup, command
from nightpress.jobs.cluster.forked_worker import ADDRESS
from nightpress.jobs.cluster.local_head import lean_head
from nightpress.jobs.cluster.worker_template import PROGRAM, WorkerTemplate
from nightpress.jobs.commands.log_format import log_format_option


def test_ray_starts_without_monitor_log_monitor_and_dashboard_only_inside() -> None:
    before: tuple[Any, Any] = parameter.RayParams, node.Node
    with lean_head(None):
        made = parameter.RayParams(include_dashboard=False)
        assert (made.no_monitor, made.include_log_monitor) == (True, False)
        assert made.worker_path is None
        assert node.Node.start_api_server is not before[1].start_api_server
    assert (parameter.RayParams, node.Node) == before
    assert before[0]().no_monitor is not True


def test_workers_are_asked_for_from_the_template() -> None:
    template = WorkerTemplate(modules=())
    try:
        with lean_head(template):
            assert parameter.RayParams().worker_path == PROGRAM
            assert os.environ[ADDRESS] == template.address
        assert ADDRESS not in os.environ
    finally:
        template.close()


class Other:
    """Parameters of a Ray that has other processes."""


Other.__module__ = "ray._private.parameter"


@pytest.mark.parametrize(
    ("owner", "name", "missing"),
    [
        (parameter, "RayParams", "ray._private.parameter.RayParams"),
        (node, "Node", "ray._private.node.Node"),
        (node.Node, "start_api_server", "ray._private.node.Node.start_api_server"),
    ],
)
def test_a_ray_without_these_parts_starts_as_it_always_does_and_says_so(
    owner: Any,
    name: str,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delattr(owner, name)
    with lean_head(None):
        assert not hasattr(owner, name)
    (said,) = caplog.messages
    assert said.startswith(f"ray {ray.__version__}: there is no {missing}; nightpress uses it to ")
    assert said.endswith("Ray starts as it always does, and the first image comes later")
    assert "\n" not in said


def test_a_ray_with_other_parameters_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parameter, "RayParams", Other)
    with lean_head(None):
        assert parameter.RayParams is Other
    assert "there is no ray._private.parameter.Other.no_monitor" in caplog.text


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_command_shows_that_warning_in_one_line(
    log_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameter, "RayParams", Other)

    @click.command()
    @log_format_option
    def start(log_format: str) -> None:
        with lean_head(None):
            pass

    monkeypatch.setattr(CommandGroup, "get_command", lambda self, ctx, name: start)
    done = CliRunner().invoke(command, ["run", "--log-format", log_format])
    assert done.exit_code == 0
    (line,) = done.stderr.splitlines()
    if log_format == "json":
        values = json.loads(line)
        assert values["level"] == "warning"
        line = f"warning: {values['message']}"
    assert line.startswith("warning: ray ")
