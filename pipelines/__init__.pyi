from .campaign.importing.importer import Imported, import_lists
from .export.spec import ExportSpec
from .job.spec import RunSpec
from .reporting.pick_rates import PickRates
from .run_directory.reader import Run, open_run
from .run_directory.selections.files import Selection
from .training.spec import TrainSpec, read_train_spec

__all__ = [
    "ExportSpec",
    "Imported",
    "PickRates",
    "Run",
    "RunSpec",
    "Selection",
    "TrainSpec",
    "import_lists",
    "open_run",
    "read_train_spec",
]
