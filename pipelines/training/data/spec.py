"""The `data` section of a training job."""

from typing import Annotated, Literal

from pydantic import Field

from nightpress.pipelines.job.sections import Section, Url

Kind = Literal["webdataset", "parquet", "folder"]

CAPTION_NAMES = ("caption", "captions", "text", "texts", "prompt")
"""Columns and JSON keys that may hold captions, in order of preference."""

IMAGE_NAMES = (
    *("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes"),
    *("image_path", "file_name", "path", "image_url", "url"),
)
"""Parquet columns that may hold images, or their paths or URLs, in order of preference."""

IMAGE_SUFFIXES = (*(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),)


class DataSpec(Section):
    """Where the images and their captions are."""

    source: Annotated[
        Url | Annotated[list[Url], Field(min_length=1)],
        Field(
            description="WebDataset tars, Parquet files or images: a URL, a folder, a glob, or a "
            "list of these."
        ),
    ]
    kind: Annotated[
        Kind | Literal["auto"],
        Field(
            description="What kind of files to read. auto detects it; set it where the source "
            "holds several kinds."
        ),
    ] = "auto"
    image: Annotated[
        str | None,
        Field(
            min_length=1,
            description="In Parquet, the column that holds the image (its bytes, path or URL); in "
            "a tar, the image's file extension. Default: a common column name such as image; in a "
            "tar, any image file.",
        ),
    ] = None
    caption: Annotated[
        str | None,
        Field(
            min_length=1,
            description="In Parquet and metadata.jsonl, the caption's column; in a tar, its file "
            "extension or JSON key. The value is a string or a list of strings. Default: .txt "
            f"files, otherwise the first of {', '.join(CAPTION_NAMES)} that exists.",
        ),
    ] = None
    folder_names_as_captions: Annotated[
        bool,
        Field(description="In an image folder, use the name of each image's folder as caption."),
    ] = False

    roots: Annotated[
        list[Url],
        Field(
            default_factory=list,
            description="Folders or URLs below which rows of Parquet files may name their images, "
            "besides the file's own folder. They are read with this job's credentials.",
        ),
    ]

    @property
    def sources(self) -> list[str]:
        """The source URLs as a list."""
        return [self.source] if isinstance(self.source, str) else list(self.source)
