"""Packs as WebDataset tars: `<key>.png`, `<key>.json` with the facts, `<key>.txt` with the prompt.

Headers hold no time, user or machine, so equal members give equal bytes.
Reference: webdataset's format, github.com/webdataset/webdataset: a member's key is its name up to
the first dot after the last slash.
"""

import json
import tarfile
from base64 import b64encode
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

import pyarrow as pa

from nightpress.pipelines.image_files.packing.members import Member, MemberLocation, Pack
from nightpress.pipelines.manifest.python_values import nanoseconds_as_text, python_rows


def pack(members: Iterable[Member], carried: pa.Table) -> Pack:
    """Pack members as a tar; see `pipelines.image_files.packing.pack`."""
    tar, locations = BytesIO(), []
    for member, values in zip(members, python_rows(nanoseconds_as_text(carried)), strict=True):
        name = member_name(member.name)
        locations.append(MemberLocation(name, append(tar, name, member.data)))
        key = name.rpartition(".")[0]
        append(tar, f"{key}.json", as_json(member.facts.as_dict() | values))
        append(tar, f"{key}.txt", member.facts.prompt.encode())
    return Pack(finished(tar), tuple(locations))


def member_name(name: str) -> str:
    """The name of a file in a tar: the key has no dot, and does not begin with `__`.

    WebDataset splits names at the first dot and skips `__...`. Such characters are percent-encoded,
    and `%` itself, so that different names stay different.
    """
    folder, slash, file = name.replace("%", "%25").rpartition("/")
    stem, dot, suffix = file.rpartition(".")
    whole = f"{folder}{slash}{stem.replace('.', '%2E')}{dot}{suffix}"
    return f"%5F{whole[1:]}" if whole.startswith("__") else whole


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file in a tar.

    Raises:
        ValueError: truncated or invalid.
    """
    try:
        with tarfile.open(fileobj=BytesIO(data), mode="r:") as tar:
            for info in tar:
                stream = tar.extractfile(info)
                if stream is not None:
                    yield info.name, stream.read()
    except tarfile.TarError as error:
        raise ValueError(f"truncated or invalid tar: {error}") from error


def append(tar: BytesIO, name: str, data: bytes) -> int:
    """Append a file to a tar; returns the offset of its content."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    offset = tar.tell()
    tar.write(data)
    tar.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def finished(tar: BytesIO) -> bytes:
    """The bytes of a tar to which every file has been appended."""
    end = tar.tell() + 2 * tarfile.BLOCKSIZE
    tar.write(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))
    return tar.getvalue()


def as_json(values: dict[str, Any]) -> bytes:
    """Values of a row as JSON: bytes as base64, NaN and infinity as null."""
    plain = {name: _plain(value) for name, value in values.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """A value of a manifest in JSON: bytes as base64, NaN and infinity as null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if abs(value) < float("inf") else None
        case bytes():
            return b64encode(value).decode()
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return str(value)
