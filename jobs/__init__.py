"""What runs on a cluster and what a person types: Ray actors, dispatch, the command line.

::

    from jobs import run
    from pipelines import RunSpec, open_run

    result = run(RunSpec.from_file("campaign.yaml"))
    images = open_run(result.url)

    from jobs import train
    from pipelines import read_train_spec

    result = train(read_train_spec("brand.yaml"))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightpress.jobs.runs.runner import RunResult, run
    from nightpress.jobs.training import TrainResult, train

__all__ = ["RunResult", "TrainResult", "run", "train"]

_HOMES = {
    "RunResult": "nightpress.jobs.runs.runner",
    "run": "nightpress.jobs.runs.runner",
    "TrainResult": "nightpress.jobs.training",
    "train": "nightpress.jobs.training",
}


def __getattr__(name: str) -> Any:
    """Import Ray and torch only when a run is asked for: the command line answers at once."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
