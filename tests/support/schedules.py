"""What schedule files must say, checked as their schedulers read them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml

CRDS = Path(
    os.environ.get("KUBERAY_CRDS", Path(__file__).resolve().parents[3] / "shared" / "kuberay")
)
"""The custom resource definitions of KubeRay; some tests are skipped where they are not."""

ECHO = """\
#!/bin/sh
"{python}" -c 'import json, os, sys; print(json.dumps([os.getcwd(), *sys.argv[1:]]))' "$@"
exit {code}
"""


def echoing_program(path: Path, code: int = 0) -> Path:
    """A program in place of `nightpress`: prints where it is called and with which words."""
    path.write_text(ECHO.format(python=sys.executable, code=code))
    path.chmod(0o755)
    return path


def cronjob_problems(cronjob: dict[str, Any], drain_s: float) -> list[str]:
    """What is wrong with a CronJob that submits a night; empty if nothing is."""
    spec = cronjob["spec"]
    job = spec["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    disruption, codes = (*job["podFailurePolicy"]["rules"], {}, {})[:2]
    facts = {
        "apiVersion": cronjob["apiVersion"] == "batch/v1",
        "name": re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", cronjob["metadata"]["name"]),
        "schedule": re.fullmatch(r"\d+ \d+(,\d+)* \* \* \*", spec["schedule"]),
        "timeZone": "/" in spec.get("timeZone", ""),
        "concurrencyPolicy": spec.get("concurrencyPolicy") == "Forbid",
        "history": {"successfulJobsHistoryLimit", "failedJobsHistoryLimit"} <= spec.keys(),
        "restartPolicy": pod.get("restartPolicy") == "Never",
        "disruption": disruption.get("action") == "Ignore"
        and disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}],
        "exit codes": codes.get("action") == "FailJob"
        and codes["onExitCodes"]
        == {"containerName": container["name"], "operator": "In", "values": [1, 2, 3, 5]},
        "backoffLimit": isinstance(job.get("backoffLimit"), int),
        "grace": pod.get("terminationGracePeriodSeconds", 30) >= drain_s + 120,
        "command": container["args"][:2] == ["nightpress", "submit"],
        "job": container["args"][2].startswith(container["volumeMounts"][0]["mountPath"] + "/"),
    }
    return [name for name, holds in facts.items() if not holds]


def crd_problems(resource: dict[str, Any]) -> list[str]:
    """How a custom resource differs from its definition, unknown keys included."""
    errors = _crd(resource["apiVersion"], resource["kind"]).iter_errors(resource)
    return [error.message for error in errors]


@cache
def _crd(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    group, _, version = api_version.partition("/")
    file = CRDS / f"{group}_{kind.lower()}s.yaml"
    definition = yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader)["spec"]
    (found,) = (each for each in definition["versions"] if each["name"] == version)
    schema = _strict(found["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def _strict(schema: Any) -> Any:
    """A schema that refuses keys that it does not know, as `kubectl --validate=strict` does."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if strict.get("x-kubernetes-int-or-string") is True:
        strict.pop("type", None)
    known = isinstance(strict.get("properties"), dict) and strict.get("type") == "object"
    if known and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict


def unit_problems(*units: Path) -> str:
    """What systemd says about units; empty if it accepts them."""
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if any(u.name in line for u in units)]
    return "\n".join(ours) or ("" if done.returncode == 0 else done.stderr)


def command_in_cron(line: str, escapes: str = "%") -> str:
    """The shell command of a crontab's line, as cron reads it.

    Args:
        line: the line.
        escapes: before which characters a backslash is dropped: `%` in cronie and ISC cron, `%` and
            the backslash itself in the cron of Debian and of BSD.
    """
    fields = re.fullmatch(r"(?:\S+ ){5}(.*)", line)
    assert fields is not None
    read, characters = "", iter(fields[1])
    for each in characters:
        assert each != "%"  # cron ends the command there
        following = next(characters, "") if each == "\\" else ""
        read += following if following and following in escapes else each + following
    return read


def called_by_cron(line: str, escapes: str = "%") -> str:
    """Run the command of a crontab's line as cron does; returns what cron would mail."""
    done = subprocess.run(
        ["/bin/sh", "-c", command_in_cron(line, escapes)],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


class Failed(Exception):
    """Airflow's exceptions, by name."""


@contextmanager
def fake_airflow() -> Iterator[None]:
    """The few names of Airflow that a DAG file imports; its exceptions are `Failed`."""
    errors = {
        name: type(name, (Failed,), {})
        for name in ("AirflowException", "AirflowFailException", "AirflowSkipException")
    }

    class Operator:
        def __init__(self, **options: Any) -> None:
            self.options = options

    class Dag:
        def __init__(self, name: str, **options: Any) -> None:
            self.options = options

        def __enter__(self) -> "Dag":
            return self

        def __exit__(self, *error: object) -> None:
            pass

    modules: dict[str, dict[str, Any]] = {
        "airflow": {},
        "airflow.exceptions": errors,
        "airflow.sdk": {"DAG": Dag, "BaseOperator": Operator},
        "airflow.timetables": {},
        "airflow.timetables.trigger": {"CronTriggerTimetable": lambda *args, **options: args},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, values in modules.items():
            module = ModuleType(name)
            vars(module).update(values)
            patch.setitem(sys.modules, name, module)
        yield


def words_in(log: Path) -> list[str]:
    """The folder and the words of the last call of an `echoing_program`."""
    words: list[str] = json.loads(log.read_text().splitlines()[-1])
    return words
