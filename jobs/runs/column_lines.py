"""What the manifest's columns are read as, in words."""

from collections.abc import Iterator, Sequence

from nightpress.jobs.progress.events import Message
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import ColumnUse, column_uses
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.storage.urls import public


def notes_of(files: Sequence[ManifestFile]) -> Iterator[str]:
    """What a person should know of campaigns that were just scanned: what they left out."""
    for file in files:
        for note in file.notes:
            yield f"{public(file.url)}: {note}"


def settings_line(uses: Sequence[ColumnUse]) -> str:
    """The columns that are settings, such as `prompt, width (column w)`."""
    return ", ".join(
        setting if setting == use.name else f"{setting} (column {use.name})"
        for use in uses
        for setting in use.settings
    )


def carried_line(uses: Sequence[ColumnUse]) -> str:
    """The columns that are only copied, such as `scene, seed (as seed_)`; empty if none is."""
    return ", ".join(
        (use.name if use.stored_as == use.name else f"{use.name} (as {use.stored_as})")
        + (f" ({use.note})" if use.note else "")
        for use in uses
        if use.stored_as is not None
    )


def near_misses(uses: Sequence[ColumnUse]) -> Iterator[str]:
    """One line for each carried column that was probably meant to be a setting."""
    for use in uses:
        if len(use.did_you_mean) == 1:
            (setting,) = use.did_you_mean
            yield (
                f"column {use.name!r} is carried and changes no image; did you mean {setting}? "
                f"`columns: {{{setting}: {use.name}}}` in the job file uses it, "
                f"{{{setting}: null}} leaves it as it is"
            )
        elif use.did_you_mean:
            yield (
                f"column {use.name!r} is carried and changes no image; did you mean "
                f"{' and '.join(use.did_you_mean)}? Give them in columns of their own"
            )


def column_messages(spec: RunSpec, files: Sequence[ManifestFile]) -> Iterator[Message]:
    """The same as events of a run, after what scanning noted; near misses are warnings."""
    for note in notes_of(files):
        yield Message(note)
    uses = column_uses(spec, files)
    yield Message(f"reads the columns: {settings_line(uses)}")
    carried = carried_line(uses)
    if carried:
        yield Message(f"carries the columns: {carried}")
    for line in near_misses(uses):
        yield Message(line, warning=True)
