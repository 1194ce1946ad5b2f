"""What runs on a cluster and what a person types: Ray actors, dispatch, the command line.

::

    from jobs import run
    from pipelines import RunSpec, open_run

    result = run(RunSpec.from_file("campaign.yaml"))
    images = open_run(result.url)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.runner import RunResult, run

__all__ = ["RunResult", "run"]


def __getattr__(name: str) -> Any:
    """Import Ray and torch only when a run is asked for: the command line answers at once."""
    if name in __all__:
        from jobs import runner

        return getattr(runner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
