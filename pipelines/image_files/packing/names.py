"""Names of packs: `images/shard-00012-<hash of its bytes>.tar`.

The name depends on the content. Two attempts at a shard with the same result write the same object;
with different results (a row failed in one of them) they write different objects. The commit says
which of them counts, and a reader can check that a pack is as it was written.
"""

import hashlib
import re

from nightpress.pipelines.image_files.naming import FOLDER

SUFFIXES = {"webdataset": "tar", "parquet": "parquet"}

DIGITS = 16
"""Hex digits of the SHA-256 in a name: 64 bits are enough for the few packs of one shard."""

_FILE = rf"shard-(\d{{5,}})-([0-9a-f]{{{DIGITS}}})\.(?:tar|parquet)"
_PACK = re.compile(FOLDER + _FILE)
_MEMBER = re.compile(rf"(.*/)?{_FILE}(?=/|$)")


def pack_path(packing: str, shard: int, data: bytes) -> str:
    """`images/shard-00012-0123456789abcdef.tar`."""
    return f"{FOLDER}shard-{shard:05d}-{_digest(data)}.{SUFFIXES[packing]}"


def packed_shard(path: str) -> int | None:
    """The shard that a pack belongs to; None if this is not the name of a pack."""
    match = _PACK.fullmatch(path)
    return int(match.group(1)) if match else None


def is_intact_pack(path: str, data: bytes) -> bool:
    """Whether a pack's bytes match the hash in its name."""
    match = _PACK.fullmatch(path)
    return match is not None and match.group(2) == _digest(data)


def split_member(url: str) -> tuple[str, str] | None:
    """Split `.../shard-00012-...tar/cat/0_00.png` into the pack's URL and the member's name.

    The member is empty if the URL is that of a pack. None if the URL names no pack.
    """
    match = _MEMBER.match(url)
    return (match.group(), url[match.end() + 1 :]) if match else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]
