"""Pictures in folders: captions beside them as `<stem>.txt`, or listed in a metadata file.

`metadata.jsonl` and `metadata.csv` are those of the `datasets` library's ImageFolder: `file_name`,
relative to the metadata file, and a column of captions.
"""

import csv
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from nightpress.pipelines.errors import DataError
from nightpress.pipelines.storage import Options, Source, open_source
from nightpress.pipelines.storage.urls import public
from nightpress.pipelines.training.data.finding import METADATA, Place
from nightpress.pipelines.training.data.pictures import BadPicture
from nightpress.pipelines.training.data.samples import (
    Candidate,
    Captions,
    Sample,
    as_captions,
    decoded,
    fetch,
)
from nightpress.pipelines.training.data.spec import CAPTION_NAMES, DataSpec

FILE_NAME = "file_name"


class Folder:
    """The pictures below a folder, sorted by name."""

    def __init__(self, place: Place, spec: DataSpec, options: Options) -> None:
        self._place, self._spec, self._options = place, spec, options
        self._pictures = {place.name(source.url): source.url for source in place.files}
        self._texts = {
            posixpath.splitext(place.name(source.url))[0]: source.url
            for source in place.companions
            if source.url.lower().endswith(".txt") and spec.caption in (None, "txt")
        }
        self._lists = [s for s in place.companions if s.url.lower().endswith(METADATA)]
        self._listed: dict[str, Any] | None = None
        self._seen: list[str] = []

    def no_captions(self) -> str:
        """Told by which files there are, and by the columns of the metadata."""
        if self._spec.folder_names_as_captions:
            return ""
        stems = (posixpath.splitext(name)[0] for name in self._pictures)
        listed = any(value is not None for value in self._metadata().values())
        if listed or any(stem in self._texts for stem in stems):
            return ""
        there = (
            f"there is no such .txt, and the metadata's columns are {', '.join(self._seen)}"
            if self._seen
            else "there is neither"
        )
        return (
            f"{public(self._place.root)}: no captions; looked for a .txt beside each picture, and "
            f"for {', '.join(self._names)} in metadata.jsonl or metadata.csv; {there}; the "
            "folders' own names are used with data.folder_names_as_captions: true"
        )

    def candidates(self) -> Iterator[Candidate]:
        """Every picture, and every picture that the metadata names in vain."""
        listed = self._metadata()
        for name in sorted(self._pictures.keys() | self._named_in_vain(listed)):
            yield Candidate(name, self._loader(name, listed.get(name)))

    @property
    def _names(self) -> Sequence[str]:
        return CAPTION_NAMES if self._spec.caption is None else (self._spec.caption,)

    def _named_in_vain(self, listed: Mapping[str, Any]) -> set[str]:
        """Only a whole folder can miss something; a pattern leaves out what it likes."""
        return listed.keys() - self._pictures.keys() if self._place.is_folder else set()

    def _loader(self, name: str, caption: Any) -> "_Load":
        return _Load(
            self._pictures.get(name),
            caption,
            self._texts.get(posixpath.splitext(name)[0]),
            posixpath.basename(posixpath.dirname(name))
            if self._spec.folder_names_as_captions
            else None,
            self._options,
        )

    def _metadata(self) -> dict[str, Any]:
        """Picture -> its caption as the metadata has it; None where it has none."""
        if self._listed is None:
            self._listed = {}
            for source in self._lists:
                self._listed |= self._read(source)
        return self._listed

    def _read(self, source: Source) -> dict[str, Any]:
        folder = posixpath.dirname(self._place.name(source.url))
        captions: dict[str, Any] = {}
        with open_source(source.url, self._options) as stream:
            for number, row in enumerate(_rows(source.url, stream)):
                if not isinstance(row.get(FILE_NAME), str):
                    raise DataError(
                        f"{public(source.url)}, row {number}: no {FILE_NAME}; "
                        f"its columns are {', '.join(map(str, row)) or 'none'}"
                    )
                if not number:
                    self._seen += [key for key in row if key not in self._seen]
                name = posixpath.normpath(posixpath.join(folder, row[FILE_NAME]))
                values = (row[key] for key in self._names if row.get(key) is not None)
                captions[name] = next(values, None)
        return captions


class _Load:
    """Reads one picture and its caption, in whichever thread calls it."""

    def __init__(
        self,
        url: str | None,
        listed: Any,
        text: str | None,
        folder: str | None,
        options: Options,
    ) -> None:
        self._url, self._options = url, options
        self._listed, self._text, self._folder = listed, text, folder

    def __call__(self) -> Sample:
        if self._url is None:
            raise BadPicture("named in the metadata, and no picture of that name is there")
        return Sample(fetch(self._url, self._options), self._captions())

    def _captions(self) -> Captions:
        """The metadata's, else the text beside it, else the folder's name."""
        captions = as_captions(self._listed)
        if not captions and self._text is not None:
            captions = as_captions(decoded(fetch(self._text, self._options)))
        return captions or as_captions(self._folder)


def _rows(url: str, stream: BinaryIO) -> Iterator[dict[str, Any]]:
    text = (line.decode("utf-8" if n else "utf-8-sig") for n, line in enumerate(stream))
    try:
        if url.lower().endswith(".csv"):
            yield from csv.DictReader(text, strict=True)
        else:
            yield from _objects(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{public(url)}: cannot be read: {error}") from error


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield value
