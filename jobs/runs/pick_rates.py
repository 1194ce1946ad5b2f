"""`write_rates`: pick rates of a run as they are now, in its report and as Parquet."""

from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.reporting.pick_rates import PickRates, pick_rates
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.run_directory.marks_merge import Policy
from nightpress.pipelines.storage import Options


def write_rates(
    target: ImageTarget,
    policy: str = "any",
    lead: str | None = None,
    *,
    storage: Options | None = None,
) -> PickRates:
    """Count what reviewers picked, and write it into the report and `review/pick_rates.parquet`.

    Args:
        target: the URL of a run directory, a job, or an opened run.
        policy: `any`, `all`, `majority` or `lead`.
        lead: the reviewer who decides under `lead`.
        storage: fsspec options by protocol, for a URL.

    Raises:
        SpecError: nobody has marked an image.
        MarksError: there is no such policy, or the lead has marked nothing.
        RunNotFound, StoreError: the run cannot be read or written to.
    """
    run = open_images(target, storage)
    rates = pick_rates(run, Policy.of(policy, lead))
    if rates is None:
        raise SpecError(
            f"{run.url}: nobody has marked an image of it yet; nightpress review opens the page "
            "for that"
        )
    write_report(run, run.store, rates)
    return rates
