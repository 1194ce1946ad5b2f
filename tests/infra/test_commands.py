"""Every nightpress command in the files of `infra/` is one that nightpress understands."""

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest
import yaml
from support.infra_checks import INFRA, of_kind, overlay

from nightpress.jobs import cli
from nightpress.jobs.errors import StoppedOnRequest

IS_WHOLE = {"submit", "schedule"} <= set(cli.COMMANDS)
"""Whether this nightpress has the commands for schedules, and the options that came with them."""


def of_kubernetes() -> Iterator[tuple[str, list[str]]]:
    """(kind of the resource, its command)."""
    (cron,) = of_kind(overlay("cpu"), "CronJob")
    yield (
        "CronJob",
        cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"],
    )
    (schedule,) = of_kind(overlay("raycronjob"), "RayCronJob")
    yield "RayCronJob", shlex.split(schedule["spec"]["jobTemplate"]["entrypoint"])


def of_yaml() -> Iterator[list[str]]:
    compose = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text(encoding="utf-8"))
    yield compose["services"]["submit"]["command"]
    argo = yaml.safe_load((INFRA / "schedulers" / "argo.yaml").read_text(encoding="utf-8"))
    container: dict[str, Any] = argo["spec"]["workflowSpec"]["templates"][0]["container"]
    yield [*container["command"], *container["args"]]
    sky = yaml.safe_load((INFRA / "schedulers" / "skypilot.yaml").read_text(encoding="utf-8"))
    yield shlex.split(sky["run"].replace("$NIGHT", "2027-01-15"))


def of_units() -> Iterator[list[str]]:
    text = (INFRA / "systemd" / "nightpress@.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=/opt/nightpress/bin/(.*)$", text, re.MULTILINE)
    yield shlex.split(command)


def of_python() -> Iterator[list[str]]:
    """The commands of Python files, with a date for the night that each adds."""
    for name in ("dagster_job.py", "prefect_flow.py"):
        tree = ast.parse((INFRA / "schedulers" / name).read_text(encoding="utf-8"))
        lists = [ast.literal_eval(node) for node in ast.walk(tree) if is_command_list(node)]
        yield [*itertools.chain.from_iterable(lists), "--night", "2027-01-15"]
    text = (INFRA / "schedulers" / "airflow_dag.py").read_text(encoding="utf-8")
    (shell,) = re.findall(r'"exec (nightpress .*?) \{\{', text, re.DOTALL)
    yield [*shlex.split(re.sub(r'"\s*"', "", shell)), "2027-01-15"]


def is_command_list(node: ast.AST) -> bool:
    """Whether this is a list of words that begin a command or an option."""
    match node:
        case ast.List(elts=[ast.Constant(value=str(first)), *_]):
            return first == "nightpress" or first.startswith("--")
    return False


def of_comments() -> Iterator[list[str]]:
    """Commands on a line of their own in the comments at the head of a file."""
    for file in sorted(INFRA.rglob("*")):
        if file.is_file() and file.suffix in (".yaml", ".yml", ".service", ".timer"):
            text = file.read_text(encoding="utf-8")
            for line in re.findall(r"^#   (nightpress .*)$", text, re.MULTILINE):
                yield shlex.split(line, comments=True)


COMMANDS = [
    *of_yaml(),
    *of_units(),
    *of_python(),
    *of_comments(),
]


def parse(words: list[str]) -> None:
    """Parse a command as nightpress does, without running it."""
    program, name, *arguments = words
    assert program == "nightpress"
    command = cli.command.get_command(click.Context(cli.command), name)
    try:
        assert command is not None, f"there is no command {name!r}"
        command.make_context(name, arguments)
    except (AssertionError, click.UsageError) as error:
        if IS_WHOLE:
            raise
        pytest.skip(f"this nightpress has no schedules yet: {error}")
    except StoppedOnRequest:
        """The hours of its deadline are not now."""


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_understood(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("kind", ["CronJob", "RayCronJob"])
def test_a_command_of_kubernetes_is_understood(kind: str) -> None:
    parse(dict(of_kubernetes())[kind])


def test_all_of_them_are_found() -> None:
    assert len(COMMANDS) >= 8
