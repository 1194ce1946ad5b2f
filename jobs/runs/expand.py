"""`expand`: what a campaign stands for, counted, shown, written out or compared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nightpress.pipelines.campaign.combining import MAX_ROWS
from nightpress.pipelines.campaign.compiled import num_texts, varies
from nightpress.pipelines.campaign.drawing import MARK_END, MARK_START
from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.manifest.campaigns import load_campaign
from nightpress.pipelines.manifest.expansion import (
    OUTPUT_SUFFIXES,
    ManifestDifference,
    compare_rows,
    write_rows,
)
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.manifest.files import campaign_file, load_table, scan
from nightpress.pipelines.manifest.formats import CAMPAIGN_SUFFIXES, is_campaign, manifest_files
from nightpress.pipelines.storage import Options, Source, find


@dataclass(frozen=True)
class Counts:
    """How many rows a campaign has, and why."""

    axes: Mapping[str, int]
    """Axis -> how many values it has."""
    num_combinations: int
    """Of all axes, or of those that are zipped in step."""
    num_allowed: int
    """Combinations that the rules of the kind `forbid` leave."""
    num_rows: int
    """Rows that are drawn, and left by rules about their text and by `duplicates`."""
    is_too_large: bool
    """Whether those are more than a manifest may have, so that fewer must be drawn."""
    num_without_text: int
    num_repeated: int
    """Rows that were left out by a rule about their text, and as duplicates."""
    texts: Mapping[str, int]
    """Column -> the texts that its template can draw for one combination; equal texts that are
    drawn in different ways count as often."""


@dataclass(frozen=True)
class DrawnText:
    """A text in pieces, each with whether it was drawn."""

    pieces: tuple[tuple[str, bool], ...]

    def __str__(self) -> str:
        return "".join(text for text, _ in self.pieces)


class Expansion:
    """The rows of a campaign."""

    def __init__(self, source: Source, storage: Options) -> None:
        self._source, self._storage = source, storage
        self._loaded = load_campaign(source.url, storage, load_table)

    @property
    def url(self) -> str:
        """URL of the campaign."""
        return self._source.url

    @property
    def sha256(self) -> str:
        """SHA-256 of the campaign and all that its rows depend on, hexadecimal."""
        return self._loaded.sha256

    @property
    def num_rows(self) -> int:
        """How many rows there are.

        Raises:
            ManifestError: more than a manifest may have.
        """
        return self._loaded.rows.num_rows

    def counts(self) -> Counts:
        """Count the rows; nothing is expanded unless a rule looks at texts."""
        campaign, rows = self._loaded.campaign, self._loaded.rows
        is_expandable = campaign.combinations.size <= MAX_ROWS or campaign.spec.draw.rows != "all"
        remaining = rows.remaining if is_expandable else None
        return Counts(
            axes={axis.name: len(axis) for axis in campaign.axes},
            num_combinations=campaign.combinations.num_combinations,
            num_allowed=campaign.combinations.size,
            num_rows=rows.num_rows if is_expandable else campaign.combinations.size,
            is_too_large=not is_expandable,
            num_without_text=0 if remaining is None else remaining.num_without_text,
            num_repeated=0 if remaining is None else remaining.num_repeated,
            texts={
                name: number
                for name, compiled in campaign.templates.texts.items()
                if (number := num_texts(compiled)) > 1
            },
        )

    def show(self, num_rows: int) -> Iterator[tuple[str, Mapping[str, DrawnText]]]:
        """The first rows: each one's id, prompt and other texts that vary."""
        campaign = self._loaded.campaign
        columns = [n for n, parts in campaign.templates.texts.items() if varies(parts)]
        columns = ["prompt", *(name for name in columns if name != "prompt")]
        table = self._loaded.rows.marked(0, num_rows)
        for row in table.select(["id", *columns]).to_pylist():
            yield row["id"], {name: _pieces(row[name]) for name in columns}

    def file(self) -> ManifestFile:
        """The campaign as a manifest, after a look at its rows."""
        return campaign_file(self._source, self._storage, self._loaded)

    def write(self, output: str) -> int:
        """Write all rows into a new file; returns how many.

        Raises:
            ValueError: the output's suffix names no format.
            StoreError: something is there already, or it cannot be written.
        """
        if not output.lower().endswith(OUTPUT_SUFFIXES):
            raise ValueError(f"{output}: the name must end in one of {' '.join(OUTPUT_SUFFIXES)}")
        file = self.file()
        write_rows(file, output, self._storage)
        return file.num_rows

    def compare(self, old: str) -> ManifestDifference:
        """How the rows differ from those of another manifest, of any format."""
        return compare_rows(_scanned(old, self._storage), [self.file()], self._storage)


def expand(source: str, *, storage: Mapping[str, Any] | None = None) -> Expansion:
    """Open a campaign to count, show, write or compare its rows.

    Args:
        source: path or URL of the campaign file.
        storage: fsspec options by protocol.

    Raises:
        ManifestError: it is no campaign, or it cannot be used.
        StoreError: something cannot be read.
    """
    if not is_campaign(source):
        message = f"not a campaign; its name must end in {CAMPAIGN_SUFFIXES[0]}"
        raise ManifestError([Problem(source, None, None, message)])
    options = storage or {}
    (found,) = find([source], options)
    return Expansion(found, options)


def _scanned(url: str, options: Options) -> Sequence[ManifestFile]:
    return [scan(source, options) for source in manifest_files(url, find([url], options))]


def _pieces(text: str) -> DrawnText:
    """Split a text at the marks around what was drawn."""
    pieces: list[tuple[str, bool]] = []
    for number, part in enumerate(text.split(MARK_START)):
        drawn, mark, rest = part.partition(MARK_END)
        if number and mark:
            pieces += [(drawn, True), (rest, False)]
        else:
            pieces.append((part, False))
    return DrawnText(tuple(_trimmed(pieces)))


def _trimmed(pieces: Sequence[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """The pieces without the blanks at the ends of the text; what is drawn stays, even if empty."""
    text = "".join(piece for piece, _ in pieces)
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    start = 0
    for piece, is_drawn in pieces:
        kept = piece[max(0, first - start) : max(0, last - start)]
        start += len(piece)
        if kept or is_drawn:
            yield kept, is_drawn
