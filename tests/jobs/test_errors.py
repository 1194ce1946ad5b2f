"""One root for every error of the three packages, and a message in one piece across processes."""

import inspect
import pickle
from types import ModuleType

import pytest

import nightpress
from nightpress import NightpressError, jobs
from nightpress.diffusion_core import errors as diffusion_core_errors
from nightpress.jobs import errors as jobs_errors
from nightpress.jobs.cli import exit_code
from nightpress.pipelines import errors as pipelines_errors

MODULES = (diffusion_core_errors, pipelines_errors, jobs_errors)


def exceptions(module: ModuleType) -> list[type[BaseException]]:
    """The exception classes that a module defines."""
    return [
        each
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, BaseException) and each.__module__ == module.__name__
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_error_derives_from_the_exported_root(module: ModuleType) -> None:
    found = exceptions(module)
    assert found
    assert [each for each in found if not issubclass(each, NightpressError)] == []


def test_both_packages_export_the_same_root() -> None:
    assert nightpress.NightpressError is jobs.NightpressError is NightpressError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (jobs_errors.RunStopped, 4),
        (jobs_errors.ClusterError, 2),
        (jobs_errors.ClusterUnavailable, 4),
        (jobs_errors.UnfinishedRun, 2),
        (jobs_errors.IncompleteRun, 1),
        (jobs_errors.RunBlocked, 1),
        (jobs_errors.UntrustedRun, 2),
        (pipelines_errors.Damaged, 1),
        (pipelines_errors.TrainingDiverged, 1),
        (pipelines_errors.RunHeld, 5),
        (pipelines_errors.StoreDenied, 2),
        (pipelines_errors.StoreError, 4),
        (diffusion_core_errors.ModelNotFound, 2),
        (diffusion_core_errors.HubUnavailable, 4),
    ],
)
def test_an_error_survives_pickling_and_has_an_exit_code(
    error: type[NightpressError], code: int
) -> None:
    again = pickle.loads(pickle.dumps(error("no Ray here")))
    assert type(again) is error
    assert str(again) == "no Ray here"
    assert exit_code(again) == code


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (pipelines_errors.StoreError("it keeps failing"), jobs_errors.RunStopped),
        (pipelines_errors.StoreDenied("no route to it"), jobs_errors.RunStopped),
        (jobs_errors.ClusterUnavailable("a node was lost"), jobs_errors.RunStopped),
        (jobs_errors.ClusterError("the runtime environment"), jobs_errors.RunBlocked),
        (pipelines_errors.Damaged("a commit", 3), jobs_errors.RunBlocked),
        (pipelines_errors.ManifestError([]), jobs_errors.RunBlocked),
        (pipelines_errors.SpecError("the job"), jobs_errors.RunBlocked),
        (
            pipelines_errors.ChangedRunError("run", [pipelines_errors.Change("seed", 1, 2)]),
            jobs_errors.RunBlocked,
        ),
        (diffusion_core_errors.ModelError("the weights"), jobs_errors.RunBlocked),
        (diffusion_core_errors.HubUnavailable("HTTP 503"), jobs_errors.RunStopped),
        (pipelines_errors.RunHeld("another"), pipelines_errors.RunHeld),
        (pipelines_errors.LeaseLost("another"), pipelines_errors.LeaseLost),
        (jobs_errors.StoppedOnRequest("asked"), jobs_errors.StoppedOnRequest),
        (jobs_errors.RunBlocked("already"), jobs_errors.RunBlocked),
        (jobs_errors.IncompleteRun("a bug"), jobs_errors.IncompleteRun),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_in_mid_run_only_what_passes_by_itself_lets_the_same_command_go_on(
    error: NightpressError, means: type[NightpressError]
) -> None:
    found = jobs_errors.in_mid_run(error)
    assert type(found) is means
    assert str(found).startswith(str(error))
    assert exit_code(found) != 2
