"""The section `inputs` of a job file."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from nightpress.pipelines.job.sections import MAX_PIXELS, Section, Url


class InputsSpec(Section):
    """The pictures that rows name, and how they are brought to an image's size."""

    root: Annotated[
        Url | None,
        Field(
            description="Folder or URL that relative paths start from, and may not leave. Default: "
            "where the job starts."
        ),
    ] = None
    fit: Annotated[
        Literal["cover", "contain", "stretch"],
        Field(
            description="How a picture of another aspect ratio is brought to the image's size. "
            "cover: scaled and cut at the centre. contain: scaled, with black bars. stretch: "
            "distorted."
        ),
    ] = "cover"
    check: Annotated[
        Literal["none", "exists", "decode"],
        Field(
            description="What is checked about each picture before the run begins: nothing, that "
            "it is there, or that it can be decoded."
        ),
    ] = "exists"
    max_bytes: Annotated[
        PositiveInt, Field(description="The most bytes that the file of a picture may have.")
    ] = 100_000_000
    max_pixels: Annotated[
        int,
        Field(ge=1, le=MAX_PIXELS, description="The most pixels that a picture may have."),
    ] = MAX_PIXELS
