"""What a schedule would get wrong at night, said while somebody is there to read it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from pathlib import PurePosixPath
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from nightpress.jobs.schedules.files import Kind, cron_command
from nightpress.jobs.schedules.schedule import Job, Schedule, Times, seconds_between
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.characters import not_text
from nightpress.pipelines.job.credentials import has_credentials
from nightpress.pipelines.job.local_time import moments_of
from nightpress.pipelines.job.scores_section import OwnSpec, ScorerSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.location import is_path
from nightpress.pipelines.storage import is_local

MAX_JOB_BYTES = 900_000
"""A ConfigMap may have 1 MiB."""

MAX_CRON_COMMAND = 950
"""The cron of Debian and its relatives read 999 bytes of a line."""

DAYS_AHEAD = 400

NOON = time(12)
"""When a night ends; see `pipelines.job.night`."""

LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
MAX_SUBDOMAIN = 253

NAMES = {
    "namespace": (
        LABEL,
        "1 to 63 small letters, digits and hyphens, of which the first and last is no hyphen",
    ),
    "image": (r"\S+", f"1 to {MAX_SUBDOMAIN} characters without white space"),
}
"""What Kubernetes allows for an option, as a pattern and in words; others are subdomains."""

OF_SUBDOMAINS = (
    f"1 to {MAX_SUBDOMAIN} small letters, digits, hyphens and dots, with at most 63 between two "
    "dots, of which the first and last is no hyphen"
)


CERTIFICATE = "provenance.sign.certificate"


@dataclass(frozen=True)
class LocalPath:
    """A key of the job whose value is a path, not a URL."""

    key: str
    path: str
    travels: bool = False
    """Whether `submit` sends its file along."""

    @property
    def is_absolute(self) -> bool:
        """Whether it means the same wherever the command starts."""
        return PurePosixPath(self.path).is_absolute()


@dataclass(frozen=True)
class ClockChange:
    """What it means that the clock shows a time twice, or skips it."""

    of_twice: str
    of_skipped: str


OF_A_START = ClockChange(
    "a second start then finds the run in other hands or complete",
    "whether a scheduler starts then depends on its kind, so take another time",
)
OF_A_DEADLINE = ClockChange(
    "the first of the two is the deadline", "the deadline is the moment of the change"
)


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
    twice = next((each for each in times.at if times.at.count(each) > 1), None)
    if twice is not None:
        raise SpecError(f"--at {twice:%H:%M} is given twice")
    _require_times_in_window(times)
    _require_one_night(schedule)
    _require_text(schedule)
    _require_names(kind, schedule)
    for each in local_paths(schedule.job.spec):
        travels = each.travels and schedule.to is not None and not kind.runs_in_pods
        elsewhere = kind.runs_in_pods or schedule.to is not None
        if elsewhere and not each.is_absolute and not travels:
            raise SpecError(
                f"{schedule.job.path.name}: {each.key}: {each.path!r} is relative to a folder of "
                "this machine, and the run is made elsewhere; give a URL such as "
                "s3://bucket/folder, or an absolute path that is mounted there"
            )
    if kind.runs_in_pods:
        _require_config_map(schedule.job)
    if kind is Kind.SYSTEMD:
        _require_unit(schedule)
    if kind is Kind.CRON and (length := len(cron_command(schedule).encode())) > MAX_CRON_COMMAND:
        raise SpecError(
            f"the command has {length:,} bytes, and a line of a crontab may have about "
            f"{MAX_CRON_COMMAND}; move what --set changes into the job file"
        )


def _require_config_map(job: Job) -> None:
    if (num_bytes := len(job.text.encode())) > MAX_JOB_BYTES:
        raise SpecError(
            f"{job.path.name}: it has {num_bytes:,} bytes; at most {MAX_JOB_BYTES:,} fit into a "
            "ConfigMap"
        )
    if not re.fullmatch(r"[-._A-Za-z0-9]+", job.path.name):
        raise SpecError(
            f"{job.path.name!r}: a ConfigMap allows letters, digits, -, _ and . in the name of a "
            "file; rename the job file"
        )


def _require_unit(schedule: Schedule) -> None:
    program = schedule.machine.executable
    if any(c in program for c in "\"'\\"):
        raise SpecError(
            f"--command {program}: systemd allows no quotes and no backslash in the path of a "
            "program"
        )
    if "/" in program and not program.startswith("/"):
        raise SpecError(
            f"--command {program}: systemd looks for a program by its absolute path, or by its "
            "name alone"
        )
    for text in (str(schedule.machine.directory), schedule.job.path.name):
        if text.endswith(("\\", " ")):
            raise SpecError(f"{text!r}: a line of a unit cannot end in a space or a backslash")


def _require_one_night(schedule: Schedule) -> None:
    """Refuse ticks of one night before and after noon, where the date of `{night}` changes."""
    times = schedule.times
    until_noon_s = seconds_between(times.at[0], NOON) or 24 * 3600
    for each in times.at if schedule.job.uses_night else ():
        if seconds_between(times.at[0], each) >= until_noon_s:
            raise SpecError(
                f"--at {times.text}: a night ends at noon, so {{night}} would be another date at "
                f"{each:%H:%M} than at {times.at[0]:%H:%M}; the time that begins a night comes "
                "first"
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


def _require_names(kind: Kind, schedule: Schedule) -> None:
    """Refuse what cannot be a name in Kubernetes, the address of a dashboard, or a unit's user.

    Raises:
        SpecError: names the option.
    """
    for option, name in schedule.pods.names.items():
        pattern, allowed = NAMES.get(option, (SUBDOMAIN, OF_SUBDOMAINS))
        if not re.fullmatch(pattern, name) or len(name) > MAX_SUBDOMAIN:
            raise SpecError(f"--{option} {name!r}: Kubernetes allows {allowed}")
    user = schedule.machine.user
    if kind is Kind.SYSTEMD and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?", user):
        raise SpecError(
            f"--user {user!r}: the name of a user has letters from a to z or A to Z, digits, _, . "
            "and -, begins with none of . and -, and may end in $"
        )
    if schedule.to is None:
        return
    if has_credentials(schedule.to):
        raise SpecError("--to: the URL contains credentials; the token comes from RAY_AUTH_TOKEN")
    if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", schedule.to) or not _has_port(schedule.to):
        raise SpecError(f"--to {schedule.to}: not the URL of a dashboard, such as http://head:8265")


def _has_port(url: str) -> bool:
    """Whether the port of a URL is one, or left out."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def local_paths(spec: RunSpec) -> Iterator[LocalPath]:
    """Everything in a job that is named by a path."""
    certificate = spec.provenance.certificate_url
    named = [
        *(LocalPath("manifest", url, travels=True) for url in spec.manifests),
        LocalPath("output", spec.output),
        *([LocalPath("inputs.root", spec.inputs.root)] if spec.inputs.root else []),
        *(LocalPath("model", each) for each in spec.model_sources if is_path(each)),
        *([LocalPath(CERTIFICATE, certificate, travels=True)] if certificate else []),
        *(path for name, each in spec.scores.items() for path in _of_scorer(name, each)),
    ]
    for each in named:
        if is_local(each.path):
            yield replace(each, path=each.path.removeprefix("file://"))


def _of_scorer(name: str, scorer: ScorerSpec) -> Iterator[LocalPath]:
    """The Python file of a scorer, or the folder of its model."""
    if isinstance(scorer, OwnSpec):
        yield LocalPath(f"scores.{name}.scorer", scorer.file, travels=True)
    else:
        yield from (
            LocalPath(f"scores.{name}.model", each) for each in scorer.sources if is_path(each)
        )


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
    times = schedule.times
    if kind is not Kind.AIRFLOW and schedule.job.uses_night and times.deadline is not None:
        length_s = seconds_between(times.at[0], times.deadline)
        if length_s > (seconds_between(times.at[0], NOON) or 24 * 3600):
            yield (
                f"a night ends at noon, and the deadline is {times.deadline:%H:%M}: a start "
                "between the two, such as one that is tried again, makes the run of the next "
                "{night}"
            )
    if kind is Kind.SYSTEMD and schedule.machine.user == "root":
        yield "User=root: give the unit a user of its own with --user"
    if kind is Kind.CRON:
        yield "the cron of Debian and Ubuntu ignores CRON_TZ: there the times are the machine's"
    for clock in times.at:
        yield from clock_changes(clock, times.zone, today)
    if times.deadline is not None:
        yield from clock_changes(times.deadline, times.zone, today, OF_A_DEADLINE)


def clock_changes(
    clock: time, zone: str, today: date, meaning: ClockChange = OF_A_START
) -> Iterator[str]:
    """Says if a time is one that a night skips or has twice, within the next year."""
    for days in range(DAYS_AHEAD):
        day = today + timedelta(days=days)
        moments = moments_of(day, clock, ZoneInfo(zone))
        if len(moments) == 2:
            yield (
                f"{clock:%H:%M} comes twice on {day} in {zone}, where the clock is put back; "
                f"{meaning.of_twice}"
            )
            return
        if moments[0].time() != clock:
            yield (
                f"{clock:%H:%M} does not exist on {day} in {zone}, where the clock is put forward; "
                f"{meaning.of_skipped}"
            )
            return
