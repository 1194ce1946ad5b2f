"""Editions: what each growth of a run's manifest has added to the run, in `editions/`.

An edition is one JSON file, created last and only once, beside the Parquet files that it names. Of
two processes that extend a run at once, one creates it and the other reads it.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged, UnsupportedFormat
from nightpress.pipelines.job.spec import canonical_json
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.planning import PlanLayout
from nightpress.pipelines.planning.growth_summary import DETAILS, Earlier, GrowthSummary
from nightpress.pipelines.planning.layout import files_as_dict, files_from_dict
from nightpress.pipelines.run_directory.json_files import checked_time, json_file, what_is_wrong
from nightpress.pipelines.storage import READ_THREADS, Store

EDITIONS_FOLDER = "editions"

FORMAT_VERSION = 1
"""Format of an edition. It changes when older versions could not read it."""

_EDITION_FILE = re.compile(r"editions/(\d{4,})\.json")


@dataclass(frozen=True)
class Edition:
    """What one growth of the manifest added to a run."""

    number: int
    """From 1; the run as it began is edition 0."""
    created_at: str
    """UTC, ISO 8601."""
    by: str
    """Who extended the run: `user@host, process 123, since ...`."""
    changed: str
    """What was done with changed images: `refuse` (there were none) or `new-variant`; `again` if
    images were made again and the manifest did not grow."""
    summary: GrowthSummary
    """How the manifest has grown; what came are the new images, if images were made again."""
    manifest: tuple[ManifestFile, ...]
    """The files of the whole manifest as it was then."""
    layout: PlanLayout | None
    """The plan of the images that were added, with numbers from 0; None if there are none."""
    details: str | None = None
    """Path of the Parquet file with what became of single images, DETAILS; None if nothing did."""
    again: Mapping[str, Any] | None = None
    """What was asked for, if images were made again; the manifest is as it was then."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest and of the rows that were added."""
        added = () if self.layout is None else self.layout.files
        identity = {
            "number": self.number,
            "manifest": [file.identity for file in self.manifest],
            "rows": [file.identity for file in added],
        }
        return sha256(canonical_json(identity).encode()).hexdigest()

    def to_json(self) -> bytes:
        """As written to `editions/0001.json`."""
        values = {
            "format_version": FORMAT_VERSION,
            "number": self.number,
            "created_at": self.created_at,
            "by": self.by,
            "changed": self.changed,
            "images": self.summary.as_dict(),
            "details": self.details,
            "manifest": files_as_dict(self.manifest),
            "plan": None if self.layout is None else self.layout.as_dict(),
        }
        return json_file(values if self.again is None else values | {"again": self.again})

    @classmethod
    def from_json(cls, data: bytes, store: Store, path: str) -> Self:
        """The inverse of `to_json`; the files of its rows are those of this run directory.

        Raises:
            UnsupportedFormat: the edition was written in a newer format.
            Damaged: this is no edition.
        """
        url = f"{store.url}/{path}"
        try:
            values = json.loads(data)
            if values["format_version"] > FORMAT_VERSION:
                raise UnsupportedFormat(
                    f"{url}: this edition was written in format {values['format_version']}; this "
                    f"nightpress reads up to format {FORMAT_VERSION}. Upgrade nightpress."
                )
            return cls._from_values(values, store)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Damaged(f"{url}: not an edition of a run: {what_is_wrong(error)}") from error

    @classmethod
    def _from_values(cls, values: dict[str, Any], store: Store) -> Self:
        plan = values["plan"]
        return cls(
            number=values["number"],
            created_at=checked_time(values["created_at"]),
            by=values["by"],
            changed=values["changed"],
            summary=GrowthSummary.from_dict(values["images"]),
            manifest=files_from_dict(values["manifest"]),
            layout=None if plan is None else _here(PlanLayout.from_dict(plan), store),
            details=values["details"],
            again=values.get("again"),
        )


def _here(layout: PlanLayout, store: Store) -> PlanLayout:
    """The layout with its files where the run directory lies now."""
    files = tuple(
        replace(file, url=f"{store.url}/{EDITIONS_FOLDER}/{file.url.rpartition('/')[2]}")
        for file in layout.files
    )
    return replace(layout, files=files)


def edition_path(number: int) -> str:
    """`editions/0001.json`."""
    return f"{EDITIONS_FOLDER}/{number:04d}.json"


def read_editions(store: Store) -> tuple[Edition, ...]:
    """The editions of a run, in order; one listing and one request for each.

    Raises:
        Damaged: one of them is missing or cannot be read.
        UnsupportedFormat: one was written in a newer format.
    """
    paths = [path for path in store.list(EDITIONS_FOLDER) if _EDITION_FILE.fullmatch(path)]
    if not paths:
        return ()
    with ThreadPoolExecutor(READ_THREADS) as pool:
        contents = list(pool.map(store.read, paths))
    pairs = zip(contents, paths, strict=True)
    editions = sorted(
        (Edition.from_json(data, store, path) for data, path in pairs), key=lambda one: one.number
    )
    for number, edition in enumerate(editions, start=1):
        if edition.number != number:
            raise Damaged(f"{store.url}/{edition_path(number)}: this edition is missing")
    return tuple(editions)


def num_editions(store: Store) -> int:
    """How many editions a run has, from one listing."""
    return sum(1 for path in store.list(EDITIONS_FOLDER) if _EDITION_FILE.fullmatch(path))


def create_edition(store: Store, edition: Edition) -> Edition:
    """Write an edition; if another process was faster, returns the one that it wrote."""
    path = edition_path(edition.number)
    if store.create(path, edition.to_json()):
        return edition
    return Edition.from_json(store.read(path), store, path)


def keep_details(store: Store, number: int, details: pa.Table) -> str | None:
    """Write what became of single images; returns the path, or None if nothing did."""
    if not len(details):
        return None
    sink = io.BytesIO()
    pq.write_table(details, sink, write_page_checksum=True)
    data = sink.getvalue()
    path = f"{EDITIONS_FOLDER}/{number:04d}-images-{sha256(data).hexdigest()[:16]}.parquet"
    store.create(path, data)
    return path


def read_details(store: Store, edition: Edition) -> pa.Table:
    """What became of single images when a run was extended: DETAILS.

    Raises:
        Damaged: the file is not what was written.
        StoreError: it cannot be read.
    """
    if edition.details is None:
        return DETAILS.empty_table()
    data = pa.BufferReader(store.read(edition.details))
    try:
        return pq.read_table(data, schema=DETAILS, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        where = f"{store.url}/{edition.details}"
        raise Damaged(f"{where}: damaged: {one_line(error, 200)}") from error


def earlier_editions(store: Store, editions: Sequence[Edition]) -> Earlier:
    """What all editions of a run, oldest first, say of single images."""
    made_as: list[tuple[str, str]] = []
    gone: set[str] = set()
    again: set[str] = set()
    for edition in editions:
        details = read_details(store, edition)
        made = details.filter(details.column("made_as").is_valid())
        columns = (made.column(name).to_pylist() for name in ("image_id", "made_as"))
        made_as += zip(*columns, strict=True)
        gone |= _ids_of(details, "went")
        gone -= _ids_of(details, "back")
        again |= _ids_of(details, "again")
    return Earlier(tuple(made_as), frozenset(gone), frozenset(again))


def _ids_of(details: pa.Table, what: str) -> set[str]:
    chosen = details.filter(pc.equal(details.column("what"), what))
    return set(chosen.column("image_id").to_pylist())
