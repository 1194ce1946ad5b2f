from .job.spec import RunSpec
from .run_directory.reader import Run, open_run
from .training.spec import TrainSpec, read_train_spec

__all__ = ["Run", "RunSpec", "TrainSpec", "open_run", "read_train_spec"]
