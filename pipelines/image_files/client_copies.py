"""Copies of images: other metadata, another size or format, and a visible label where asked.

A copy is a function of its master and of what was asked for, until a time stamp is put on it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, Literal, Self
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.embedded_metadata import AI_GENERATED, readable, xmp_of
from nightpress.pipelines.image_files.encoding import (
    JPEG_QUALITY,
    WEBP_LOSSLESS_METHOD,
    ZLIB_RLE,
    decoded,
    opened,
)
from nightpress.pipelines.image_files.stripping import stripped
from nightpress.pipelines.job.images_section import ImageFormat, ImagesSpec

MAX_TEXT = 1_000
"""Characters of a text for the client, so that a JPEG can hold the packet in one piece."""

NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
RATING_NAMESPACES = {
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpDM": "http://ns.adobe.com/xmp/1.0/DynamicMedia/",
}
"""XML namespaces of the properties of a copy, by prefix."""

LABEL_SHARE, MIN_LABEL_PX = 1 / 28, 9
"""Height of a label's letters: a share of the shorter side, but at least some pixels."""


SUFFIXES: dict[ImageFormat, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
"""Format -> the suffix of a file's name."""


@dataclass(frozen=True)
class Rating:
    """What reviewers said about an image, as other programs read it in XMP.

    Reference: XMP specification part 1, section 8.4: `xmp:Rating` is -1 for a rejected image, 0 for
    one without a rating, or 1 to 5. `xmpDM:pick` (1 or -1) is the flag of Lightroom and Bridge.
    """

    stars: int = 0
    flag: str = ""
    """`pick`, `reject` or empty."""
    colour: str = ""

    @property
    def properties(self) -> list[tuple[str, str]]:
        """Names and values of XMP properties."""
        rating = -1 if self.flag == "reject" else self.stars
        pick = {"pick": 1, "reject": -1}.get(self.flag)
        found = [("xmp:Rating", str(rating))] if rating else []
        found += [("xmp:Label", self.colour.capitalize())] if self.colour else []
        return found + ([("xmpDM:pick", str(pick))] if pick else [])


NOT_RATED = Rating()


def still_format(images: ImagesSpec) -> ImageFormat:
    """The format of a run's images.

    Raises:
        SpecError: they are clips, of which no copies are made.
    """
    if images.format == "mp4":
        raise SpecError("images.format mp4: copies are made of still images, not of clips")
    return images.format


@dataclass(frozen=True)
class PixelSpec:
    """What the pixels of copies are to be; by default those of the image, not encoded again."""

    resize: int | None = None
    """Pixels of the longer side; a smaller image keeps its size."""
    format: ImageFormat | None = None
    """None for the image's own."""
    quality: int | None = None
    """Of JPEG and lossy WebP, 1 to 100. None for that of the image's format; a WebP is lossless."""

    def check(self, images: ImagesSpec) -> None:
        """Check what was asked for.

        Args:
            images: format and quality of the images.

        Raises:
            SpecError: such copies cannot be made.
        """
        if self.resize is not None and self.resize < 1:
            raise SpecError(f"resize: {self.resize} is not 1 pixel or more")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise SpecError(f"quality: {self.quality} is not a number from 1 to 100")
        if self.quality is not None and self.encoding(images).format == "png":
            raise SpecError("quality: a PNG file has none; it applies to jpeg and webp")

    def encoding(self, images: ImagesSpec) -> "Encoding":
        """How a copy is encoded if its pixels are not those of the image."""
        format_ = self.format or still_format(images)
        own = images.quality if format_ == images.format else None
        return Encoding(format_, own if self.quality is None else self.quality)

    def keeps(self, size: tuple[int, int], images: ImagesSpec) -> bool:
        """Whether the pixels of an image stay as they are encoded."""
        fits = self.resize is None or max(size) <= self.resize
        return fits and self.encoding(images) == Encoding.of(images)

    def copy_of(self, master: bytes, images: ImagesSpec, rating: Rating = NOT_RATED) -> bytes:
        """The copy of an image, with the marking as AI-generated and a rating as its metadata.

        Args:
            master: an intact image file.
            images: format and quality of the master.
            rating: what reviewers said about it.

        Raises:
            ValueError: the file is no intact image.
        """
        packet = _packet(CopySpec(), rating)
        with opened(master) as header:
            size = header.size
        if self.keeps(size, images):
            return stripped(master, packet)
        with decoded(master) as image:
            pixels = image.convert("RGB")
        if self.resize is not None:
            side = self.resize
            pixels.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        return stripped(self.encoding(images).encoded(pixels), packet)


@dataclass(frozen=True)
class Encoding:
    """A file format, and a quality where it is lossy."""

    format: ImageFormat
    quality: int | None

    @classmethod
    def of(cls, images: ImagesSpec) -> Self:
        """That of a run's images."""
        return cls(still_format(images), images.quality)

    def encoded(self, image: Image.Image) -> bytes:
        """An image file without metadata.

        Args:
            image: RGB.
        """
        file, quality = BytesIO(), self.quality
        match self.format:
            case "png":
                image.save(file, "PNG", compress_level=1, compress_type=ZLIB_RLE)
            case "jpeg":
                image.save(file, "JPEG", quality=quality or JPEG_QUALITY, subsampling="4:4:4")
            case "webp" if quality is None:
                image.save(file, "WEBP", lossless=True, method=WEBP_LOSSLESS_METHOD)
            case "webp":
                image.save(file, "WEBP", quality=quality)
        return file.getvalue()


@dataclass(frozen=True)
class CopySpec:
    """What the copies are to be."""

    embed: Literal["minimal", "none"] = "minimal"
    """minimal: the marking as AI-generated, and the texts below; none: no metadata."""
    creator: str | None = None
    rights: str | None = None
    credit: str | None = None
    label: str | None = None
    """Drawn into the lower left corner."""

    def check(self) -> None:
        """Check what was asked for.

        Raises:
            SpecError: the texts cannot be embedded or drawn.
        """
        texts = {"creator": self.creator, "rights": self.rights, "credit": self.credit}
        for name, text in texts.items():
            if text is not None and self.embed == "none":
                raise SpecError(f"{name}: embed none leaves out all metadata; use embed minimal")
            if text is not None and (not text.strip() or len(text) > MAX_TEXT):
                raise SpecError(f"{name}: must have 1 to {MAX_TEXT:,} characters")
            if text is not None and readable(text) != text:
                raise SpecError(f"{name}: {text!r} has characters that XML cannot hold")
        if self.label is not None and not (
            self.label.strip() and all(" " <= char <= "~" for char in self.label)
        ):
            raise SpecError(
                f"label: {self.label!r} must be text of ASCII letters, digits and signs"
            )

    def check_sizes(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Check that the label, if any, fits into images of these sizes.

        Raises:
            SpecError: it does not.
        """
        for size in sizes if self.label is not None else ():
            require_room(str(self.label), size)

    def as_dict(self) -> dict[str, Any]:
        """As it is recorded beside the copies."""
        return asdict(self)

    def copy_of(self, master: bytes, images: ImagesSpec) -> bytes:
        """The copy of an image, without a credential.

        Args:
            master: an intact image file.
            images: format and quality of the master.

        Raises:
            ValueError: the file is no intact image.
        """
        packet = _packet(self) if self.embed == "minimal" else None
        plain = master if self.label is None else _labelled(master, self.label, images)
        return stripped(plain, packet)


def _packet(spec: CopySpec, rating: Rating = NOT_RATED) -> bytes:
    """XMP with the marking, the client's texts and a rating."""
    listed = "<rdf:{0}><rdf:li{1}>{2}</rdf:li></rdf:{0}>"
    forms = {
        "dc:creator": (spec.creator, listed.format("Seq", "", "{}")),
        "dc:rights": (spec.rights, listed.format("Alt", ' xml:lang="x-default"', "{}")),
        "photoshop:Credit": (spec.credit, "{}"),
        "Iptc4xmpExt:DigitalSourceType": (AI_GENERATED, "{}"),
    }
    forms |= {name: (text, "{}") for name, text in rating.properties}
    return xmp_of(
        (
            f"<{name}>{form.format(escape(text))}</{name}>"
            for name, (text, form) in forms.items()
            if text is not None
        ),
        NAMESPACES | (RATING_NAMESPACES if rating.properties else {}),
    )


def _labelled(master: bytes, label: str, images: ImagesSpec) -> bytes:
    """The image with a label, in the format and quality of the master."""
    with decoded(master) as opened:
        image = opened.convert("RGB")
    _draw(image, label)
    return Encoding.of(images).encoded(image)


def _draw(image: Image.Image, label: str) -> None:
    """Draw white letters on a dark band, so that they can be read on any picture."""
    font, _, (width, height), origin = _layout(label, image.size)
    band = Image.new("RGBA", (width, height), (0, 0, 0, 160))
    ImageDraw.Draw(band).text(origin, label, (255, 255, 255, 255), font)
    image.paste(band.convert("RGB"), (0, image.height - height), band.getchannel("A"))


def require_room(label: str, size: tuple[int, int]) -> None:
    """Check that a label fits into images of a size.

    Raises:
        SpecError: it does not.
    """
    _, _, (width, height), _ = _layout(label, size)
    if width > size[0] or height > size[1]:
        raise SpecError(
            f"label: {label!r} needs {width} x {height} pixels, and there are images of "
            f"{size[0]} x {size[1]}"
        )


def _layout(
    label: str, size: tuple[int, int]
) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, int, tuple[int, int], tuple[float, float]]:
    """The font, the margin, the size of the band, and where the text begins in it."""
    height = max(MIN_LABEL_PX, round(min(size) * LABEL_SHARE))
    font = ImageFont.load_default(height)
    left, top, right, bottom = font.getbbox(label)
    pad = max(2, height // 3)
    band = int(right - left) + 2 * pad, int(bottom - top) + 2 * pad
    return font, pad, band, (pad - left, pad - top)
