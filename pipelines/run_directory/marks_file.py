"""`review/marks.parquet`: the merged marks of a run, derived from their objects.

It says which objects it has, so that a reader needs to read only those that came later. It decides
nothing: where it is missing, damaged or names an object that has gone, all objects are read.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.pipelines.errors import MarksError
from nightpress.pipelines.run_directory.marks import Mark
from nightpress.pipelines.storage import Store

MARKS_FILE = "review/marks.parquet"

FORMAT_VERSION = 1

CONTENT = b"nightpress.marks"
"""Key in the schema's metadata: the run and the objects that were read, as JSON."""

MARKS_SCHEMA = pa.schema(
    [
        pa.field("reviewer", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("counter", pa.int64(), nullable=False),
        pa.field("session", pa.string(), nullable=False),
        pa.field("n", pa.int32(), nullable=False),
        pa.field("current", pa.bool_(), nullable=False),
    ]
)
"""One row for each mark that counts.

`value` is text for every field, stars as `0` to `5`. `current` says whether the image still has the
bytes that were marked; if not, it was made again since.
"""


@dataclass(frozen=True, slots=True)
class CountedMark:
    """A mark that counts, and where it comes from."""

    reviewer: str
    mark: Mark
    session: str
    n: int

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is about; of the marks with one key one counts."""
        return self.reviewer, self.mark.image_id, self.mark.sha256, self.mark.field

    @property
    def order(self) -> tuple[int, str, int]:
        """Sort key: of the marks with one key, the highest counts."""
        return self.mark.counter, self.session, self.n


@dataclass(frozen=True)
class RecalledMarks:
    """The content of the file."""

    marks: Sequence[CountedMark]
    objects: Collection[str]
    """Paths of the objects that were merged."""
    problems: Mapping[str, str]
    """Path of an object that is ignored -> what is wrong with it."""


def marks_table(marks: Sequence[CountedMark], current: Mapping[str, str]) -> pa.Table:
    """Marks as MARKS_SCHEMA, in the given order.

    Args:
        marks: the marks that count.
        current: image id -> SHA-256 of its file now.
    """
    columns = {
        "reviewer": [each.reviewer for each in marks],
        "image_id": [each.mark.image_id for each in marks],
        "sha256": [each.mark.sha256 for each in marks],
        "field": [each.mark.field for each in marks],
        "value": [str(each.mark.value) for each in marks],
        "counter": [each.mark.counter for each in marks],
        "session": [each.session for each in marks],
        "n": [each.n for each in marks],
        "current": [current.get(each.mark.image_id) == each.mark.sha256 for each in marks],
    }
    return pa.table(columns, schema=MARKS_SCHEMA)


def write_marks_file(
    store: Store, run: str, content: RecalledMarks, current: Mapping[str, str]
) -> None:
    """Write the file, replacing an older one.

    Args:
        run: the run's fingerprint at its start.
        current: image id -> SHA-256 of its file now.

    Raises:
        StoreError: the store failed.
    """
    values = {
        "format_version": FORMAT_VERSION,
        "run": run,
        "objects": sorted(content.objects),
        "problems": dict(content.problems),
    }
    table = marks_table(content.marks, current)
    table = table.replace_schema_metadata({CONTENT: json.dumps(values, ensure_ascii=False)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    store.put(MARKS_FILE, sink.getvalue().to_pybytes())


def recall_marks(store: Store, run: str) -> RecalledMarks | None:
    """Read the file; None if there is none, or it cannot be used.

    Raises:
        StoreError: the store failed.
    """
    data = store.read_if_any(MARKS_FILE)
    if data is None:
        return None
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        values = json.loads((table.schema.metadata or {})[CONTENT])
        if (values["format_version"], values["run"]) != (FORMAT_VERSION, run):
            return None
        marks = [_counted(row) for row in table.select(MARKS_SCHEMA.names).to_pylist()]
        return RecalledMarks(marks, frozenset(values["objects"]), dict(values["problems"]))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MarksError):
        return None


def _counted(row: Mapping[str, object]) -> CountedMark:
    value = int(str(row["value"])) if row["field"] == "stars" else row["value"]
    names = ("image_id", "sha256", "field", "counter")
    mark = Mark.from_dict({**{name: row[name] for name in names}, "value": value}, "mark")
    return CountedMark(str(row["reviewer"]), mark, str(row["session"]), int(str(row["n"])))
