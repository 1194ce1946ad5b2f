"""The section `images` of a job file: the format and the names of the files."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nightpress.pipelines.job.sections import Section

MAX_SIDE = 16_384
WEBP_MAX_SIDE = 16_383
"""Pixels. WebP has 14 bits for a side: developers.google.com/speed/webp/docs/riff_container."""

MAX_FPS = 120.0
DEFAULT_FPS = 8.0
"""Frames a second of clips, where neither the job nor the model says."""

ImageFormat = Literal["png", "webp", "jpeg"]
"""File formats of still images."""

Format = Literal["png", "webp", "jpeg", "mp4"]


class ImagesSpec(Section):
    """The format and the names of the image files."""

    format: Annotated[
        Format,
        Field(
            description="File format of the images. Clips are mp4, which is lossy, or webp, "
            "animated and lossless."
        ),
    ] = "png"
    quality: Annotated[
        int | None,
        Field(
            ge=1,
            le=100,
            description="Quality for jpeg and webp. Default: 95 for jpeg, lossless for webp.",
        ),
    ] = None
    file_name: Annotated[
        str | None,
        Field(
            min_length=1,
            description="Template over the columns, such as {category}/{image_id}.png. Default: "
            "{image_id} and the format's suffix. A leading {spread}/ distributes the images of a "
            "large run over 256 folders.",
        ),
    ] = None
    packing: Annotated[
        Literal["none", "webdataset", "parquet"],
        Field(
            description="none: one object per image. webdataset or parquet: all images of a shard "
            "in one object; an interrupted shard then starts again from its first image."
        ),
    ] = "none"
    fps: Annotated[
        float | None,
        Field(
            gt=0,
            le=MAX_FPS,
            description="Frames a second of clips whose row says nothing else; default: the "
            f"model's, or {DEFAULT_FPS:g}.",
        ),
    ] = None
    keep: Annotated[
        tuple[Literal["first_frame"], ...],
        Field(
            strict=False,
            description="first_frame: store the first frame of each clip as PNG beside it.",
        ),
    ] = ()

    @property
    def suffix(self) -> str:
        """The file suffix without its dot."""
        return {"jpeg": "jpg"}.get(self.format, self.format)

    @property
    def max_side(self) -> int:
        """The largest width or height in pixels that a file of this format can have."""
        return WEBP_MAX_SIDE if self.format == "webp" else MAX_SIDE

    @property
    def is_lossless(self) -> bool:
        """Whether a file gives exactly the pixels back that it was made from."""
        return self.format == "png" or (self.format == "webp" and self.quality is None)

    @property
    def size_multiple(self) -> int:
        """What widths and heights must be multiples of: 4:2:0 colour needs even sides."""
        return 2 if self.format == "mp4" else 1

    @property
    def is_packed(self) -> bool:
        """Whether the images of a shard share an object."""
        return self.packing != "none"

    @property
    def template(self) -> str:
        """The file-name template in effect."""
        return self.file_name or f"{{image_id}}.{self.suffix}"

    @model_validator(mode="after")
    def _matching_suffix(self) -> Self:
        allowed = ("jpg", "jpeg") if self.format == "jpeg" else (self.suffix,)
        if not self.template.lower().endswith(tuple(f".{suffix}" for suffix in allowed)):
            raise ValueError(
                f"file_name {self.template!r} must end in .{' or .'.join(allowed)}, "
                f"because format is {self.format}"
            )
        if self.format == "png" and self.quality is not None:
            raise ValueError("quality applies to jpeg and webp only; png is always lossless")
        if self.format == "mp4" and self.quality is not None:
            raise ValueError("quality applies to jpeg and webp only; mp4 has one fixed quality")
        return self

    @model_validator(mode="after")
    def _clips_have_files_of_their_own(self) -> Self:
        if self.keep and self.is_packed:
            raise ValueError("keep: first_frame needs files; packing must be none")
        if self.format == "mp4" and self.packing == "parquet":
            raise ValueError("packing: parquet holds still images; use none or webdataset for mp4")
        return self
