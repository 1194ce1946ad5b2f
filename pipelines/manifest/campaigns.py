"""Campaign files as manifests: load one with its lists and tables, and make any range of its rows.

A campaign's SHA-256 covers the file itself and every list and table that its rows depend on, but
not where they are stored.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from nightpress.pipelines.campaign.axes import AxisTable
from nightpress.pipelines.campaign.campaign import Campaign
from nightpress.pipelines.campaign.lists import WordLists, load_lists
from nightpress.pipelines.campaign.places import Places
from nightpress.pipelines.campaign.reading import build, read_spec
from nightpress.pipelines.campaign.rows import CampaignRows
from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.settings import SETTING_COLUMNS
from nightpress.pipelines.manifest.file_records import Block
from nightpress.pipelines.manifest.same_bytes import changed_error
from nightpress.pipelines.manifest.similar_names import likely_settings
from nightpress.pipelines.manifest.text_scan import FileScan
from nightpress.pipelines.storage import Options, is_url, open_source
from nightpress.pipelines.storage.urls import absolute

BLOCK_ROWS = 16_384
"""How many rows are made at once."""

SAMPLE_ROWS = 256
"""How many rows are made to estimate their size."""

MAX_FILE_BYTES = 16 << 20
"""The largest campaign file that is read."""

MOST_KEPT = 4
"""How many loaded campaigns a process keeps."""


@dataclass(frozen=True)
class LoadedTable:
    """A table that an axis is made from, and the SHA-256 of its file."""

    table: AxisTable
    sha256: str


LoadTable = Callable[[str, Options], LoadedTable]
"""Reads the table at a URL; the values, and the same values as text."""


@dataclass(frozen=True)
class LoadedCampaign:
    """A campaign file with all that it reads."""

    campaign: Campaign
    places: Places
    lists: WordLists
    sha256: str
    num_bytes: int
    """Size of the campaign file alone."""
    beside: tuple[str, ...]
    """The URLs of the lists and tables that it names by relative paths."""

    @cached_property
    def rows(self) -> CampaignRows:
        """Makes its rows.

        Raises:
            ManifestError: the lists, tables and templates give no rows that can be used.
        """
        return CampaignRows(self.campaign, self.places)


_kept: dict[tuple[str, str], LoadedCampaign] = {}
"""The campaigns that this process used last, by URL and storage options; the newest are last."""


def load_campaign(url: str, options: Options, load_table: LoadTable) -> LoadedCampaign:
    """Load a campaign, without making any row.

    Raises:
        ManifestError: the campaign, or something that it names, cannot be used.
        StoreError: something cannot be read.
    """
    with open_source(url, options) as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        message = f"it is larger than {MAX_FILE_BYTES >> 20} MiB, the most that is read"
        raise ManifestError([Problem(url, None, None, message)])
    spec, places = read_spec(url, data)
    tables: dict[str, LoadedTable] = {}

    named = [spec.lists] if isinstance(spec.lists, str) else list(spec.lists or ())

    def read_table(name: str) -> AxisTable:
        named.append(name)
        place = url_beside(url, name)
        if place not in tables:
            tables[place] = load_table(place, options)
        return tables[place].table

    lists = WordLists({}, ())
    if named:
        lists = load_lists([url_beside(url, each) for each in named], options)
    campaign = build(spec, places, lists, read_table)
    used = _used_files(campaign, lists)
    digests = [
        hashlib.sha256(data).hexdigest(),
        *(f"list {name} {digest}" for name, digest in used.items()),
        *(f"table {number} {each.sha256}" for number, each in enumerate(tables.values())),
    ]
    sha256 = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    read = (*(file.url for file in lists.files), *(each.table.url for each in tables.values()))
    roots = [absolute(url_beside(url, name)) for name in named if _is_relative(name)]
    near = tuple(r for r in read if any(r == root or r.startswith(f"{root}/") for root in roots))
    return LoadedCampaign(campaign, places, lists, sha256, len(data), near)


def url_beside(url: str, named: str) -> str:
    """The URL of what a campaign names: relative paths start from the campaign's folder."""
    if not _is_relative(named):
        return named
    return f"{absolute(url).rpartition('/')[0]}/{named}"


def _is_relative(named: str) -> bool:
    return not is_url(named) and not named.startswith(("/", "~"))


def scan_campaign(
    url: str, options: Options, loaded: LoadedCampaign
) -> tuple[FileScan, tuple[str, ...]]:
    """Count the rows of a campaign and find their columns; also what a person should know.

    It is kept for `campaign_rows`.

    Raises:
        ManifestError: the rows repeat each other, or too few are left.
    """
    rows = loaded.rows
    rows.refuse_repeated_ids()
    rows.refuse_duplicates()
    sample = rows.table(0, SAMPLE_ROWS)
    row_bytes = max(1, sample.nbytes // max(1, sample.num_rows))
    blocks = tuple(
        Block(first, row_bytes * number, number)
        for first in range(0, rows.num_rows, BLOCK_ROWS)
        if (number := min(BLOCK_ROWS, rows.num_rows - first))
    )
    _keep(url, options, loaded)
    return FileScan(sample.schema, blocks), tuple(_notes(loaded))


def campaign_rows(url: str, sha256: str, options: Options, load_table: LoadTable) -> CampaignRows:
    """The rows of a campaign with a known SHA-256; it is loaded unless this process keeps it.

    Raises:
        ManifestError: the campaign, or something that it reads, has changed since.
    """
    loaded = _kept.get(_key(url, options))
    if loaded is None or loaded.sha256 != sha256:
        loaded = load_campaign(url, options, load_table)
        if loaded.sha256 != sha256:
            raise changed_error(url)
        _keep(url, options, loaded)
    return loaded.rows


def _keep(url: str, options: Options, loaded: LoadedCampaign) -> None:
    key = _key(url, options)
    _kept.pop(key, None)
    _kept[key] = loaded
    while len(_kept) > MOST_KEPT:
        del _kept[next(iter(_kept))]


def _key(url: str, options: Options) -> tuple[str, str]:
    return url, json.dumps(options, sort_keys=True)


def read_campaign(rows: CampaignRows, first_row: int, num_rows: int) -> Iterator[pa.Table]:
    """Consecutive rows, a block at a time."""
    end = first_row + num_rows
    for first in range(first_row, end, BLOCK_ROWS):
        yield rows.table(first, min(BLOCK_ROWS, end - first))


def _used_files(campaign: Campaign, lists: WordLists) -> dict[str, str]:
    """The SHA-256 of the file of each list that the campaign's rows depend on, by its name."""
    digests = {file.url: file.sha256 for file in lists.files}
    used = sorted(campaign.templates.used_lists)
    return {name: digests[lists.by_name[name].file] for name in used}


def _notes(loaded: LoadedCampaign) -> Iterator[str]:
    """What a person should know of a campaign before its images are made."""
    rows = loaded.rows
    yield from loaded.campaign.templates.notes
    yield from _likely_settings(loaded.campaign)
    for text in loaded.campaign.covered_with_weights():
        yield f"{text}: its weights do not count, as draw.cover combines it with other values"
    if rows.remaining is not None and rows.remaining.num_without_text:
        yield f"{plural(rows.remaining.num_without_text, 'row')} left out by rules about the text"
    if rows.remaining is not None and rows.remaining.num_repeated:
        yield f"{plural(rows.remaining.num_repeated, 'row')} left out, as they repeat another one"
    for skipped in loaded.lists.skipped:
        yield f"not read as a list: {skipped}"


def _likely_settings(campaign: Campaign) -> Iterator[str]:
    """Columns of values in the campaign itself that nothing uses, and that look like settings."""
    for axis in campaign.axes:
        unused = set(axis.carried) - campaign.templates.names - {axis.name}
        for name in sorted(unused) if axis.table is None else ():
            meant = likely_settings(name.removeprefix(f"{axis.name}."), SETTING_COLUMNS)
            if meant:
                yield f"{name} is carried and sets nothing; did you mean {' and '.join(meant)}?"
