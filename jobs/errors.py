"""The errors of `jobs`, and the exit code of each expected error.

::

    NightpressError
    └── JobError
        ├── ClusterError            the Ray cluster does not exist, or cannot do what the job asks
        │   └── ClusterUnavailable  it does not start or answer in time; a later try may work
        ├── RunStopped              stopped early; the same command resumes it
        │   └── StoppedOnRequest    stopped by a signal or a deadline, so nothing went wrong
        ├── RunBlocked              stopped in mid-run; the same command would end in the same way
        ├── UntrustedRun            a run's own record asks for what only its user may allow
        ├── UnfinishedRun           some shards are not committed yet, and all are needed
        └── IncompleteRun           the images made and those planned do not add up; a bug
"""

from nightpress.diffusion_core.errors import HubUnavailable, NightpressError
from nightpress.pipelines.errors import (
    Damaged,
    LeaseLost,
    RunHeld,
    StoreDenied,
    StoreError,
    StoreMissing,
    TrainingDiverged,
)

__all__ = [
    "ClusterError",
    "ClusterUnavailable",
    "IncompleteRun",
    "JobError",
    "NightpressError",
    "RunBlocked",
    "RunStopped",
    "StoppedOnRequest",
    "UnfinishedRun",
    "UntrustedRun",
    "exit_code",
]

OK, UNEXPECTED, BAD_INPUT, SOME_FAILED, STOPPED, HELD = range(6)
"""The exit codes of the command line."""


class JobError(NightpressError):
    """The base of the errors that `jobs` raises on purpose."""


class ClusterError(JobError):
    """The Ray cluster cannot be joined, or cannot run this job."""


class ClusterUnavailable(ClusterError):
    """Ray does not start, or the cluster does not answer, in time; a later try may work."""


class RunStopped(JobError):
    """The run stopped before its end; what is committed stays, and it can be resumed."""


class StoppedOnRequest(RunStopped):
    """The work stopped early because someone asked: with a signal, or with a deadline."""


class RunBlocked(JobError):
    """The run stopped after something was written, and the same command would stop again.

    Something must be mended or changed first; what is committed stays.
    """


class UntrustedRun(JobError):
    """A run's own record names a cluster to join, or asks to load pickles; both can run code.

    A run may have been downloaded, so only its user may allow that: with an argument, or with the
    job.
    """


class UnfinishedRun(JobError):
    """Some shards of the run have no commit yet; finish it first."""


class IncompleteRun(JobError):
    """Every shard was finished, but some have no commit or the counts differ from the plan."""


KEPT = "what is committed is kept"

UNSCORED = (
    "shard {}: {} that were stored have only their measurements: no actor survives the shard, and "
    "scorers run in actors alone; nightpress score adds the other scores"
)
"""Said where the driver commits a shard; with the shard and its images."""


def in_mid_run(error: NightpressError) -> NightpressError:
    """What an error means once something has been written.

    The same command goes on after trouble with the cluster, the store or the hub, which its next
    start checks before anything else. After any other error it would end in the same way.
    """
    match error:
        case Damaged():
            return RunBlocked(f"{error} ({KEPT})")
        case ClusterUnavailable() | StoreError() | HubUnavailable():
            return RunStopped(str(error))
        case ClusterError():
            return RunBlocked(f"{error} ({KEPT})")
        case JobError() | RunHeld() | LeaseLost():
            return error
        case _:
            return RunBlocked(f"{error} ({KEPT})")


def exit_code(error: BaseException) -> int:
    """The exit code of an error; 1 if it is none of nightpress's own."""
    match error:
        case RunStopped() | ClusterUnavailable() | HubUnavailable() | KeyboardInterrupt():
            return STOPPED
        case RunHeld() | LeaseLost():
            return HELD
        case StoreDenied() | StoreMissing() | ClusterError() | UnfinishedRun() | UntrustedRun():
            return BAD_INPUT
        case Damaged() | TrainingDiverged():  # no later start finds it otherwise
            return UNEXPECTED
        case StoreError():  # a store that has failed for minutes may recover later
            return STOPPED
        case JobError():
            return UNEXPECTED
        case NightpressError():
            return BAD_INPUT
        case _:
            return UNEXPECTED
