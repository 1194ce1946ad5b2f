"""The job with which a run is repaired: its own, but for what only its user may decide."""

from nightpress.jobs.cluster.connection import is_chosen
from nightpress.jobs.errors import UntrustedRun
from nightpress.jobs.runs.targets import ImageTarget, failure_limit
from nightpress.pipelines.job.scores_section import OwnSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RUN_FILE


def repair_spec(
    run: Run,
    target: ImageTarget,
    address: str | None = None,
    max_failures: int | str | None = None,
    allow_pickle: bool = False,
) -> RunSpec:
    """The run's job, with the cluster and the failure limit of this repair.

    `run.json` may have come with a downloaded run, so it decides neither which cluster is joined
    nor that pickles are loaded.

    Args:
        run: the opened run.
        target: how the caller named the run. If it is a job, its cluster is used.
        address: Ray cluster to join instead.
        max_failures: failure limit of this repair; the job's own limit does not apply.
        allow_pickle: load pickled weights if the run was made with them, though no job allows it;
            likewise Python files that score images.

    Raises:
        SpecError: the failure limit is neither a number nor a percentage.
        UntrustedRun: only `run.json` names a cluster or a Python file, or allows pickles.
    """
    job = target if isinstance(target, RunSpec) else None
    require_pickles_allowed(run, allow_pickle or (job is not None and job.model.allow_pickle))
    _require_scorers_allowed(run, allow_pickle or job is not None)
    changes: dict[str, object] = {"max_failures": failure_limit(max_failures, "max_failures")}
    if address is not None:
        changes["address"] = address
    elif job is None:
        _require_chosen_cluster(run)
        changes["address"] = None
    cluster = run.spec.cluster if job is None else job.cluster
    scores = run.spec.scores if job is None else job.scores
    cluster = cluster.model_copy(update=changes)
    return run.spec.model_copy(update={"cluster": cluster, "scores": scores})


def require_pickles_allowed(run: Run, allowed: bool) -> None:
    """Check that a run's pickled weights may be loaded, if it has any.

    Raises:
        UntrustedRun: the run was made with `model.allow_pickle`, and its user does not allow it.
    """
    if run.spec.model.allow_pickle and not allowed:
        raise UntrustedRun(
            f"{run.url}/{RUN_FILE} says model.allow_pickle: true, and loading a pickle runs code; "
            "if you trust the model's files, give --allow-pickle, or a job file that says so"
        )


def _require_scorers_allowed(run: Run, allowed: bool) -> None:
    """Check that the Python files may be run that score the images of a run, if it has any."""
    own = [each.file for each in run.spec.scores.values() if isinstance(each, OwnSpec)]
    if own and not allowed:
        raise UntrustedRun(
            f"{run.url}/{RUN_FILE} names {own[0]}, a Python file that scores images, which is not "
            "run only because a run says so; if you trust it, give --allow-pickle, or the job file "
            "instead of the URL"
        )


def _require_chosen_cluster(run: Run) -> None:
    address = run.spec.cluster.address
    if address not in (None, "", "local") and not is_chosen():
        raise UntrustedRun(
            f"{run.url}/{RUN_FILE} names the Ray cluster {address}, which is not joined only "
            f"because a run says so; give --address {address} if you trust it, --address local for "
            "this machine, or the job file instead of the URL"
        )
