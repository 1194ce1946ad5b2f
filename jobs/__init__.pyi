from .errors import (
    ClusterError,
    ClusterUnavailable,
    IncompleteRun,
    JobError,
    NightpressError,
    RunBlocked,
    RunStopped,
    StoppedOnRequest,
    UnfinishedRun,
    UntrustedRun,
)
from .reviews.imports import MarksImported, import_marks
from .reviews.options import ReviewOptions, ServerOptions
from .reviews.review import ReviewResult, review
from .reviews.static import StaticPage, write_static_page
from .runs.again import AgainResult, again
from .runs.convert import ConvertedModel, convert
from .runs.deliver import Delivery, deliver
from .runs.doctor import Diagnosis, doctor
from .runs.expand import Expansion, expand
from .runs.export import ExportResult, export
from .runs.export_picks import PickCopies, PicksExported, export_picks
from .runs.fid import FidResult, fid
from .runs.inspect_file import Inspection, inspect
from .runs.list_models import ModelSummary, list_models
from .runs.list_runs import RunSummary, list_runs
from .runs.marked_images import MarkChoice
from .runs.pick_rates import write_rates
from .runs.plan import Plan, plan
from .runs.preview import preview
from .runs.repair import RepairResult
from .runs.reproduce import ReproduceResult, reproduce
from .runs.retry import retry
from .runs.runner import RunResult, run
from .runs.score import ScoreResult, score
from .runs.select import select
from .runs.status import RunStatus, TrainingStatus, status
from .runs.try_gates import GatesResult, gates
from .runs.verify import VerifyResult, verify
from .runs.verify_export import ExportVerified, verify_export
from .runs.walk import WalkOptions, walk
from .steps import ImageSetup, SamplerComparison, StepsResult, compare_samplers, show_steps
from .training import TrainResult, train
from .tuning.options import TuneOptions
from .tuning.tune import Tuning, tune

__all__ = [
    "AgainResult",
    "ClusterError",
    "ClusterUnavailable",
    "ConvertedModel",
    "Delivery",
    "Diagnosis",
    "Expansion",
    "ExportResult",
    "ExportVerified",
    "FidResult",
    "GatesResult",
    "ImageSetup",
    "IncompleteRun",
    "Inspection",
    "JobError",
    "MarkChoice",
    "MarksImported",
    "ModelSummary",
    "NightpressError",
    "PickCopies",
    "PicksExported",
    "Plan",
    "RepairResult",
    "ReproduceResult",
    "ReviewOptions",
    "ReviewResult",
    "RunBlocked",
    "RunResult",
    "RunStatus",
    "RunStopped",
    "RunSummary",
    "SamplerComparison",
    "ScoreResult",
    "ServerOptions",
    "StaticPage",
    "StepsResult",
    "StoppedOnRequest",
    "TrainResult",
    "TrainingStatus",
    "TuneOptions",
    "Tuning",
    "UnfinishedRun",
    "UntrustedRun",
    "VerifyResult",
    "WalkOptions",
    "again",
    "compare_samplers",
    "convert",
    "deliver",
    "doctor",
    "expand",
    "export",
    "export_picks",
    "fid",
    "gates",
    "import_marks",
    "inspect",
    "list_models",
    "list_runs",
    "plan",
    "preview",
    "reproduce",
    "retry",
    "review",
    "run",
    "score",
    "select",
    "show_steps",
    "status",
    "train",
    "tune",
    "verify",
    "verify_export",
    "walk",
    "write_rates",
    "write_static_page",
]
