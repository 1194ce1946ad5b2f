"""Copies of images for clients: other metadata, and a visible label where asked.

A copy is a function of its master and of what was asked for, until a time stamp is put on it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, Literal
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.embedded_metadata import AI_GENERATED, readable, xmp_of
from nightpress.pipelines.image_files.encoding import (
    JPEG_QUALITY,
    WEBP_LOSSLESS_METHOD,
    ZLIB_RLE,
    decoded,
)
from nightpress.pipelines.image_files.stripping import stripped
from nightpress.pipelines.job.sections import ImagesSpec

MAX_TEXT = 1_000
"""Characters of a text for the client, so that a JPEG can hold the packet in one piece."""

NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
"""XML namespaces of the properties of a copy, by prefix."""

LABEL_SHARE, MIN_LABEL_PX = 1 / 28, 9
"""Height of a label's letters: a share of the shorter side, but at least some pixels."""


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


def _packet(spec: CopySpec) -> bytes:
    """XMP with the marking and the client's texts."""
    listed = "<rdf:{0}><rdf:li{1}>{2}</rdf:li></rdf:{0}>"
    forms = {
        "dc:creator": (spec.creator, listed.format("Seq", "", "{}")),
        "dc:rights": (spec.rights, listed.format("Alt", ' xml:lang="x-default"', "{}")),
        "photoshop:Credit": (spec.credit, "{}"),
        "Iptc4xmpExt:DigitalSourceType": (AI_GENERATED, "{}"),
    }
    return xmp_of(
        (
            f"<{name}>{form.format(escape(text))}</{name}>"
            for name, (text, form) in forms.items()
            if text is not None
        ),
        NAMESPACES,
    )


def _labelled(master: bytes, label: str, images: ImagesSpec) -> bytes:
    """The image with a label, in the format and quality of the master."""
    with decoded(master) as opened:
        image = opened.convert("RGB")
    _draw(image, label)
    file = BytesIO()
    match images.format:
        case "png":
            image.save(file, "PNG", compress_level=1, compress_type=ZLIB_RLE)
        case "jpeg":
            image.save(file, "JPEG", quality=images.quality or JPEG_QUALITY, subsampling="4:4:4")
        case "webp" if images.quality is None:
            image.save(file, "WEBP", lossless=True, method=WEBP_LOSSLESS_METHOD)
        case "webp":
            image.save(file, "WEBP", quality=images.quality)
    return file.getvalue()


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
