"""What a run must have to be reviewed."""

from nightpress.jobs.reviews.options import ReviewOptions
from nightpress.pipelines.errors import ImageNotFound, SpecError
from nightpress.pipelines.job.page_columns import group_problem
from nightpress.pipelines.records import DRAW_KEY, METADATA_SCHEMA
from nightpress.pipelines.review.rows import ReviewRows
from nightpress.pipelines.run_directory.reader import Run


def require_images(rows: ReviewRows) -> None:
    """Refuse a run of which there is nothing to look at.

    Raises:
        ImageNotFound: no image is stored.
    """
    if len(rows.table):
        return
    url = rows.run.url
    if rows.num_removed:
        raise ImageNotFound(
            f"{url}: all {rows.num_removed:,} images were removed from the store; nightpress "
            "verify --repair makes them again"
        )
    if rows.num_failed:
        raise ImageNotFound(
            f"{url}: no image is ok, and {rows.num_failed:,} failed; nightpress retry tries them "
            "again"
        )
    raise ImageNotFound(f"{url}: no image is committed yet; nightpress run makes them")


def require_group_column(run: Run, options: ReviewOptions) -> None:
    """Refuse to stack images by a column that they do not have.

    Raises:
        SpecError: the options name it; what the job names is said on the page instead.
    """
    if options.group_by is None:
        return
    carried = [
        each.name
        for each in run.metadata.schema
        if each.name not in METADATA_SCHEMA.names and each.name != DRAW_KEY
    ]
    if (problem := group_problem(options.group_by, carried)) is not None:
        raise SpecError(f"group_by: {problem}")
