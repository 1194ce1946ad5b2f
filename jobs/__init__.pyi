from .errors import ClusterError, IncompleteRun, JobError, NightpressError, RunStopped
from .runs.runner import RunResult, run
from .training import TrainResult, train

__all__ = [
    "ClusterError",
    "IncompleteRun",
    "JobError",
    "NightpressError",
    "RunResult",
    "RunStopped",
    "TrainResult",
    "run",
    "train",
]
