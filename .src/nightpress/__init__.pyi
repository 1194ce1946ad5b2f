from . import diffusion_core as diffusion_core
from . import jobs as jobs
from . import pipelines as pipelines
from .diffusion_core.errors import NightpressError
from .jobs import (
    Plan,
    RepairResult,
    ReproduceResult,
    RunResult,
    RunStatus,
    TrainingStatus,
    TrainResult,
    TuneOptions,
    Tuning,
    VerifyResult,
    plan,
    preview,
    reproduce,
    retry,
    run,
    status,
    train,
    tune,
    verify,
)
from .pipelines import Run, RunSpec, TrainSpec, open_run, read_train_spec

__all__ = [
    "NightpressError",
    "Plan",
    "RepairResult",
    "ReproduceResult",
    "Run",
    "RunResult",
    "RunSpec",
    "RunStatus",
    "TrainResult",
    "TrainSpec",
    "TrainingStatus",
    "TuneOptions",
    "Tuning",
    "VerifyResult",
    "open_run",
    "plan",
    "preview",
    "read_train_spec",
    "reproduce",
    "retry",
    "run",
    "status",
    "train",
    "tune",
    "verify",
]
