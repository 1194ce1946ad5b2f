"""The data flow: manifest, plan, shard, batch, encode, store, commit, report.

Runs whole in one process, with no cluster. Knows nothing of Ray or the command line.

::

    from pipelines import RunSpec, open_run

    run = open_run("s3://press/runs/campaign")
    run.metadata.to_table(columns=["image_id", "prompt", "seed"])
    run.image("00000041_00")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightpress.pipelines.job.spec import RunSpec
    from nightpress.pipelines.run_directory.reader import Run, open_run
    from nightpress.pipelines.training.spec import TrainSpec, read_train_spec

__all__ = ["Run", "RunSpec", "TrainSpec", "open_run", "read_train_spec"]

_HOMES = {
    "Run": "nightpress.pipelines.run_directory.reader",
    "open_run": "nightpress.pipelines.run_directory.reader",
    "RunSpec": "nightpress.pipelines.job.spec",
    "TrainSpec": "nightpress.pipelines.training.spec",
    "read_train_spec": "nightpress.pipelines.training.spec",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: `import pipelines` stays cheap."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
