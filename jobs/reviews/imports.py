"""`review --import`: the marks that a page without a server has saved."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from nightpress.jobs.runs.shared import OnEvent, create_only_store, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.errors import MarksError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.run_directory.marks import (
    MAX_MARKS,
    Mark,
    MarksObject,
    checked_reviewer,
    parsed_json,
    require_same_run,
    store_marks,
)
from nightpress.pipelines.run_directory.marks_merge import MergedMarks
from nightpress.pipelines.storage import Options, Store
from nightpress.pipelines.storage.limited import read_limited

FORMAT = 1

MOST_BYTES = 256 << 20
"""Largest file of marks in bytes; a million marks take about 200 MB."""


@dataclass(frozen=True)
class MarksImported:
    """What became of the marks of a file."""

    url: str
    """URL of the run."""
    reviewer: str
    num_marks: int
    num_stored: int
    """Marks that were new; the others were known, or have been replaced since."""
    num_changed: int
    """Marks on images that were made again since; they are kept, and are not current."""


def import_marks(
    target: ImageTarget,
    file: str,
    on_event: OnEvent = ignore,
    *,
    storage: Options | None = None,
) -> MarksImported:
    """Store the marks of a file that a page without a server has saved.

    The same file may be imported again, and after an interruption: no mark is stored twice.

    Args:
        target, storage: as for `status`.
        file: path or URL of the file.
        on_event: called with warnings.

    Raises:
        MarksError: it is no file with marks, is of another run, or marks images that the run does
            not have; nothing was stored.
        RunNotFound, StoreError: as for `status`.
    """
    run = open_images(target, storage)
    data = read_limited(file, {**run.store.options, **(storage or {})}, MOST_BYTES)
    fingerprint, hashes = run.record.fingerprint_at_first, run.hashes()
    try:
        reviewer, marks = _checked(data, fingerprint)
        _require_images(marks, hashes)
    except MarksError as error:
        raise MarksError(f"{file}: {error}") from error
    store = create_only_store(run.store, on_event)
    merged = MergedMarks(store, fingerprint)
    merged.refresh()
    num_stored = _store(store, reviewer, marks, merged)
    if merged.seen:
        merged.write(hashes)
    num_changed = sum(hashes[mark.image_id] != mark.sha256 for mark in marks)
    return MarksImported(run.url, reviewer, len(marks), num_stored, num_changed)


def _store(store: Store, reviewer: str, marks: Sequence[Mark], merged: MergedMarks) -> int:
    """Store the marks that are new, and merge them; returns how many there were."""
    new, num_stored = [mark for mark in marks if _is_new(mark, reviewer, merged)], 0
    for found in _objects(new, reviewer, merged.run):
        if found.path in merged.seen:
            continue
        if not store_marks(store, found):
            raise MarksError(f"{store.url}/{found.path} is damaged; delete it and try again")
        merged.add(found)
        num_stored += len(found.marks)
    return num_stored


def _checked(data: bytes, run: str) -> tuple[str, list[Mark]]:
    """The reviewer and the marks of a file."""
    if len(data) > MOST_BYTES:
        raise MarksError(f"larger than {MOST_BYTES:,} bytes")
    values = parsed_json(data)
    version, marks = values.get("format"), values.get("marks")
    if version is None or not isinstance(marks, list):
        raise MarksError(
            "not a file with marks: it has no format and no list marks; the page saves such a file"
        )
    if version != FORMAT:
        raise MarksError(f"it has format {version!r}; this nightpress reads format {FORMAT}")
    require_same_run(values.get("run"), run)
    reviewer = values.get("reviewer")
    if not isinstance(reviewer, str):
        raise MarksError("reviewer: must be a text")
    return checked_reviewer(reviewer), [
        Mark.from_dict(each, f"mark {number}") for number, each in enumerate(marks, start=1)
    ]


def _require_images(marks: Sequence[Mark], hashes: Mapping[str, str]) -> None:
    unknown = [mark.image_id for mark in marks if mark.image_id not in hashes]
    if unknown:
        distinct = list(dict.fromkeys(unknown))
        images = plural(len(distinct), "image")
        raise MarksError(f"it marks {images} that the run does not have, such as {distinct[0]!a}")


def _is_new(mark: Mark, reviewer: str, merged: MergedMarks) -> bool:
    known = merged.counted.get((reviewer, mark.image_id, mark.sha256, mark.field))
    if known is None or known.mark.counter < mark.counter:
        return True
    return known.mark.counter == mark.counter and known.mark.value != mark.value


def _objects(marks: Sequence[Mark], reviewer: str, run: str) -> list[MarksObject]:
    """Marks in objects whose names their content decides, so that they are stored once."""
    text = json.dumps([asdict(mark) for mark in marks], sort_keys=True)
    session = f"import-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
    return [
        MarksObject(run, reviewer, session, n, tuple(marks[start : start + MAX_MARKS]))
        for n, start in enumerate(range(0, len(marks), MAX_MARKS))
    ]
