"""What a schedule consists of: a job, times of day, and where its command runs."""

import math
import shlex
from dataclasses import dataclass
from datetime import time, timedelta
from pathlib import Path

from nightpress.jobs.runs.extend_options import ExtendOptions
from nightpress.pipelines.job.spec import RunSpec

GRACE_S = 60
"""What a run takes beyond cluster.drain_s when it stops: its report, and Ray's own end."""

SUBMIT_GRACE_S = 180
"""The same of `nightpress submit`, which waits longer than the run may take."""

JOB_FOLDER = "/etc/nightpress-job"
"""Where pods find the job file."""


@dataclass(frozen=True)
class Job:
    """The job file that runs every night."""

    path: Path
    """Absolute."""
    text: str
    spec: RunSpec
    """The job as it would be tonight, with the overrides."""
    overrides: tuple[str, ...]
    uses_night: bool
    """Whether `{night}` is in it."""

    @property
    def drain_s(self) -> int:
        """cluster.drain_s as whole seconds."""
        return math.ceil(self.spec.cluster.drain_s)


@dataclass(frozen=True)
class Times:
    """When the job starts and when it must be done, in the time of one zone."""

    at: tuple[time, ...]
    """The ticks of a night; the later ones continue what stopped early."""
    zone: str
    deadline: time | None

    @property
    def text(self) -> str:
        """`22:00, 00:00`."""
        return ", ".join(f"{each:%H:%M}" for each in self.at)

    @property
    def cron(self) -> str:
        """The five fields of a crontab."""
        hours = ",".join(str(each.hour) for each in self.at)
        return f"{self.at[0].minute} {hours} * * *"

    @property
    def only_in_the_evening(self) -> bool:
        """Whether every tick has the date of its night."""
        return all(each.hour >= 12 for each in self.at)

    @property
    def window(self) -> str | None:
        """`22:00-06:30`, as `--deadline` takes it."""
        return None if self.deadline is None else f"{self.at[0]:%H:%M}-{self.deadline:%H:%M}"

    @property
    def longest_s(self) -> int | None:
        """Seconds after which a night must be hung: two hours more than the window has."""
        if self.deadline is None:
            return None
        return seconds_between(self.at[0], self.deadline) + 2 * 3600


@dataclass(frozen=True)
class Machine:
    """Where the command runs on a machine."""

    directory: Path
    """Where relative paths of the job start."""
    executable: str
    user: str


@dataclass(frozen=True)
class Pods:
    """What pods need."""

    namespace: str
    image: str
    service_account: str
    secret: str
    """The Secret with the store's credentials as variables."""
    token_secret: str
    """The Secret with the Ray cluster's token as auth_token."""
    workers: int
    gpus: int
    """GPUs of a worker."""

    @property
    def names(self) -> dict[str, str]:
        """Option -> name, of all that Kubernetes knows by a name."""
        return {
            "namespace": self.namespace,
            "image": self.image,
            "service-account": self.service_account,
            "secret": self.secret,
            "token-secret": self.token_secret,
        }


@dataclass(frozen=True)
class Schedule:
    """A job that runs every night."""

    name: str
    """Of the files and of what they define."""
    job: Job
    times: Times
    to: str | None
    """The dashboard that the job is submitted to; None: the command itself makes the run."""
    ok_codes: tuple[int, ...]
    growing: ExtendOptions
    """How a run whose manifest has grown is extended."""
    retries: int
    machine: Machine
    pods: Pods

    def command(self, executable: str, job: str) -> list[str]:
        """The command of every tick, as words.

        Args:
            executable: path or name of `nightpress`.
            job: path of the job file where the command runs.
        """
        words = [
            executable,
            *(["run", job] if self.to is None else ["submit", job, "--to", self.to]),
        ]
        if self.times.window is not None:
            words += ["--deadline", self.times.window]
        if self.times.window is not None or self.job.uses_night:
            words += ["--tz", self.times.zone]
        for override in self.job.overrides:
            words += ["--set", override]
        if self.ok_codes:
            words += ["--ok-codes", ",".join(map(str, self.ok_codes))]
        return words + self.growing.words

    @property
    def command_of_machine(self) -> list[str]:
        """The command on a machine."""
        return self.command(self.machine.executable, str(self.job.path))

    @property
    def command_of_pods(self) -> list[str]:
        """The command in a pod."""
        return self.command("nightpress", f"{JOB_FOLDER}/{self.job_key}")

    @property
    def shell_command(self) -> str:
        """The command in a pod, for a shell."""
        return shlex.join([*self.command_of_pods, "--address", "auto"])

    @property
    def job_key(self) -> str:
        """The name of the job file in its ConfigMap; the run's default name comes from it."""
        return self.job.path.name


def seconds_between(start: time, end: time) -> int:
    """Seconds from one time of day to the next occurrence of another, on an ordinary day."""
    minutes = (end.hour - start.hour) * 60 + end.minute - start.minute
    return int(timedelta(minutes=minutes % (24 * 60)).total_seconds())
