"""The data flow: manifest, plan, shard, batch, encode, store, commit, report.

All of it runs in one process; it needs no cluster.

::

    from nightpress.pipelines import open_run

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

_MODULES = {
    "Run": "nightpress.pipelines.run_directory.reader",
    "open_run": "nightpress.pipelines.run_directory.reader",
    "RunSpec": "nightpress.pipelines.job.spec",
    "TrainSpec": "nightpress.pipelines.training.spec",
    "read_train_spec": "nightpress.pipelines.training.spec",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that importing the package stays cheap."""
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
