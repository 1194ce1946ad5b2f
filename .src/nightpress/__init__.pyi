from . import diffusion_core as diffusion_core
from . import jobs as jobs
from . import pipelines as pipelines
from .diffusion_core.errors import NightpressError
from .jobs import RunResult, TrainResult, run, train
from .pipelines import Run, RunSpec, TrainSpec, open_run, read_train_spec

__all__ = [
    "NightpressError",
    "Run",
    "RunResult",
    "RunSpec",
    "TrainResult",
    "TrainSpec",
    "open_run",
    "read_train_spec",
    "run",
    "train",
]
