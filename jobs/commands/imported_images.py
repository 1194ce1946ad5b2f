"""What `nightpress import` prints about images that it has imported."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.importing.importer import ImportedImages, NotRead
from nightpress.pipelines.image_files.importing.made_image import NoteKind
from nightpress.pipelines.storage.urls import public

HEADINGS: dict[NoteKind, str] = {"left out": "left out", "differs": "carried over, but differs"}

MOST_LINES = 20
"""How many lines of one kind are printed; the notes have all."""

MOST_FILES = 3


def image_lines(imported: ImportedImages) -> Iterator[str]:
    """What could not be carried over, and what was written."""
    for kind, heading in HEADINGS.items():
        yield from _section(heading, _told(imported, kind))
    yield from _section("not read", list(map(str, imported.not_read)))
    yield from _section("passed over", list(map(str, imported.passed_over)))
    for each in imported.manifests:
        model = "" if each.model == "builtin" else f" (model: {each.model})"
        rows = plural(each.num_rows, "row")
        yield f"wrote {public(each.manifest)}, {rows}, and {public(each.job)}{model}"
    if imported.notes:
        yield f"wrote {public(imported.notes)}, what is said above for every file"
    yield f"next: nightpress plan {public(imported.manifests[0].job)}"


def _section(heading: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"{heading}:"
        yield from (f"  {line}" for line in lines[:MOST_LINES])
        if len(lines) > MOST_LINES:
            yield f"  ... and {len(lines) - MOST_LINES:,} more"


def _told(imported: ImportedImages, kind: NoteKind) -> list[str]:
    """A line for each different note, with the files that it is about; the most frequent first."""
    files: dict[str, list[str]] = {}
    for image in imported.images:
        for note in image.notes:
            if note.kind == kind:
                text = f"{note.what}: {note.detail}"
                files.setdefault(text, []).append(public(image.file).rpartition("/")[2])
    ordered = sorted(files.items(), key=lambda item: -len(item[1]))
    return [f"{text} ({_names(names)})" for text, names in ordered]


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_FILES])
    more = len(names) - MOST_FILES
    return shown if more <= 0 else f"{shown} and {more:,} more"


def image_values(imported: ImportedImages) -> dict[str, Any]:
    """The result as JSON values."""

    def files(some: Sequence[NotRead]) -> list[dict[str, Any]]:
        return [{"file": public(each.file), "reason": each.reason} for each in some]

    return {
        "num_rows": imported.num_rows,
        "manifests": [asdict(each) for each in imported.manifests],
        "images": [asdict(each) | {"file": public(each.file)} for each in imported.images],
        "not_read": files(imported.not_read),
        "passed_over": files(imported.passed_over),
        "notes": imported.notes,
    }
