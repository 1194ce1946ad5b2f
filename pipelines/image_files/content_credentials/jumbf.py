"""JUMBF boxes, in which C2PA stores its manifests: write and read them.

Reference: ISO/IEC 19566-5:2023; C2PA Technical Specification 2.2, section 11.1, "Use of JUMBF".
"""

import struct
from dataclasses import dataclass

BOX = struct.Struct(">I4s")
"""Size of the box with this header, and its type."""

TYPE_SUFFIX = bytes.fromhex("00110010800000aa00389b71")
"""What follows the four letters in a content type of JUMBF or C2PA."""

HAS_LABEL = b"\x03"
"""The box can be requested, and has a label."""


@dataclass(frozen=True)
class SuperBox:
    """A box that holds boxes, with a label by which claims name it."""

    kind: bytes
    """The four letters of its content type, such as `c2ma`."""
    label: str
    content: "tuple[SuperBox, ...] | bytes"
    """Its boxes, or the CBOR of its only content box."""

    def to_bytes(self) -> bytes:
        """The box as it is stored."""
        return _box(b"jumb", self.payload())

    def payload(self) -> bytes:
        """The box without its header, which is what hashes of assertions cover."""
        description = self.kind + TYPE_SUFFIX + HAS_LABEL + self.label.encode() + b"\0"
        content = self.content
        inside = (
            _box(b"cbor", content)
            if isinstance(content, bytes)
            else b"".join(each.to_bytes() for each in content)
        )
        return _box(b"jumd", description) + inside

    def child(self, label: str) -> "SuperBox":
        """The box with a label directly inside this one.

        Raises:
            ValueError: there is none.
        """
        boxes = () if isinstance(self.content, bytes) else self.content
        for each in boxes:
            if each.label == label:
                return each
        raise ValueError(f"the box {self.label!r} holds no box {label!r}")

    @property
    def cbor(self) -> bytes:
        """The CBOR of its content box.

        Raises:
            ValueError: it holds other boxes.
        """
        if not isinstance(self.content, bytes):
            raise ValueError(f"the box {self.label!r} holds no CBOR")
        return self.content


def read_box(data: bytes) -> SuperBox:
    """The inverse of `SuperBox.to_bytes`.

    Boxes of other kinds than CBOR, such as pictures that other programs add, are left out.

    Raises:
        ValueError: not a JUMBF box.
    """
    try:
        (kind, content), *rest = _boxes(data)
        if kind != b"jumb" or rest:
            raise ValueError("not a single JUMBF box")
        return _super_box(content)
    except (struct.error, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("truncated or invalid JUMBF") from error


def _super_box(data: bytes) -> SuperBox:
    boxes = _boxes(data)
    if not boxes or boxes[0][0] != b"jumd" or len(boxes[0][1]) < 18:
        raise ValueError("a JUMBF box without a description")
    description = boxes[0][1]
    label = description[17:].partition(b"\0")[0].decode()
    for kind, content in boxes[1:]:
        if kind == b"cbor":
            return SuperBox(description[:4], label, content)
    inside = tuple(_super_box(content) for kind, content in boxes[1:] if kind == b"jumb")
    return SuperBox(description[:4], label, inside)


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    found, offset = list[tuple[bytes, bytes]](), 0
    while offset < len(data):
        size, kind = BOX.unpack_from(data, offset)
        if not BOX.size <= size <= len(data) - offset:
            raise ValueError("truncated or invalid JUMBF")
        found.append((kind, data[offset + BOX.size : offset + size]))
        offset += size
    return found


def _box(kind: bytes, content: bytes) -> bytes:
    return BOX.pack(BOX.size + len(content), kind) + content
