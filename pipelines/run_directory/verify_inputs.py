"""Verify inputs: are the pictures that a run's images were made from still the same?

It only reads. An image whose pictures have changed is not damaged, and is not made again.
"""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.compute as pc

from nightpress.pipelines.errors import Damaged, InputError, StoreDenied
from nightpress.pipelines.inputs.reading import InputReader
from nightpress.pipelines.records import PlannedInput
from nightpress.pipelines.run_directory.commit import metadata_columns, read_commit
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import READ_THREADS

COLUMNS = ("image_id", "status", "inputs")


@dataclass(frozen=True)
class InputFinding:
    """A picture that is not as it was when an image was made from it."""

    image_id: str
    role: str
    """The name of the manifest's column, such as `init_image`."""
    url: str
    sha256: str
    """What the image was made from."""
    found: str | None
    """SHA-256 of what is there now; None if nothing is, or if it cannot be read."""
    error: str | None = None
    """Why it cannot be read."""

    def __str__(self) -> str:
        """`0_00: init_image photos/a.png: changed: ...`."""
        head = f"{self.image_id}: {self.role} {self.url}"
        if self.found is None:
            return f"{head}: cannot be read: {self.error}"
        return f"{head}: changed: sha256 {self.found[:12]}, but it was made from {self.sha256[:12]}"


@dataclass(frozen=True)
class InputsVerified:
    """What became of the pictures of a run's images."""

    num_inputs: int = 0
    """Distinct pictures that were read."""
    num_images: int = 0
    """Images that were made from them."""
    findings: tuple[InputFinding, ...] = ()


@dataclass(frozen=True)
class _Now:
    """A picture as it is now."""

    sha256: str | None
    error: str | None = None


def verify_inputs(run: Run, reader: InputReader) -> InputsVerified:
    """Read every picture that stored images were made from, each once, and compare its hash.

    Pictures whose bytes the manifest held are not read: the plan keeps them. Nor are those of a
    commit that cannot be read, which `verify` finds.

    Args:
        run: finished or not.
        reader: reads the pictures as they are now.

    Raises:
        StoreError: a store fails.
    """
    known: dict[str, _Now] = {}
    findings: list[InputFinding] = []
    num_images = 0
    with ThreadPoolExecutor(READ_THREADS) as pool, ThreadPoolExecutor(2) as commits:
        for rows in map_ahead(commits, partial(_rows, run), run.committed, 2):
            num_images += len(rows)
            _read_new(rows, known, reader, pool)
            findings += _differences(rows, known)
    return InputsVerified(len(known), num_images, tuple(findings))


def _rows(run: Run, shard: int) -> list[dict[str, Any]]:
    """The stored images of a shard that were made from pictures with URLs."""
    try:
        part = metadata_columns(read_commit(run.store, shard), COLUMNS)
    except Damaged:
        return []
    made = pc.and_(
        pc.equal(part.column("status"), "ok"),
        pc.greater(pc.fill_null(pc.list_value_length(part.column("inputs")), 0), 0),
    )
    rows: list[dict[str, Any]] = part.filter(made).to_pylist()
    return [row for row in rows if any(each["url"] is not None for each in row["inputs"])]


def _inputs(rows: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(image id, input) for each picture that has a URL."""
    for row in rows:
        for each in row["inputs"]:
            if each["url"] is not None:
                yield row["image_id"], each


def _read_new(
    rows: list[dict[str, Any]], known: dict[str, _Now], reader: InputReader, pool: Executor
) -> None:
    """Read the pictures that no earlier image was made from."""
    new = {each["url"]: each["role"] for _, each in _inputs(rows) if each["url"] not in known}

    def read(url: str) -> _Now:
        try:
            data = reader.read(PlannedInput(new[url], url))
        except (InputError, StoreDenied) as error:
            return _Now(None, str(error))
        return _Now(hashlib.sha256(data).hexdigest())

    known |= dict(zip(new, pool.map(read, new), strict=True))


def _differences(rows: list[dict[str, Any]], known: Mapping[str, _Now]) -> Iterator[InputFinding]:
    for image_id, each in _inputs(rows):
        now = known[each["url"]]
        if now.sha256 != each["sha256"]:
            yield InputFinding(
                image_id, each["role"], each["url"], each["sha256"], now.sha256, now.error
            )
