"""`submit`: a job on a cluster through Ray's Jobs API, followed to its end."""

import asyncio
import itertools
import re
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nightpress.jobs.cluster.connection import installed_package
from nightpress.jobs.errors import ClusterError, ClusterUnavailable, RunStopped, StoppedOnRequest
from nightpress.jobs.signals import Interruption
from nightpress.jobs.submission.bundle import JOB_FILE, Bundle, write_bundle
from nightpress.jobs.submission.client import JobExists, JobsClient, JobUnknown, RemoteJob
from nightpress.pipelines.formatting import duration
from nightpress.pipelines.job.spec import RunSpec

T = TypeVar("T")

POLL_S = 1.0
"""Between two questions for a job's state."""

STOP_S = 0.1
"""Until a request to stop is passed on."""

LOST_S = 300.0
"""How long a cluster may be out of reach before following ends."""

GRACE_S = 60.0
"""What a stopped job gets beyond its drain, for the report and the last uploads."""

QUIET_S = 60.0
"""How long a log may be silent before it is asked for again."""

LOST_LOGS = 3
"""How often in a row a log cannot be read before that is said."""

LAST_LOG_S = 20.0
"""How long the end of the log may take once the job has ended."""

LONGEST_NAME = 100
"""Characters of a run's name in a job's id, which is part of the names of Ray's log files."""

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""The variable that says how long Ray waits between SIGTERM and SIGKILL; 3 s unless set."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Submission:
    """A job on a cluster."""

    job_id: str
    address: str
    attached: bool
    """Whether it was running already."""


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    status: str
    exit_code: int | None
    """Of its process; None if the cluster ended it."""
    message: str


def ignore(text: str) -> None:
    """Say nothing."""


def submit(
    client: JobsClient, spec: RunSpec, arguments: Sequence[str] = (), say: Say = ignore
) -> Submission:
    """Start a job on a cluster, or attach to it if it is running there.

    The job's id is `<run name>-<fingerprint>-<attempt>`. The fingerprint is that of the job and of
    its manifests; attempts are counted from 1 over the jobs that the cluster remembers. So two
    schedulers that submit the same night get the same job.

    Args:
        client: of the cluster.
        spec: the job.
        arguments: options of `nightpress run` to add.
        say: called with what happens, in words.

    Raises:
        SpecError: the job names files of this machine that cannot travel with it.
        ClusterError: the cluster refuses the job.
    """
    ships = spec.cluster.ship_package
    if spec.cluster.address:
        say(f"cluster.address {spec.cluster.address} is not used; the job runs at {client.address}")
    with tempfile.TemporaryDirectory(prefix="nightpress-submit-") as folder:
        bundle = write_bundle(spec, Path(folder), ships)
        name = re.sub(r"[^A-Za-z0-9._-]", "-", spec.name)[:LONGEST_NAME]
        stem = f"{name}-{bundle.fingerprint}"
        job_id, runs = _attempt(client.jobs(), stem)
        if not runs:
            try:
                client.submit(job_id, _entrypoint(arguments), _runtime_env(spec, bundle))
            except JobExists:
                runs = True
        if runs:
            _say_other_options(client.jobs().get(job_id), arguments, say)
        return Submission(job_id, client.address, attached=runs)


def _say_other_options(job: RemoteJob | None, arguments: Sequence[str], say: Say) -> None:
    """Say that a job which runs already keeps the options that it was started with."""
    plain = _entrypoint(())
    if job is None or job.entrypoint == _entrypoint(arguments):
        return
    if not job.entrypoint.startswith(plain):
        return  # an older version's, whose options are not known
    own = shlex.split(job.entrypoint.removeprefix(plain))
    say(
        f"the job runs with the options of its start, {shlex.join(own) or 'none'}; those given "
        f"now, {shlex.join(arguments) or 'none'}, are not applied"
    )


def _attempt(jobs: Mapping[str, RemoteJob], stem: str) -> tuple[str, bool]:
    """The id of the attempt that runs, or else of the next one; and whether it runs."""
    ids = (f"{stem}-{attempt}" for attempt in itertools.count(1))
    job_id = next(each for each in ids if each not in jobs or not jobs[each].has_ended)
    return job_id, job_id in jobs


def _entrypoint(arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "nightpress.jobs.submission.start", JOB_FILE, *arguments])


def stop_wait_s(spec: RunSpec) -> int:
    """Seconds that Ray waits after SIGTERM before it kills the job's process."""
    return int(spec.cluster.drain_s + GRACE_S)


def _runtime_env(spec: RunSpec, bundle: Bundle) -> dict[str, object]:
    env: dict[str, object] = {
        "working_dir": str(bundle.folder),
        "env_vars": {STOP_WAIT: str(stop_wait_s(spec))},
    }
    if spec.cluster.ship_package:
        env |= {"py_modules": [str(installed_package())], "excludes": ["__pycache__"]}
    return env


def follow(
    client: JobsClient,
    submission: Submission,
    wait_s: float,
    show: Say,
    stop: Interruption,
    say: Say = ignore,
) -> Ended:
    """Show a job's output until it ends; once `stop` is set, stop the job and wait for its end.

    Each piece of the output is shown once, also after the link to the cluster was lost.

    Args:
        client: of the cluster.
        submission: the job.
        wait_s: seconds that a stopped job may take to end.
        show: called with pieces of the output.
        stop: set to stop the job.
        say: called with what happens, in words.

    Raises:
        ClusterUnavailable: the cluster is out of reach for minutes.
        RunStopped: the cluster does not know the job any more.
        StoppedOnRequest: a stopped job has not ended in time, or nobody waits for its end.
    """
    # Threads of our own, for which nobody waits who is interrupted while the cluster is silent.
    with _abandoned(ThreadPoolExecutor(1)) as pool:
        follower = _Follower(client, submission.job_id, wait_s, show, say, pool)
        try:
            return asyncio.run(follower.to_the_end(stop))
        except KeyboardInterrupt as error:
            goes_on = "stopping" if follower.is_told else "making images, as it was not stopped yet"
            raise StoppedOnRequest(
                f"left job {submission.job_id}, which goes on {goes_on}; the same command attaches "
                "to it"
            ) from error


@contextmanager
def _abandoned(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Follower:
    """Follows one job: its log in one task, its state in another."""

    def __init__(
        self,
        client: JobsClient,
        job_id: str,
        wait_s: float,
        show: Say,
        say: Say,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._client = client
        self._job_id = job_id
        self._wait_s = wait_s
        self._show = show
        self._say = say
        self._pool = pool
        self._shown = 0
        """Characters of the log that were shown."""
        self.is_told = False
        """Whether the job was told to stop."""
        self._is_lost = False
        """Whether the cluster is out of reach."""

    async def to_the_end(self, stop: Interruption) -> Ended:
        log = asyncio.create_task(self._show_log())
        try:
            job = await self._ended(stop)
        finally:
            log.cancel()
            await asyncio.gather(log, return_exceptions=True)
        with suppress(TimeoutError):  # the job's node may be gone
            async with asyncio.timeout(LAST_LOG_S):
                await self._read_log()  # what came after the link broke or the task was cancelled
        return Ended(job.status, job.exit_code, job.message)

    async def _ended(self, stop: Interruption) -> RemoteJob:
        answered, stopped_at = time.monotonic(), None
        while True:
            _require_not_repeated(stop)
            try:
                if stop.is_set() and not self.is_told:  # a job that is set up is told later
                    self.is_told = await self._ask(self._client.stop)
                    stopped_at = time.monotonic() if self.is_told else None
                job = await self._ask(self._client.get)
                answered, self._is_lost = time.monotonic(), False
                if job.has_ended:
                    return job
            except JobUnknown as error:
                raise RunStopped(
                    f"the cluster at {self._client.address} no longer knows job {self._job_id}, so "
                    "its head was started anew; the same command submits the job again"
                ) from error
            except ClusterError as error:  # a head that restarts may answer in many ways
                self._require_patience(error, answered)
                if not self._is_lost:
                    self._say(f"{error}; waiting for it for at most {duration(LOST_S)}")
                self._is_lost = True
            self._require_end(stopped_at)
            await self._pause(stop)

    async def _pause(self, stop: Interruption) -> None:
        """Wait for the next question; not long once the job is to be stopped."""
        end = time.monotonic() + POLL_S
        while time.monotonic() < end:
            await asyncio.sleep(min(STOP_S, POLL_S))
            _require_not_repeated(stop)
            if stop.is_set() and not self.is_told:
                return

    def _require_patience(self, error: ClusterError, answered: float) -> None:
        """Give up on a cluster that has not answered for minutes."""
        if time.monotonic() - answered > LOST_S:
            raise ClusterUnavailable(
                f"{error}; job {self._job_id} may go on there: the same command attaches to it"
            ) from error

    def _require_end(self, stopped_at: float | None) -> None:
        """Give up on a job that does not end after it was asked to."""
        if stopped_at is not None and time.monotonic() - stopped_at > self._wait_s + GRACE_S:
            raise StoppedOnRequest(
                f"job {self._job_id} has not ended {duration(self._wait_s + GRACE_S)} after it "
                "was asked to stop; the same command attaches to it"
            )

    async def _ask(self, question: Callable[[str], T]) -> T:
        """Ask the cluster about the job, in another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, question, self._job_id)

    async def _show_log(self) -> None:
        num_failed = 0
        while True:
            error = await self._read_log()
            num_failed = 0 if error is None or self._is_lost else num_failed + 1
            if num_failed == LOST_LOGS:
                self._say(f"the output of the job cannot be read now ({error}); trying again")
            await asyncio.sleep(POLL_S)

    async def _read_log(self) -> ClusterUnavailable | None:
        """Show what of the log was not shown yet; the cluster sends it from its beginning.

        Ends when the log does, and when nothing has come for a while: of a link that was cut
        without a word, as some gateways do it, this is the only sign. Returns why there is no link.
        """
        seen = 0
        try:
            async with aclosing(self._client.log(self._job_id)) as pieces:
                while (text := await _within(QUIET_S, pieces)) is not None:
                    new = text[max(0, self._shown - seen) :]
                    seen += len(text)
                    if new:
                        self._shown = max(self._shown, seen)
                        self._show(new)
        except ClusterUnavailable as error:
            return error
        return None


def _require_not_repeated(stop: Interruption) -> None:
    """Leave at once if a second request to stop came where Python loses what is raised."""
    if stop.is_repeated:
        raise KeyboardInterrupt


async def _within(limit_s: float, pieces: AsyncIterator[str]) -> str | None:
    """The next of the pieces; None if there is none, or none in time."""
    try:
        async with asyncio.timeout(limit_s):
            return await anext(pieces, None)
    except TimeoutError:
        return None
