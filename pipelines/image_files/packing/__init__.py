"""Packs: all images of a shard in one object, a WebDataset tar or a Parquet file.

A pack holds the same bytes as the image files that it replaces.
"""

from collections.abc import Iterable
from typing import Literal

import pyarrow as pa

from nightpress.pipelines.image_files.packing import parquet, webdataset
from nightpress.pipelines.image_files.packing.members import Member, MemberLocation, Pack
from nightpress.pipelines.image_files.packing.names import (
    is_intact_pack,
    pack_path,
    packed_shard,
    split_member,
)
from nightpress.pipelines.image_files.packing.reading import image_bytes, member_of, members_of

Packing = Literal["webdataset", "parquet"]

__all__ = [
    "Member",
    "MemberLocation",
    "Pack",
    "Packing",
    "image_bytes",
    "is_intact_pack",
    "member_name",
    "member_of",
    "members_of",
    "pack",
    "pack_path",
    "packed_shard",
    "split_member",
]


def member_name(packing: Packing, name: str) -> str:
    """The name in a pack of a file below `images/`."""
    return webdataset.member_name(name) if packing == "webdataset" else name


def pack(packing: Packing, members: Iterable[Member], carried: pa.Table) -> Pack:
    """Pack images; equal members give equal bytes.

    Args:
        packing: the kind of pack.
        members: the images in order; each is released once it is packed.
        carried: the carried columns, one row for each member.
    """
    match packing:
        case "webdataset":
            return webdataset.pack(members, carried)
        case "parquet":
            return parquet.pack(members, carried)
