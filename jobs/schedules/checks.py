"""What a schedule would get wrong at night, said while somebody is there to read it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time, timedelta
from pathlib import Path, PurePosixPath
from zoneinfo import ZoneInfo

from nightpress.jobs.schedules.files import Kind, cron_command
from nightpress.jobs.schedules.schedule import Job, Schedule, Times, seconds_between
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.characters import not_text
from nightpress.pipelines.job.credentials import has_credentials
from nightpress.pipelines.job.local_time import moments_of
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.storage import is_local

MAX_JOB_BYTES = 900_000
"""A ConfigMap may have 1 MiB."""

MAX_CRON_COMMAND = 950
"""The cron of Debian and its relatives read 999 characters of a line."""

DAYS_AHEAD = 400


@dataclass(frozen=True)
class LocalPath:
    """A key of the job whose value is a path, not a URL."""

    key: str
    path: str

    @property
    def is_absolute(self) -> bool:
        """Whether it means the same wherever the command starts."""
        return PurePosixPath(self.path).is_absolute()


def require_possible(kind: Kind, schedule: Schedule) -> None:
    """Refuse what cannot work.

    Raises:
        SpecError: says what, and what to change.
    """
    times = schedule.times
    if len({each.minute for each in times.at}) > 1:
        raise SpecError(
            f"--at: {times.text} have different minutes; one line of cron holds them all, so they "
            "must have the same"
        )
    if len(set(times.at)) < len(times.at):
        raise SpecError(f"--at: {times.text} has a time twice")
    _require_times_in_window(times)
    _require_text(schedule)
    _require_names(schedule)
    for each in local_paths(schedule.job.spec):
        travels = each.key == "manifest" and schedule.to is not None and not kind.runs_in_pods
        elsewhere = kind.runs_in_pods or schedule.to is not None
        if elsewhere and not each.is_absolute and not travels:
            raise SpecError(
                f"{schedule.job.path.name}: {each.key}: {each.path!r} is relative to a folder of "
                "this machine, and the run is made elsewhere; give a URL such as "
                "s3://bucket/folder, or an absolute path that is mounted there"
            )
    if kind.runs_in_pods:
        _require_config_map(schedule.job)
    if kind is Kind.SYSTEMD and any(c in schedule.machine.executable for c in "\"'\\"):
        raise SpecError(
            f"--command {schedule.machine.executable}: systemd allows no quotes and no backslash "
            "in the path of a program"
        )
    if kind is Kind.CRON and len(cron_command(schedule)) > MAX_CRON_COMMAND:
        raise SpecError(
            f"the command has {len(cron_command(schedule)):,} characters, and a line of a crontab "
            f"may have about {MAX_CRON_COMMAND}; move what --set changes into the job file"
        )


def _require_config_map(job: Job) -> None:
    if len(job.text.encode()) > MAX_JOB_BYTES:
        raise SpecError(f"{job.path.name}: too large for a ConfigMap")
    if not re.fullmatch(r"[-._A-Za-z0-9]+", job.path.name):
        raise SpecError(
            f"{job.path.name!r}: a ConfigMap allows letters, digits, -, _ and . in the name of a "
            "file; rename the job file"
        )


def _require_times_in_window(times: Times) -> None:
    if times.deadline is None:
        return
    opens = times.at[0]
    length_s = seconds_between(opens, times.deadline)
    for each in times.at:
        if seconds_between(opens, each) >= length_s:
            raise SpecError(
                f"--at {each:%H:%M}: not between {opens:%H:%M}, when a night begins, and its "
                f"deadline {times.deadline:%H:%M}"
            )


def _require_text(schedule: Schedule) -> None:
    """Refuse line breaks and control characters, which a line of these files cannot hold."""
    machine = schedule.machine
    others = [str(machine.directory), machine.user, schedule.job.path.name]
    for word in [*schedule.command_of_machine, *others, *schedule.pods.names.values()]:
        wrong = not_text(word) or next((repr(c) for c in "\t\r\n" if c in word), None)
        if wrong is not None:
            raise SpecError(f"{word!r}: it has {wrong}, which a schedule cannot hold")


def _require_names(schedule: Schedule) -> None:
    """Refuse what cannot be a name in Kubernetes, the address of a dashboard, or a user.

    Raises:
        SpecError: names the option.
    """
    for option, name in schedule.pods.names.items():
        allowed = r"\S+" if option == "image" else r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
        if not re.fullmatch(allowed, name):
            raise SpecError(f"--{option} {name!r}: Kubernetes has no such names")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?", schedule.machine.user):
        raise SpecError(f"--user {schedule.machine.user!r}: not the name of a user")
    if schedule.to is None:
        return
    if has_credentials(schedule.to):
        raise SpecError("--to: the URL contains credentials; the token comes from RAY_AUTH_TOKEN")
    if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", schedule.to):
        raise SpecError(f"--to {schedule.to}: not the URL of a dashboard, such as http://head:8265")


def local_paths(spec: RunSpec) -> Iterator[LocalPath]:
    """Everything in a job that is named by a path."""
    model = spec.model
    sources = (model.source, *model.added_sources)
    named = [
        *(("manifest", url) for url in spec.manifests),
        ("output", spec.output),
        *([("inputs.root", spec.inputs.root)] if spec.inputs.root else []),
        *(("model", each) for each in sources if Path(each).exists()),
    ]
    for key, url in named:
        if is_local(url) and url.split("/")[0] != "builtin":
            yield LocalPath(key, url.removeprefix("file://"))


def notes(kind: Kind, schedule: Schedule, today: date) -> Iterator[str]:
    """What somebody should know who installs the files, in one line each."""
    if not schedule.job.uses_night:
        yield (
            f"{schedule.job.path.name} has no {{night}}: all nights continue one run, and nothing "
            "is left to do once it is complete"
        )
    if kind.runs_in_pods or schedule.to is not None:
        for each in local_paths(schedule.job.spec):
            if each.is_absolute:
                yield f"{each.key}: {each.path} must be mounted at this path on every node"
    if kind is Kind.SYSTEMD and schedule.machine.user == "root":
        yield "User=root: give the unit a user of its own with --user"
    if kind is Kind.CRON:
        yield "the cron of Debian and Ubuntu ignores CRON_TZ: there the times are the machine's"
    deadline = () if schedule.times.deadline is None else (schedule.times.deadline,)
    for clock in (*schedule.times.at, *deadline):
        yield from clock_changes(clock, schedule.times.zone, today)


def clock_changes(clock: time, zone: str, today: date) -> Iterator[str]:
    """Says if a time is one that a night skips or has twice, within the next year."""
    for days in range(DAYS_AHEAD):
        day = today + timedelta(days=days)
        moments = moments_of(day, clock, ZoneInfo(zone))
        if len(moments) == 2:
            yield (
                f"{clock:%H:%M} comes twice on {day} in {zone}, where the clock is put back; a "
                "second start then finds the run in other hands or complete"
            )
            return
        if moments[0].time() != clock:
            yield (
                f"{clock:%H:%M} does not exist on {day} in {zone}, where the clock is put forward; "
                "whether a scheduler starts then depends on its kind, so take another time"
            )
            return
