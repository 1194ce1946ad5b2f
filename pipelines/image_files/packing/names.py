"""What packs are called: `images/shard-00012-<what its bytes hash to>.tar`.

The name tells the content. So two attempts at a shard that end alike write one and the same
object, two that do not (a row failed in one of them) cannot meet, and whoever reads a pack can
tell whether it is as it was written. Which of them counts, the commit says.
"""

import hashlib
import re

from nightpress.pipelines.image_files.naming import FOLDER

SUFFIXES = {"webdataset": "tar", "parquet": "parquet"}

DIGITS = 16
"""Of the pack's sha256 in hex: 64 bits, among the few packs that one shard may ever have."""

_FILE = rf"shard-(\d{{5,}})-([0-9a-f]{{{DIGITS}}})\.(?:tar|parquet)"
_PACK = re.compile(FOLDER + _FILE)
_MEMBER = re.compile(rf"(.*/)?{_FILE}(?=/|$)")


def pack_path(packing: str, shard: int, data: bytes) -> str:
    """`images/shard-00012-0123456789abcdef.tar`."""
    return f"{FOLDER}shard-{shard:05d}-{_digest(data)}.{SUFFIXES[packing]}"


def packed_shard(path: str) -> int | None:
    """The shard whose pack has this name; None for what is no name of a pack."""
    match = _PACK.fullmatch(path)
    return int(match.group(1)) if match else None


def is_as_named(path: str, data: bytes) -> bool:
    """Whether a pack is as it was written, to the last bit."""
    match = _PACK.fullmatch(path)
    return match is not None and match.group(2) == _digest(data)


def split_member(url: str) -> tuple[str, str] | None:
    """`.../shard-00012-...tar/cat/0_00.png` as the pack's URL and the member's name.

    The member is empty where the URL is that of a pack; None where no pack is named.
    """
    match = _MEMBER.match(url)
    return (match.group(), url[match.end() + 1 :]) if match else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]
