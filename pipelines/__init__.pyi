from .campaign.importing.importer import Imported, import_lists
from .export.spec import ExportSpec
from .image_files.importing.importer import ImportedImages, import_images
from .job.spec import RunSpec
from .reporting.pick_rates import PickRates
from .run_directory.reader import Run, open_run
from .run_directory.selections.files import Selection
from .training.spec import TrainSpec, read_train_spec

__all__ = [
    "ExportSpec",
    "Imported",
    "ImportedImages",
    "PickRates",
    "Run",
    "RunSpec",
    "Selection",
    "TrainSpec",
    "import_images",
    "import_lists",
    "open_run",
    "read_train_spec",
]
