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
    trusted = pickled_models(run.spec) if allow_pickle else pickled_models(job)
    require_pickles_allowed(run, trusted)
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


def pickled_models(spec: RunSpec | None) -> frozenset[str | None]:
    """The names of those models of a job that may be loaded from pickles; none without a job."""
    if spec is None:
        return frozenset()
    pairs = zip(spec.model_names, spec.every_model, strict=True)
    return frozenset(name for name, model in pairs if model.allow_pickle)


def require_pickles_allowed(run: Run, trusted: frozenset[str | None]) -> None:
    """Check that a run's pickled weights may be loaded, if it has any.

    Args:
        trusted: the names of the models whose pickles the user allows; see `pickled_models`.

    Raises:
        UntrustedRun: the run was made with `model.allow_pickle`, and its user does not allow it.
    """
    for name in sorted(pickled_models(run.spec) - trusted, key=str):
        key = "model.allow_pickle" if name is None else f"models.{name}: allow_pickle"
        raise UntrustedRun(
            f"{run.url}/{RUN_FILE} says {key}: true, and loading a pickle runs code; "
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
