"""Reading what is packed: one image of a run, or of a pack that somebody has."""

from collections.abc import Iterator, Mapping
from typing import Any

from nightpress.pipelines.image_files.packing import parquet, webdataset
from nightpress.pipelines.storage import Store


def image_bytes(store: Store, row: Mapping[str, Any]) -> bytes:
    """The file of an image, by its metadata row: an object, or a part of a pack.

    Raises:
        StoreMissing: the object is not there.
    """
    if row["member_offset"] is None:
        return store.read(row["file"])
    return store.read_part(row["file"], row["member_offset"], row["num_bytes"])


def members_of(path: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every member of a pack by its name; of a tar also those that are no images.

    Args:
        path: of the pack, whose suffix says what it is.
        data: its bytes.

    Raises:
        ValueError: it is no whole pack.
    """
    return parquet.members(data) if path.endswith(".parquet") else webdataset.members(data)


def member_of(path: str, data: bytes, name: str) -> bytes:
    """One member of a pack, by its name; see `members_of`.

    Raises:
        ValueError: it is no whole pack, or has no such member.
    """
    some: list[str] = []
    for member, image in members_of(path, data):
        if member == name:
            return image
        some += [member] if len(some) < 3 and not member.endswith((".json", ".txt")) else []
    shown = ", ".join([*some, "..."])
    if not name:
        raise ValueError(f"it is a pack; behind it, the name of an image in it is needed: {shown}")
    raise ValueError(f"no member {name!r} in it; there are: {shown}")
