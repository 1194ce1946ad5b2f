"""Every command in the files of `infra/` is one that nightpress, Ray or SeaweedFS understands."""

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli
from structure import ROOT
from support.infra_checks import INFRA, of_kind, overlay, run_tool

from nightpress.jobs import cli
from nightpress.jobs.errors import StoppedOnRequest

PROGRAMS = ("nightpress", "ray", "weed")

Words = list[str]


def read(name: str) -> str:
    return (INFRA / name).read_text(encoding="utf-8")


def of_kubernetes() -> Iterator[tuple[str, Words]]:
    """(kind of the resource, its command)."""
    (cron,) = of_kind(overlay("cpu"), "CronJob")
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    yield "CronJob", pod["containers"][0]["args"]
    (schedule,) = of_kind(overlay("raycronjob"), "RayCronJob")
    yield "RayCronJob", shlex.split(schedule["spec"]["jobTemplate"]["entrypoint"])


def of_compose() -> Iterator[Words]:
    for service in yaml.safe_load(read("compose/compose.yaml"))["services"].values():
        command = service["command"]
        yield command if command[0] in PROGRAMS else ["weed", *command]
        if "ray" in service.get("healthcheck", {}).get("test", ()):
            yield service["healthcheck"]["test"][1:]


def of_schedulers() -> Iterator[Words]:
    argo = next(yaml.safe_load_all(read("schedulers/argo.yaml")))
    container: dict[str, Any] = argo["spec"]["workflowSpec"]["templates"][0]["container"]
    yield [*container["command"], *container["args"]]
    sky = yaml.safe_load(read("schedulers/skypilot.yaml"))
    yield shlex.split(sky["run"].replace("$NIGHT", "2027-01-15"))
    for name in ("dagster_job.py", "prefect_flow.py"):
        tree = ast.parse(read(f"schedulers/{name}"))
        lists = [ast.literal_eval(node) for node in ast.walk(tree) if is_command_list(node)]
        yield [*itertools.chain.from_iterable(lists), "--night", "2027-01-15"]
    (shell,) = re.findall(
        r'"exec (nightpress .*?)"\s*\)', read("schedulers/airflow_dag.py"), re.DOTALL
    )
    yield [*shlex.split(re.sub(r'"\s*"', "", shell)), "--night", "2027-01-15"]


def is_command_list(node: ast.AST) -> bool:
    """Whether this is a list of words that begin a command or an option."""
    match node:
        case ast.List(elts=[ast.Constant(value=str(first)), *_]):
            return first == "nightpress" or first.startswith("--")
    return False


def of_units() -> Iterator[Words]:
    for file in sorted((INFRA / "systemd").glob("*.service")):
        text = file.read_text(encoding="utf-8")
        (command,) = re.findall(r"^ExecStart=/opt/nightpress/bin/(.*)$", text, re.MULTILINE)
        yield shlex.split(command)


def of_launcher() -> Iterator[Words]:
    for file in sorted((INFRA / "launcher").glob("*.yaml")):
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        for line in [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]:
            (command,) = re.findall(r"(?:^|[ /])(ray .*)$", line)
            yield shlex.split(command)


def of_comments() -> Iterator[Words]:
    """Commands on a line of their own in the comments at the head of a file."""
    for file in sorted(INFRA.rglob("*")):
        if file.is_file() and file.suffix in (".yaml", ".yml", ".service", ".timer"):
            text = file.read_text(encoding="utf-8")
            for line in re.findall(r"^#   ((?:nightpress|ray) .*)$", text, re.MULTILINE):
                yield shlex.split(line, comments=True)


def manual_lines() -> Iterator[str]:
    """The lines of shell in the manual; what is printed or typed elsewhere is in no such block."""
    text = read("README.md")
    assert "```console" not in text
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def of_manual() -> Iterator[Words]:
    for line in manual_lines():
        words = shlex.split(re.sub(r"\$\([^)]*\)", "SUBSTITUTED", line), comments=True)
        if words and words[0].removeprefix(".venv/bin/") in PROGRAMS:
            yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


COMMANDS = [
    *of_compose(),
    *of_schedulers(),
    *of_units(),
    *of_launcher(),
    *of_comments(),
    *of_manual(),
]


def parse(words: Words) -> None:
    """Parse a command as its program does, without running it."""
    match words:
        case ["weed", *arguments]:
            parse_weed(arguments)
        case ["ray", name, *arguments]:
            parse_click(ray_cli, name, arguments)
        case ["nightpress", name, *arguments]:
            parse_click(cli.command, name, arguments)
        case _:
            pytest.fail(f"whose command is {words}?")


def parse_click(group: click.Group, name: str, arguments: Words) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None, f"there is no command {name!r}"
    try:
        command.make_context(name, list(arguments))
    except StoppedOnRequest:
        """The hours of its deadline are not now."""


def parse_weed(arguments: Words) -> None:
    """Check the flags of `weed mini` against those that it lists."""
    name, *flags = arguments
    shown = run_tool("weed", "help", name)
    listed = set(re.findall(r"^ +-(\S+)", shown.stdout + shown.stderr, re.MULTILINE))
    assert {flag.partition("=")[0].removeprefix("-") for flag in flags} <= listed


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_understood(words: Words) -> None:
    parse(words)


@pytest.mark.parametrize("kind", ["CronJob", "RayCronJob"])
def test_a_command_of_kubernetes_is_understood(kind: str) -> None:
    parse(dict(of_kubernetes())[kind])


@pytest.mark.parametrize(
    "words",
    [
        "nightpress submit job.yaml --to http://head:8265 --deadlines 06:30",
        "nightpress submits job.yaml --to http://head:8265",
        "nightpress run job.yaml --tz Europe/Berlim",
        "nightpress run job.yaml --ok-codes 1,2",
        "ray start --head --block --ports=6379",
        "ray start --head --metrics-port=8080",
        "weed mini -dir=/data -s3.ports=8333",
    ],
)
def test_a_mistake_in_a_command_is_found(words: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        parse(shlex.split(words))


def test_all_of_them_are_found() -> None:
    """As many as there are, so that a file which says it in another way is not left out."""
    found = {program: sum(words[0] == program for words in COMMANDS) for program in PROGRAMS}
    assert found == {"nightpress": 9, "ray": 23, "weed": 3}


def test_every_file_that_the_manual_s_commands_name_is_there() -> None:
    named = {
        name
        for line in manual_lines()
        for name in re.findall(r"(?<![\w./])(?:infra|jobs)/[\w./@-]+", line)
    }
    assert len(named) >= 8
    assert {name for name in named if not (ROOT / name).exists()} == set()
