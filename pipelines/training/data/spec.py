"""The `data` section of a training job."""

from typing import Annotated, Literal

from pydantic import Field

from nightpress.pipelines.job.sections import Section, Url

Kind = Literal["webdataset", "parquet", "folder"]

CAPTION_NAMES = ("caption", "captions", "text", "texts", "prompt")
"""Columns and JSON keys that hold captions, the likeliest first."""

IMAGE_NAMES = (
    *("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes"),
    *("image_path", "file_name", "path", "image_url", "url"),
)
"""Columns of a Parquet file that hold pictures or say where they lie, the likeliest first."""

IMAGE_SUFFIXES = (*(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),)


class DataSpec(Section):
    """Where the pictures and their captions are."""

    source: Annotated[
        Url | Annotated[list[Url], Field(min_length=1)],
        Field(
            description="WebDataset tars, Parquet files or pictures: a URL, folder, glob or list."
        ),
    ]
    kind: Annotated[
        Kind | Literal["auto"],
        Field(description="auto: told by what lies there; needed only where kinds are mixed."),
    ] = "auto"
    image: Annotated[
        str | None,
        Field(
            min_length=1,
            description="The picture's column in a Parquet file (bytes, or a path or URL), or its "
            "extension in a tar. Unless set, a usual column such as image, or any picture.",
        ),
    ] = None
    caption: Annotated[
        str | None,
        Field(
            min_length=1,
            description="The caption's column in a Parquet file or metadata.jsonl, or its "
            "extension or JSON key in a tar; a text or a list of texts. Unless set, txt files, "
            f"else the first there is of: {', '.join(CAPTION_NAMES)}.",
        ),
    ] = None
    folder_names_as_captions: Annotated[
        bool, Field(description="In a picture folder: each picture is captioned by its folder.")
    ] = False

    @property
    def sources(self) -> list[str]:
        """The source's URLs as a list."""
        return [self.source] if isinstance(self.source, str) else list(self.source)
