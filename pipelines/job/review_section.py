"""The job's key `review`: what a run prepares for the page on which people pick images."""

from typing import Annotated

from pydantic import Field

from nightpress.pipelines.job.sections import Section


class ReviewSpec(Section):
    """How a run is reviewed; it decides nothing about the images."""

    thumbs: Annotated[
        bool,
        Field(
            description="Whether the actors make thumbnails while they make the images; otherwise "
            "nightpress review makes them when it is first opened."
        ),
    ] = False
    group_by: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description="Column by which the page stacks images, such as id: the variants of a "
            "row then lie on each other.",
        ),
    ] = None
