"""What an image file says about itself: facts, XMP and credential, from any program."""

import hashlib
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from PIL import Image

from nightpress.pipelines.image_files.content_credentials import can_check
from nightpress.pipelines.image_files.content_credentials.c2pa_reader import can_judge, judge
from nightpress.pipelines.image_files.content_credentials.parts import PNG_SIGNATURE, split
from nightpress.pipelines.image_files.content_credentials.statement import Statement
from nightpress.pipelines.image_files.embedded_metadata import SealedFacts
from nightpress.pipelines.image_files.encoding import (
    is_whole,
    opened,
    read_embedded,
    xmp_packets,
)
from nightpress.pipelines.records import ImageFacts

IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
XMP = "{http://ns.adobe.com/xap/1.0/}"
"""Namespaces of the properties that are shown."""

CredentialState = Literal["valid", "invalid", "foreign", "unchecked"]


@dataclass(frozen=True)
class CredentialReport:
    """The credential of a file, and what became of checking it."""

    state: CredentialState
    """`foreign`: another program wrote it, and c2pa-python finds it intact."""
    reason: str | None = None
    """Why it is not valid, or was not checked; that another program wrote it."""
    statement: Statement | None = None
    signer: str | None = None
    """By its certificate, which nobody here has found trustworthy."""
    certificate_sha256: str | None = None
    not_after: str | None = None
    """When the certificate expires: UTC, ISO 8601."""
    signed_at: str | None = None
    """When an authority put a time stamp on the signature, of a foreign one: UTC, ISO 8601."""


@dataclass(frozen=True)
class FileReport:
    """What an image file says about itself."""

    format: str
    """`png`, `webp`, `jpeg` or `mp4`."""
    width: int
    height: int
    num_frames: int
    """Pictures in the file; 1 for a still image."""
    num_bytes: int
    sha256: str
    is_whole: bool | None
    """Whether its checksums are right; None if it has none."""
    facts: ImageFacts | None
    """What made the image, if nightpress embedded it."""
    sealed: SealedFacts | None
    """What stands for the facts in a file that does not tell them."""
    creator: str | None
    """The program that the XMP names."""
    digital_source_type: str | None
    """How the image came to be, by its XMP: a term of IPTC."""
    xmp: str | None
    """The XMP packet."""
    credential: CredentialReport | None


def read_report(data: bytes) -> FileReport:
    """Read what an image file says about itself.

    Raises:
        ValueError: not a PNG, JPEG, WebP or MP4 file, or too large to open.
    """
    with opened(data) as image:
        packet = next(iter(xmp_packets(image)), b"")
        kind, (width, height) = (image.format or "").lower(), image.size
        num_frames = getattr(image, "n_frames", 1)
    found = read_embedded(data)
    has_checksums = data.startswith(PNG_SIGNATURE) or found is not None
    properties = _properties(packet)
    return FileReport(
        format=kind,
        width=width,
        height=height,
        num_frames=num_frames,
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        is_whole=is_whole(data) if has_checksums else None,
        facts=found if isinstance(found, ImageFacts) else None,
        sealed=found if isinstance(found, SealedFacts) else None,
        creator=properties.get(f"{XMP}CreatorTool"),
        digital_source_type=properties.get(f"{IPTC}DigitalSourceType"),
        xmp=packet.decode("utf-8", "replace") or None,
        credential=_credential(data, kind),
    )


def _properties(packet: bytes) -> dict[str, str]:
    """The simple properties of an XMP packet, which some programs write as attributes."""
    if b"<!DOCTYPE" in packet:  # XMP has none; entities could expand without bound
        return {}
    try:
        root = ElementTree.fromstring(packet)  # noqa: S314 - safe without a DTD
    except (ElementTree.ParseError, LookupError, ValueError):
        return {}
    found: dict[str, str] = {}
    for element in root.iter():
        found |= {name: value for name, value in element.attrib.items() if value}
        if element.text and element.text.strip():
            found[element.tag] = element.text
    return found


def _credential(data: bytes, kind: str) -> CredentialReport | None:
    if split(data) is None:
        return None
    if not can_check():
        return CredentialReport("unchecked", "pip install 'nightpress[sign]' brings what checks it")
    from nightpress.pipelines.image_files.content_credentials.validation import (
        ForeignCredential,
        InvalidCredential,
        read_credential,
    )

    try:
        found = read_credential(data)
    except ForeignCredential as error:
        return _foreign(data, kind, str(error))
    except InvalidCredential as error:
        return CredentialReport("invalid", str(error))
    if found is None:
        return None
    return CredentialReport(
        "valid",
        statement=found.statement,
        signer=found.chain.subject,
        certificate_sha256=found.chain.sha256,
        not_after=found.chain.signer.not_valid_after_utc.isoformat(timespec="seconds"),
    )


def _foreign(data: bytes, kind: str, reason: str) -> CredentialReport:
    """The credential that another program wrote, by c2pa-python."""
    if not can_judge():
        how = "pip install 'nightpress[deliver]' brings c2pa-python, which checks it"
        return CredentialReport("unchecked", f"{reason}; {how}")
    found = judge(data, kind)
    if not found.is_intact:
        problems = ", ".join(found.problems) or "it is invalid"
        return CredentialReport("invalid", f"{reason}, and c2pa-python finds: {problems}")
    return CredentialReport("foreign", reason, signer=found.signer, signed_at=found.signed_at)


def pixels_sha256(image: Image.Image) -> str:
    """SHA-256 of an image's size and pixels, as RGB."""
    size = f"{image.width} x {image.height} ".encode()
    return hashlib.sha256(size + image.convert("RGB").tobytes()).hexdigest()
