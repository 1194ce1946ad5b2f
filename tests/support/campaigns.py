"""Campaigns in a folder, and their rows."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pyarrow as pa

from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.manifest.file_records import ManifestFile, RowRange
from nightpress.pipelines.manifest.files import read_rows, scan
from nightpress.pipelines.storage import find

NAME = "shoes.campaign.yaml"


def write_campaign(folder: Path, text: str, **files: str | bytes) -> str:
    """Write a campaign and the files that it reads; returns the campaign's path.

    Args:
        folder: where to write.
        text: the campaign; common indentation is removed.
        files: name -> content, with `__` for `/` and `_DOT_` for the point of a suffix.
    """
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    path.write_text(dedent(text))
    return str(path)


def scanned(path: str) -> ManifestFile:
    """The campaign as a manifest."""
    (source,) = find([path])
    return scan(source, {})


def rows_of(path: str, first: int = 0, number: int | None = None) -> list[dict[str, Any]]:
    """Rows of a campaign, without the key that tells what they were drawn from."""
    return table_of(path, first, number).to_pylist()


def table_of(path: str, first: int = 0, number: int | None = None) -> pa.Table:
    """Rows of a campaign."""
    file = scanned(path)
    count = file.num_rows - first if number is None else number
    return pa.concat_tables(read_rows(RowRange(file, first, count), file.schema.names, {}))


def prompts_of(path: str) -> dict[str, str]:
    """Id -> prompt."""
    return {row["id"]: row["prompt"] for row in rows_of(path)}


def refusal_of(path: str) -> str:
    """Why a campaign is refused, with the folder left out; one line for each problem."""
    try:
        scanned(path)
    except ManifestError as error:
        return str(error).replace(f"{Path(path).parent}/", "")
    raise AssertionError("the campaign was taken")
