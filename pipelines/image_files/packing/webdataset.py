"""WebDataset tars: `<key>.png`, `<key>.json` with the facts, `<key>.txt` with the prompt.

Headers name no time, user or machine, so equal members are equal bytes.
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

from nightpress.pipelines.image_files.packing.members import Member, Pack, Place


def pack(members: Iterable[Member], carried: pa.Table) -> Pack:
    """A tar of the members; see `pipelines.image_files.packing.pack`."""
    tar, places = BytesIO(), []
    for member, values in zip(members, carried.to_pylist(), strict=True):
        name = member_name(member.name)
        places.append(Place(name, _append(tar, name, member.data)))
        key = name.rpartition(".")[0]
        _append(tar, f"{key}.json", _json(member.facts.as_dict() | values))
        _append(tar, f"{key}.txt", member.facts.prompt.encode())
    end = tar.tell() + 2 * tarfile.BLOCKSIZE
    tar.write(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))
    return Pack(tar.getvalue(), tuple(places))


def member_name(name: str) -> str:
    """A file's name as its readers take it: no dot in the key, and none that they would skip.

    Percent-encoded where needed, and `%` itself, so that names that differ still do.
    """
    folder, slash, file = name.replace("%", "%25").rpartition("/")
    stem, dot, suffix = file.rpartition(".")
    whole = f"{folder}{slash}{stem.replace('.', '%2E')}{dot}{suffix}"
    return f"%5F{whole[1:]}" if whole.startswith("__") else whole


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a tar.

    Raises:
        ValueError: it is none, or not whole.
    """
    try:
        with tarfile.open(fileobj=BytesIO(data), mode="r:") as tar:
            for info in tar:
                stream = tar.extractfile(info)
                if stream is not None:
                    yield info.name, stream.read()
    except tarfile.TarError as error:
        raise ValueError(f"it is no whole tar: {error}") from error


def _append(tar: BytesIO, name: str, data: bytes) -> int:
    """Add a file; returns where its bytes begin."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    offset = tar.tell()
    tar.write(data)
    tar.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def _json(values: dict[str, Any]) -> bytes:
    plain = {name: _plain(value) for name, value in values.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """A value of a manifest as JSON has it: bytes in base64, what is no number as null."""
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
