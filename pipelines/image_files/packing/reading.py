"""Reading one image of a run, or the members of any pack."""

from collections.abc import Iterator, Mapping
from typing import Any

from nightpress.pipelines.image_files.packing import parquet, webdataset
from nightpress.pipelines.storage import Store

MAX_EXAMPLES = 3
"""Members that an error message names."""


def image_bytes(store: Store, row: Mapping[str, Any]) -> bytes:
    """Read an image file by its metadata row: an object, or a range of a pack.

    Raises:
        StoreMissing: the object does not exist.
    """
    if row["member_offset"] is None:
        return store.read(row["file"])
    return store.read_part(row["file"], row["member_offset"], row["num_bytes"])


def members_of(path: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every member of a pack; those of a tar are not all images.

    Args:
        path: path of the pack; the suffix tells its kind.
        data: bytes of the pack.

    Raises:
        ValueError: truncated or invalid.
    """
    return parquet.members(data) if path.endswith(".parquet") else webdataset.members(data)


def member_of(path: str, data: bytes, name: str) -> bytes:
    """One member of a pack by its name; see `members_of`.

    Raises:
        ValueError: the pack is truncated or invalid, or has no such member.
    """
    examples: list[str] = []
    for member, content in members_of(path, data):
        if member == name:
            return content
        if len(examples) < MAX_EXAMPLES and not member.endswith((".json", ".txt")):
            examples.append(member)
    shown = ", ".join([*examples, "..."])
    if not name:
        raise ValueError(f"this is a pack; append the name of an image in it: {shown}")
    raise ValueError(f"this pack has no member {name!r}; it has: {shown}")
