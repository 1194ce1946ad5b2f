"""The files of a schedule, from the templates in this folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version

import jinja2

from nightpress.jobs.schedules import quoting
from nightpress.jobs.schedules.schedule import (
    GRACE_S,
    JOB_FOLDER,
    SUBMIT_GRACE_S,
    Schedule,
)


class Kind(StrEnum):
    """What a schedule is written for."""

    CRONJOB = "cronjob"
    RAYCRONJOB = "raycronjob"
    SYSTEMD = "systemd"
    CRON = "cron"
    AIRFLOW = "airflow"

    @property
    def runs_in_pods(self) -> bool:
        """Whether it is for Kubernetes."""
        return self in (Kind.CRONJOB, Kind.RAYCRONJOB)


TEMPLATES: Mapping[Kind, Mapping[str, str]] = {
    Kind.CRONJOB: {"{name}.yaml": "cronjob.yaml.j2"},
    Kind.RAYCRONJOB: {"{name}.yaml": "raycronjob.yaml.j2"},
    Kind.SYSTEMD: {"{name}.service": "service.j2", "{name}.timer": "timer.j2"},
    Kind.CRON: {"{name}.crontab": "crontab.j2"},
    Kind.AIRFLOW: {"{name}.py": "airflow.py.j2"},
}
"""The files of each kind, and their templates."""


@dataclass(frozen=True)
class ScheduleFile:
    """A file for a scheduler."""

    name: str
    text: str


def schedule_files(kind: Kind, schedule: Schedule) -> list[ScheduleFile]:
    """The files of a schedule."""
    values = _values(kind, schedule)
    environment = _environment()
    return [
        ScheduleFile(name.format(name=schedule.name), environment.get_template(each).render(values))
        for name, each in TEMPLATES[kind].items()
    ]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nightpress.jobs.schedules"),
        autoescape=jinja2.select_autoescape(),  # HTML alone, and there is none
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        quoted=quoting.yaml_string,
        quoted_list=quoting.yaml_list,
        literal=quoting.yaml_literal,
        unit_text=quoting.unit_text,
        unit_command=quoting.unit_command,
        python_list=quoting.python_list,
        python_string=quoting.python_string,
        in_docstring=quoting.in_docstring,
    )
    return environment


def _values(kind: Kind, schedule: Schedule) -> dict[str, object]:
    job, times, pods, machine = schedule.job, schedule.times, schedule.pods, schedule.machine
    return {
        "name": schedule.name,
        "file": job.path.name,
        "job_text": job.text,
        "key": schedule.job_key,
        "folder": JOB_FOLDER,
        "uses_night": job.uses_night,
        "times": times.text,
        "at": [f"{each:%H:%M}" for each in times.at],
        "zone": times.zone,
        "cron": times.cron,
        "only_in_the_evening": times.only_in_the_evening,
        "window": times.window,
        "longest_s": times.longest_s,
        "to": schedule.to,
        "retries": schedule.retries,
        "command": schedule.command_of_pods if kind.runs_in_pods else schedule.command_of_machine,
        "shell_command": schedule.shell_command,
        "cron_command": cron_command(schedule),
        "drain_s": job.drain_s,
        "ray_drain_s": job.drain_s + GRACE_S // 2,
        "stop_s": job.drain_s + GRACE_S,
        "pod_stop_s": job.drain_s + 2 * GRACE_S,
        "submit_stop_s": job.drain_s + SUBMIT_GRACE_S,
        "ray_version": version("ray"),
        "namespace": pods.namespace,
        "image": pods.image,
        "service_account": pods.service_account,
        "secret": pods.secret,
        "token_secret": pods.token_secret,
        "workers": pods.workers,
        "gpus": pods.gpus,
        "directory": str(machine.directory),
        "user": machine.user,
    }


def cron_command(schedule: Schedule) -> str:
    """The command of a crontab's line: its output goes to a log, and its exit code to the mail."""
    directory = schedule.machine.directory
    log = quoting.shell([str(directory / f"{schedule.name}.log")])
    command = (
        f"cd {quoting.shell([str(directory)])} && "
        f"{quoting.shell(schedule.command_of_machine)} >> {log} 2>&1 "
        f"|| echo {quoting.shell([f'{schedule.name}: exit code'])} $?"
    )
    return quoting.crontab_command(command)
