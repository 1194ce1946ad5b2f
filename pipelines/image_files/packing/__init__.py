"""Packs: all images of a shard in one object, a WebDataset tar or a Parquet file.

What is in a pack are the very bytes that would have been files of their own. Knows nothing of
sampling or commits.
"""

from collections.abc import Iterable
from typing import Literal

import pyarrow as pa

from nightpress.pipelines.image_files.packing import parquet, webdataset
from nightpress.pipelines.image_files.packing.members import Member, Pack, Place
from nightpress.pipelines.image_files.packing.names import (
    is_as_named,
    pack_path,
    packed_shard,
    split_member,
)
from nightpress.pipelines.image_files.packing.reading import image_bytes, member_of, members_of

Packing = Literal["webdataset", "parquet"]

__all__ = [
    "Member",
    "Pack",
    "Packing",
    "Place",
    "image_bytes",
    "is_as_named",
    "member_name",
    "member_of",
    "members_of",
    "pack",
    "pack_path",
    "packed_shard",
    "split_member",
]


def member_name(packing: Packing, name: str) -> str:
    """What a file below `images/` is called in a pack."""
    return webdataset.member_name(name) if packing == "webdataset" else name


def pack(packing: Packing, members: Iterable[Member], carried: pa.Table) -> Pack:
    """A pack of images: equal members, equal bytes.

    Args:
        packing: which kind.
        members: in order; each is asked for once, and let go when it is packed.
        carried: what the manifest says besides, a row for each member.
    """
    match packing:
        case "webdataset":
            return webdataset.pack(members, carried)
        case "parquet":
            return parquet.pack(members, carried)
