"""`selections/<name>.parquet`: a selection as it is stored, created once and never changed."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged, SelectionNotFound, SpecError, UnsupportedFormat
from nightpress.pipelines.run_directory.json_files import checked_time, what_is_wrong
from nightpress.pipelines.run_directory.selections.request import SelectionRequest, checked_name
from nightpress.pipelines.storage import Store

SELECTIONS_FOLDER = "selections"

FORMAT_VERSION = 2
"""Format of a selection. It changes when older versions could not read it: version 2 has found
duplicates by embeddings, and other selections are still written in version 1."""

SELECTION_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
    ]
)
"""One row per chosen image, from rank 1; `sha256` is that of its file when it was chosen."""

REASONS = b"nightpress.selection"
"""Key in the schema's metadata: everything about a selection but its images, as JSON."""

_FILE = re.compile(r"selections/([^/]+)\.parquet")


@dataclass(frozen=True)
class Drop:
    """Images that were not chosen, for one reason."""

    reason: str
    num_images: int
    examples: tuple[str, ...]
    """The ids of a few of them."""


@dataclass(frozen=True)
class Selection:
    """Which images of a run were chosen, and for what reasons the others were not."""

    name: str
    created_at: str
    """UTC, ISO 8601."""
    request: SelectionRequest
    images: pa.Table
    """The chosen images, SELECTION_SCHEMA, in the order of their ranks."""
    num_images: int
    """Images of the run's plan."""
    num_committed: int
    """Images that were committed when it was made; the others could not be chosen."""
    drops: tuple[Drop, ...]
    """Images that were not chosen, by reason; together with the chosen ones all committed ones."""
    commits: Mapping[int, str]
    """Shard -> SHA-256 of the commit that was read."""
    late_scores: Mapping[int, str]
    """Shard -> path of the part with late scores that was read, for shards that have one."""
    duplicates: str | None = None
    """Path of the list of images that were left out as duplicates; see `read_duplicates`."""

    @property
    def num_chosen(self) -> int:
        """Images that were chosen."""
        return len(self.images)

    def is_same_choice(self, other: "Selection") -> bool:
        """Whether the other one is the same in all but the time when it was made."""
        mine, theirs = (
            replace(each, created_at="", images=None, duplicates=None) for each in (self, other)
        )
        return mine == theirs and bool(self.images.equals(other.images))

    def to_parquet(self) -> bytes:
        """As written to `selections/<name>.parquet`."""
        values = {
            "format_version": FORMAT_VERSION if self.request.dedup == "embeddings" else 1,
            "name": self.name,
            "created_at": self.created_at,
            "request": self.request.as_dict(),
            "num_images": self.num_images,
            "num_committed": self.num_committed,
            "num_chosen": self.num_chosen,
            "drops": [asdict(drop) for drop in self.drops],
            "commits": {str(shard): sha256 for shard, sha256 in self.commits.items()},
            "late_scores": {str(shard): path for shard, path in self.late_scores.items()},
            "duplicates": self.duplicates,
        }
        reasons = json.dumps(values, ensure_ascii=False).encode()
        sink = pa.BufferOutputStream()
        table = self.images.replace_schema_metadata({REASONS: reasons})
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        data: bytes = sink.getvalue().to_pybytes()
        return data

    @classmethod
    def from_parquet(cls, data: bytes, url: str) -> Self:
        """The inverse of `to_parquet`.

        Args:
            url: where it lies, for messages.

        Raises:
            UnsupportedFormat: it was written in a newer format.
            Damaged: this is no selection.
        """
        with _errors_as_damaged(url), _opened(data) as file:
            values = _reasons(file, url)
            images = pa.Table.from_batches(_batches(file), SELECTION_SCHEMA)
            return cls._from_values(values, images)

    @classmethod
    def _from_values(cls, values: dict[str, Any], images: pa.Table) -> Self:
        return cls(
            name=values["name"],
            created_at=checked_time(values["created_at"]),
            request=SelectionRequest.from_dict(values["request"]),
            images=images,
            num_images=values["num_images"],
            num_committed=values["num_committed"],
            drops=tuple(
                Drop(each["reason"], each["num_images"], tuple(each["examples"]))
                for each in values["drops"]
            ),
            commits={int(shard): sha256 for shard, sha256 in values["commits"].items()},
            late_scores={int(shard): path for shard, path in values["late_scores"].items()},
            duplicates=values.get("duplicates"),  # older versions had none
        )


def chosen_images(data: bytes, url: str) -> Iterator[pa.RecordBatch]:
    """The images of a selection in SELECTION_SCHEMA, some at a time, for selections of millions.

    Args:
        data: the object of the selection.
        url: where it lies, for messages.

    Raises:
        UnsupportedFormat, Damaged: as `Selection.from_parquet` does.
    """
    with _errors_as_damaged(url), _opened(data) as file:
        _reasons(file, url)
        yield from _batches(file)


@contextmanager
def _errors_as_damaged(url: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{url}: not a selection: {one_line(error, 200)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{url}: not a selection: {what_is_wrong(error)}") from error


def _opened(data: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)


def _reasons(file: pq.ParquetFile, url: str) -> dict[str, Any]:
    """What the file says beside its images, in a format that this version reads."""
    values: dict[str, Any] = json.loads((file.schema_arrow.metadata or {})[REASONS])
    if values["format_version"] > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{url}: this selection was written in format {values['format_version']}; this "
            f"nightpress reads up to format {FORMAT_VERSION}. Upgrade nightpress."
        )
    return values


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    for batch in file.iter_batches():
        columns = [batch.column(f.name).cast(f.type) for f in SELECTION_SCHEMA]
        yield pa.RecordBatch.from_arrays(columns, schema=SELECTION_SCHEMA)


def selection_path(name: str) -> str:
    """`selections/best.parquet`."""
    return f"{SELECTIONS_FOLDER}/{checked_name(name)}.parquet"


def selection_names(store: Store) -> tuple[str, ...]:
    """The names of a run's selections, in alphabetical order; one listing."""
    found = (_FILE.fullmatch(path) for path in store.list(SELECTIONS_FOLDER))
    return tuple(sorted(match.group(1) for match in found if match))


def read_selection_if_any(store: Store, name: str) -> Selection | None:
    """A selection; None if there is none of that name.

    Raises:
        SpecError: no selection can have that name.
        Damaged: the object is no selection.
        StoreError: it cannot be read.
    """
    path = selection_path(name)
    data = store.read_if_any(path)
    return None if data is None else Selection.from_parquet(data, f"{store.url}/{path}")


def read_selection(store: Store, name: str) -> Selection:
    """A selection.

    Raises:
        SelectionNotFound, SpecError, StoreError: as for `selection_data`.
        Damaged: the object is no selection.
    """
    return Selection.from_parquet(
        selection_data(store, name), f"{store.url}/{selection_path(name)}"
    )


def selection_data(store: Store, name: str) -> bytes:
    """The object of a selection.

    Raises:
        SelectionNotFound: there is none of that name; the message names those that there are.
        SpecError: no selection can have that name.
        StoreError: it cannot be read.
    """
    data = store.read_if_any(selection_path(name))
    if data is None:
        names = selection_names(store)
        known = f"its selections are: {', '.join(names)}" if names else "it has none"
        raise SelectionNotFound(f"{store.url}: no selection {name!r}; {known}")
    return data


def create_selection(store: Store, selection: Selection) -> Selection:
    """Write a selection; returns the stored one, which is another only in when it was made.

    Raises:
        SpecError: there is another selection of that name; nothing was written.
        StoreError: it cannot be written.
    """
    if store.create(selection_path(selection.name), selection.to_parquet()):
        return selection
    return require_same(store, selection, read_selection(store, selection.name))


def require_same(store: Store, selection: Selection, stored: Selection) -> Selection:
    """The stored selection, if it is the same choice.

    Raises:
        SpecError: it is another.
    """
    if stored.is_same_choice(selection):
        return stored
    differs = (
        "was asked for something else"
        if stored.request != selection.request
        else "chose from other commits or scores"
    )
    raise SpecError(
        f"{store.url}/{selection_path(selection.name)} exists and {differs} (at "
        f"{stored.created_at}); a selection is never changed: choose another name"
    )
