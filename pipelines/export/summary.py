"""`summary.json`: what a finished export holds; written last, and taken away while it changes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Self

from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.export.sources import ExportSource
from nightpress.pipelines.job.spec import canonical_json
from nightpress.pipelines.run_directory.json_files import json_file, what_is_wrong
from nightpress.pipelines.storage import Store

SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class ExportSummary:
    """What a finished export holds."""

    num_images: Mapping[str, int]
    """Split -> images."""
    num_dropped: Mapping[str, int]
    """Reason -> images."""
    num_bytes: int
    num_objects: int
    """Files or objects with images."""
    commits: str
    """A hash of the commits, late scores and selections that it was made of; see `state_of`."""
    index: str
    """A hash of the names of its index objects; see `index_hash`."""
    finished_at: str
    """UTC, ISO 8601."""
    num_rows_apart: int = 0
    """In the layout preference, rows of the manifests that gave no pair because their images are in
    several shards."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path -> SHA-256 of the files beside the parts; none in exports of older versions."""

    @property
    def total(self) -> int:
        """Images in all splits."""
        return sum(self.num_images.values())

    def to_json(self) -> bytes:
        """As written to `summary.json`."""
        return json_file(asdict(self))

    @classmethod
    def from_json(cls, data: bytes, url: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            Damaged: it is no summary.
        """
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise Damaged(
                f"{url}/{SUMMARY_FILE}: damaged ({what_is_wrong(error)}); delete it, and "
                "nightpress export writes it again"
            ) from error


def read_summary_file(store: Store) -> ExportSummary | None:
    """The summary of an export; None if it is not finished.

    Raises:
        Damaged: it is not what was written.
    """
    data = store.read_if_any(SUMMARY_FILE)
    return None if data is None else ExportSummary.from_json(data, store.url)


def state_of(sources: Sequence[ExportSource]) -> str:
    """A hash of the commits of some runs, by their sizes, their late scores and selections."""
    state = [
        [
            sorted(each.sizes.items()),
            None if each.selection is None else each.selection.sha256,
            sorted(part.path for part in each.late.values()),
            *([sorted(each.vectors)] if each.vectors else []),
        ]
        for each in sources
    ]
    return sha256(canonical_json(state).encode()).hexdigest()


def index_hash(paths: Iterable[str]) -> str:
    """A hash of the names of some index objects."""
    return sha256("\n".join(sorted(paths)).encode()).hexdigest()


def now_utc() -> str:
    """The time, as JSON files have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
