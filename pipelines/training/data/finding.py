"""Find the files that a `data` section refers to, and determine their kind."""

from collections.abc import Sequence
from dataclasses import dataclass

from nightpress.pipelines import storage
from nightpress.pipelines.errors import DataError, StoreMissing
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.storage import Options, Source
from nightpress.pipelines.storage.urls import absolute, has_glob, literal_folder, public
from nightpress.pipelines.training.data.spec import IMAGE_SUFFIXES, DataSpec, Kind

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "webdataset": (".tar", ".tar.gz", ".tgz"),
    "parquet": (".parquet", ".pq"),
    "folder": IMAGE_SUFFIXES,
}
METADATA = ("metadata.jsonl", "metadata.csv")
COMPANIONS = (".txt", *METADATA)
"""Files beside the images of a folder that hold captions."""

KIND_NAMES: dict[Kind, str] = {
    "webdataset": "WebDataset tar",
    "parquet": "Parquet file",
    "folder": "image",
}
ALLOWED = "allowed are " + ", ".join(
    f"{KIND_NAMES[kind]}s ({' '.join(suffixes)})" for kind, suffixes in SUFFIXES.items()
)


@dataclass(frozen=True)
class FoundSource:
    """The files that one source URL refers to."""

    root: str
    """The folder that names are relative to, without a trailing slash."""
    files: tuple[Source, ...]
    companions: tuple[Source, ...]
    """Caption and metadata files of an image folder."""
    is_folder: bool
    """Whether the URL is the root itself, so that every file below it belongs to the source."""

    def name(self, url: str) -> str:
        """A file's name relative to the root."""
        return url.removeprefix(f"{self.root}/")


@dataclass(frozen=True)
class FoundData:
    """All files of a data set; they are of one kind."""

    kind: Kind
    sources: tuple[FoundSource, ...]

    def content(self) -> list[list[str | int]]:
        """URL, size and version of each file: values that change when a file's content does."""
        return [
            [file.url, file.num_bytes, file.version]
            for source in self.sources
            for file in (*source.files, *source.companions)
        ]


def find_data(spec: DataSpec, options: Options) -> FoundData:
    """List the files at the section's URLs, without reading them.

    Raises:
        DataError: there are no images, or several kinds of files and `kind` is `auto`.
        StoreError: a store refuses or fails.
    """
    listings = _without_repeats([_list(url, options) for url in spec.sources])
    kind = _kind(spec, [file for listing in listings for file in listing])
    sources = [
        _source(kind, url, listing, options)
        for url, listing in zip(spec.sources, listings, strict=True)
    ]
    for url, source in zip(spec.sources, sources, strict=True):
        if not source.files:
            raise DataError(
                f"{_shown(url)}: found no {KIND_NAMES[kind]}s ({' '.join(SUFFIXES[kind])}), which "
                f"data.kind: {kind} requires"
            )
    return FoundData(kind, tuple(sources))


def _list(url: str, options: Options) -> list[Source]:
    suffixes = [suffix for each in SUFFIXES.values() for suffix in each]
    try:
        return storage.find([url], options, [*suffixes, *COMPANIONS])
    except StoreMissing as error:
        raise DataError(f"{_shown(url)}: found nothing; {ALLOWED}") from error


def _without_repeats(listings: Sequence[Sequence[Source]]) -> list[list[Source]]:
    """Drop files that an earlier URL already lists."""
    seen: set[str] = set()
    unique = []
    for listing in listings:
        unique.append([file for file in listing if file.url not in seen])
        seen |= {file.url for file in listing}
    return unique


def _kind(spec: DataSpec, files: Sequence[Source]) -> Kind:
    if spec.kind != "auto":
        return spec.kind
    counts = {kind: len(_of_kind(kind, files)) for kind in SUFFIXES}
    present = [kind for kind, count in counts.items() if count]
    if not present:
        raise DataError(f"{', '.join(map(_shown, spec.sources))}: found no images; {ALLOWED}")
    if len(present) > 1:
        counted = " and ".join(plural(counts[kind], KIND_NAMES[kind]) for kind in present)
        raise DataError(
            f"{', '.join(map(_shown, spec.sources))}: found {counted}; "
            f"set data.kind to {' or '.join(present)}"
        )
    return present[0]


def _of_kind(kind: Kind, files: Sequence[Source]) -> tuple[Source, ...]:
    return tuple(file for file in files if file.url.lower().endswith(SUFFIXES[kind]))


def _source(kind: Kind, url: str, listing: Sequence[Source], options: Options) -> FoundSource:
    root = _root(url, listing)
    files = _of_kind(kind, listing)
    is_folder = root == absolute(url)
    if kind != "folder":
        return FoundSource(root, files, (), is_folder)
    # A glob or a single image lists no companions.
    beside = listing if is_folder or not files else _companions(root, options)
    companions = tuple(file for file in beside if file.url.lower().endswith(COMPANIONS))
    return FoundSource(root, files, companions, is_folder)


def _companions(root: str, options: Options) -> list[Source]:
    try:
        return storage.find([root], options, COMPANIONS)
    except StoreMissing:
        return []


def _root(url: str, listing: Sequence[Source]) -> str:
    full = absolute(url)
    if has_glob(url) and not all(file.url.startswith(f"{full}/") for file in listing):
        return literal_folder(full)
    if len(listing) == 1 and listing[0].url == full:
        return full.rpartition("/")[0]
    return full


def _shown(url: str) -> str:
    return public(absolute(url))
