"""`nightpress schedule`."""

import getpass
import os
import re
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import click

from nightpress.jobs.commands.common import extend_options, job_argument, json_option, set_option
from nightpress.jobs.commands.exit_codes import ExitCodes
from nightpress.jobs.commands.json_output import print_result
from nightpress.jobs.commands.times import ZONE, ClockTime, zone_of, zone_option
from nightpress.jobs.runs.extend_options import ExtendOptions
from nightpress.jobs.schedules.checks import notes, require_possible
from nightpress.jobs.schedules.files import Kind, ScheduleFile, schedule_files
from nightpress.jobs.schedules.schedule import Job, Machine, Pods, Schedule, Times
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.local_time import zone_name
from nightpress.pipelines.job.night import uses_night
from nightpress.pipelines.job.reader import apply_overrides, read_yaml
from nightpress.pipelines.job.spec import RunSpec

HEAD = "http://nightpress-head-svc:8265"
"""The dashboard of the cluster in infra/kubernetes."""

IN_PODS = (Kind.CRONJOB, Kind.RAYCRONJOB)
ON_MACHINES = (Kind.SYSTEMD, Kind.CRON, Kind.AIRFLOW)

ONLY_FOR: dict[str, tuple[Kind, ...]] = {
    "to": (Kind.CRONJOB, *ON_MACHINES),
    "retries": (Kind.CRONJOB, Kind.AIRFLOW),
    "namespace": IN_PODS,
    "image": IN_PODS,
    "service_account": IN_PODS,
    "secret": IN_PODS,
    "token_secret": (Kind.CRONJOB,),
    "workers": (Kind.RAYCRONJOB,),
    "gpus": (Kind.RAYCRONJOB,),
    "directory": ON_MACHINES,
    "executable": ON_MACHINES,
    "user": (Kind.SYSTEMD,),
}
"""Options that say nothing to some kinds, which refuse them."""

Function = TypeVar("Function", bound=Callable[..., Any])

MAX_NAME = 36
"""Characters; KubeRay and CronJobs put more behind a name."""


def option(*names: str, **settings: Any) -> Callable[[Function], Function]:
    """An option that shows its default."""
    decorator: Callable[[Function], Function] = click.option(*names, show_default=True, **settings)
    return decorator


@click.command("schedule")
@job_argument
@click.option(
    "--as",
    "kind",
    required=True,
    type=click.Choice([str(kind) for kind in Kind]),
    help="The scheduler.",
)
@click.option(
    "--at",
    required=True,
    multiple=True,
    type=ClockTime(),
    metavar="HH:MM",
    help="When the job starts. May be repeated: later starts of a night continue what stopped "
    "early.",
)
@zone_option
@click.option(
    "--deadline",
    type=ClockTime(),
    metavar="HH:MM",
    help="When the run must have stopped. No start outside the time from --at to this one does any "
    "work, such as one that makes up for a night.",
)
@click.option(
    "--to",
    metavar="URL",
    help="Ray dashboard to submit the job to, such as http://head:8265. [default: for cronjob "
    f"{HEAD}; the others run it themselves]",
)
@set_option
@click.option("--ok-codes", type=ExitCodes(), metavar="CODES", help="As for `nightpress run`.")
@extend_options(
    "Schedule `nightpress run --extend`, which adds the images that the manifest has gained since "
    "the run was planned. Nothing is added now."
)
@option("--retries", type=click.IntRange(0, 100), default=3, help="Tries after one that stopped.")
@click.option("--name", help="Name of what is scheduled. [default: nightpress-<job file>]")
@option("--namespace", default="nightpress", help="Kubernetes namespace.")
@option(
    "--image",
    default="registry.example.com/nightpress:cpu",
    help="Image with nightpress, as infra/docker builds it.",
)
@option("--service-account", default="nightpress", help="Service account of the pods.")
@option(
    "--secret",
    default="nightpress-store",
    help="Secret with the store's credentials, if it exists.",
)
@option("--token-secret", default="nightpress", help="Secret with the Ray token as auth_token.")
@option("--workers", type=click.IntRange(1, 1000), default=1, help="Nodes of a night's cluster.")
@option("--gpus", type=click.IntRange(0, 64), default=0, help="GPUs of each of them.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where relative paths of the job start. [default: the current folder]",
)
@click.option(
    "--command", "executable", metavar="PATH", help="The nightpress to call. [default: this one]"
)
@click.option("--user", help="User of the unit. [default: you]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder to write the files to, instead of printing them.",
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    job: str,
    kind: str,
    out: Path | None,
    force: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Write the files with which a scheduler runs JOB every night.

    They are printed, or written to the folder of --out; nothing is installed and nothing is
    started. What you did not choose is an option here, or marked `edit` in the files; what had to
    be assumed is said on stderr. JOB is checked as a job file; its manifest and its model are not
    looked at.
    """
    of_kind = Kind(kind)
    _refuse_other_options(ctx, of_kind)
    schedule = _schedule(ctx, of_kind, Path(job))
    require_possible(of_kind, schedule)
    files = schedule_files(of_kind, schedule)
    said = [*_defaults_said(ctx, of_kind, schedule), *notes(of_kind, schedule, date.today())]
    for line in said:
        click.echo(f"note: {line}", err=True)
    written = [] if out is None else _write(out, files, force)
    if as_json:
        print_result({"files": {file.name: file.text for file in files}, "notes": said})
    elif written:
        click.echo(f"wrote {' and '.join(map(str, written))}")
    else:
        for file in files:
            click.echo(f"# {file.name}\n{file.text}" if len(files) > 1 else file.text, nl=False)


def _refuse_other_options(ctx: click.Context, kind: Kind) -> None:
    """Refuse options that this kind would ignore."""
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if kind not in ONLY_FOR.get(name, tuple(Kind)) and _is_given(ctx, name):
            kinds = ", ".join(ONLY_FOR[name])
            raise click.UsageError(f"{parameter.opts[0]} is for {kinds}, not for {kind}")
    if ctx.params["force"] and ctx.params["out"] is None:
        raise click.UsageError("--force requires --out")


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _schedule(ctx: click.Context, kind: Kind, path: Path) -> Schedule:
    """The schedule that a command line describes.

    Raises:
        SpecError: the job is not valid, or the time zone has no name.
    """
    given = ctx.params
    zone = zone_name(zone_of(ctx))
    if zone is None:
        raise SpecError("--tz: this machine's time zone has no name; give one like Europe/Berlin")
    return Schedule(
        name=_name(given["name"], path),
        job=_job(path, given["overrides"], ZoneInfo(zone)),
        times=Times(given["at"], zone, given["deadline"]),
        to=given["to"] or (HEAD if kind is Kind.CRONJOB else None),
        ok_codes=given["ok_codes"] or (),
        growing=ExtendOptions.of(given["extend"], given["changed"]),
        retries=given["retries"],
        machine=Machine(
            directory=(given["directory"] or Path()).absolute(),
            executable=given["executable"] or _this_executable(),
            user=given["user"] or _this_user(),
        ),
        pods=Pods(
            **{
                name: given[name]
                for name in ("namespace", "image", "service_account", "secret", "token_secret")
            },
            workers=given["workers"],
            gpus=given["gpus"],
        ),
    )


def _job(path: Path, overrides: tuple[str, ...], zone: ZoneInfo) -> Job:
    spec = RunSpec.from_file(path, overrides, zone=zone)
    values = read_yaml(path)
    values.setdefault("name", path.name)
    apply_overrides(values, overrides)
    text = path.read_text(encoding="utf-8")
    return Job(path.absolute(), text, spec, overrides, uses_night(values))


def _this_executable() -> str:
    beside = Path(sys.executable).with_name("nightpress")
    return str(beside) if beside.exists() else "nightpress"


def _this_user() -> str:
    """The user's name, or number in a container that does not know it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _name(given: str | None, job: Path) -> str:
    """The name that is given, or one made from the job file's."""
    if given is None:
        return _whole_name(job)[:MAX_NAME].strip("-")
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", given) or len(given) > MAX_NAME:
        raise click.UsageError(
            f"--name {given}: at most {MAX_NAME} small letters, digits and -, a letter first"
        )
    return given


def _whole_name(job: Path) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", job.name.removesuffix(job.suffix).lower())
    return f"nightpress-{slug.strip('-') or 'job'}"


def _defaults_said(ctx: click.Context, kind: Kind, schedule: Schedule) -> list[str]:
    """What had to be assumed."""
    said = [] if ctx.meta.get(ZONE) else [f"--tz {schedule.times.zone} is assumed"]
    if not _is_given(ctx, "name") and schedule.name != _whole_name(schedule.job.path):
        said.append(f"--name {schedule.name} is assumed; another job's may be cut to the same")
    taken = {"to": schedule.to or "", "image": schedule.pods.image}
    return said + [
        f"--{name} {value} is assumed"
        for name, value in taken.items()
        if kind.runs_in_pods and value and not _is_given(ctx, name)
    ]


def _write(folder: Path, files: list[ScheduleFile], force: bool) -> list[Path]:
    """Write all of the files, or none if one of them exists; returns their paths."""
    paths = [folder / file.name for file in files]
    existing = [str(path) for path in paths if path.exists()]
    if existing and not force:
        raise click.UsageError(f"already there: {' and '.join(existing)}; use --force to overwrite")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, file in zip(paths, files, strict=True):
            path.write_text(file.text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from error
    return paths
