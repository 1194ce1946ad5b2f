"""Which files a `data` section means, and of which kind they are."""

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
"""What lies beside the pictures of a folder."""


WORDS: dict[Kind, str] = {
    "webdataset": "WebDataset tar",
    "parquet": "Parquet file",
    "folder": "picture",
}
ALLOWED = "allowed are " + ", ".join(
    f"{WORDS[kind]}s ({' '.join(suffixes)})" for kind, suffixes in SUFFIXES.items()
)


@dataclass(frozen=True)
class Place:
    """What one URL of the section stands for."""

    root: str
    """The folder that names are relative to, without a slash at the end."""
    files: tuple[Source, ...]
    companions: tuple[Source, ...]
    """Captions and metadata of a picture folder."""
    is_folder: bool
    """Whether the URL names all that lies below the root, and not some of it."""

    def name(self, url: str) -> str:
        """A file's name below the root."""
        return url.removeprefix(f"{self.root}/")


@dataclass(frozen=True)
class Found:
    """All the files of a data set, of one kind."""

    kind: Kind
    places: tuple[Place, ...]

    def content(self) -> list[list[str | int]]:
        """What changes when the content of a file does."""
        return [
            [source.url, source.num_bytes, source.version]
            for place in self.places
            for source in (*place.files, *place.companions)
        ]


def find(spec: DataSpec, options: Options) -> Found:
    """List what lies at the section's URLs; nothing is read.

    Raises:
        DataError: there are no pictures, or several kinds of files and none was chosen.
        StoreError: a store refuses or fails.
    """
    listings = _each_once([_listing(url, options) for url in spec.sources])
    kind = _kind(spec, [source for listing in listings for source in listing])
    places = [
        _place(kind, url, listing, options)
        for url, listing in zip(spec.sources, listings, strict=True)
    ]
    for url, place in zip(spec.sources, places, strict=True):
        if not place.files:
            raise DataError(f"{_shown(url)}: {_none_of(kind)}")
    return Found(kind, tuple(places))


def _listing(url: str, options: Options) -> list[Source]:
    known = [suffix for suffixes in SUFFIXES.values() for suffix in suffixes]
    try:
        return storage.find([url], options, [*known, *COMPANIONS])
    except StoreMissing as error:
        raise DataError(f"{_shown(url)}: nothing there; {ALLOWED}") from error


def _each_once(listings: Sequence[Sequence[Source]]) -> list[list[Source]]:
    """Without the files that an earlier URL names too."""
    before: set[str] = set()
    rest = []
    for listing in listings:
        rest.append([source for source in listing if source.url not in before])
        before |= {source.url for source in listing}
    return rest


def _kind(spec: DataSpec, sources: Sequence[Source]) -> Kind:
    if spec.kind != "auto":
        return spec.kind
    numbers = {kind: len(_of(kind, sources)) for kind in SUFFIXES}
    present = [kind for kind, number in numbers.items() if number]
    if not present:
        raise DataError(f"{', '.join(map(_shown, spec.sources))}: no pictures there; {ALLOWED}")
    if len(present) > 1:
        counted = ", ".join(plural(numbers[kind], WORDS[kind]) for kind in present)
        raise DataError(
            f"{', '.join(map(_shown, spec.sources))}: {counted} are there; "
            f"say which with data.kind: {' or '.join(present)}"
        )
    return present[0]


def _of(kind: Kind, sources: Sequence[Source]) -> tuple[Source, ...]:
    return tuple(s for s in sources if s.url.lower().endswith(SUFFIXES[kind]))


def _place(kind: Kind, url: str, listing: Sequence[Source], options: Options) -> Place:
    root = _root(url, listing)
    files = _of(kind, listing)
    is_folder = root == absolute(url)
    if kind != "folder":
        return Place(root, files, (), is_folder)
    # A pattern or a single picture names no companions.
    beside = listing if is_folder or not files else _companions(root, options)
    companions = tuple(s for s in beside if s.url.lower().endswith(COMPANIONS))
    return Place(root, files, companions, is_folder)


def _companions(root: str, options: Options) -> list[Source]:
    try:
        return storage.find([root], options, COMPANIONS)
    except StoreMissing:
        return []


def _root(url: str, listing: Sequence[Source]) -> str:
    full = absolute(url)
    if has_glob(url):
        return literal_folder(full)
    if len(listing) == 1 and listing[0].url == full:
        return full.rpartition("/")[0]
    return full


def _shown(url: str) -> str:
    return public(absolute(url))


def _none_of(kind: Kind) -> str:
    return f"no {WORDS[kind]}s there ({' '.join(SUFFIXES[kind])}), as data.kind: {kind} wants"
