"""Image folders: captions in a `<stem>.txt` beside each image, or in a metadata file.

`metadata.jsonl` and `metadata.csv` follow ImageFolder of the `datasets` library: `file_name`,
relative to the metadata file, and a caption column.
"""

import csv
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from nightpress.pipelines.errors import DataError
from nightpress.pipelines.manifest.jsonl import DECODER
from nightpress.pipelines.storage import Options, Source, open_source
from nightpress.pipelines.storage.urls import public
from nightpress.pipelines.training.data.decoding import BadImageError
from nightpress.pipelines.training.data.finding import METADATA, FoundSource
from nightpress.pipelines.training.data.samples import (
    CandidateSample,
    Captions,
    Sample,
    decode_text,
    fetch,
    parse_captions,
)
from nightpress.pipelines.training.data.spec import CAPTION_NAMES, DataSpec

FILE_NAME = "file_name"


class FolderReader:
    """Reads the images below a folder, sorted by name."""

    def __init__(self, source: FoundSource, spec: DataSpec, options: Options) -> None:
        self._source, self._spec, self._options = source, spec, options
        self._images = {source.name(file.url): file.url for file in source.files}
        self._text_files = {
            posixpath.splitext(source.name(file.url))[0]: file.url
            for file in source.companions
            if file.url.lower().endswith(".txt") and spec.caption in (None, "txt")
        }
        self._metadata_files = [f for f in source.companions if f.url.lower().endswith(METADATA)]
        self._metadata: dict[str, Any] | None = None
        self._metadata_columns: list[str] = []

    def missing_captions(self) -> str:
        """Why there are no captions, judged by the file names and the metadata."""
        if self._spec.folder_names_as_captions:
            return ""
        stems = (posixpath.splitext(name)[0] for name in self._images)
        in_metadata = any(value is not None for value in self._metadata_captions().values())
        if in_metadata or any(stem in self._text_files for stem in stems):
            return ""
        found = (
            f"found no .txt, and the metadata's columns are {', '.join(self._metadata_columns)}"
            if self._metadata_columns
            else "found neither"
        )
        return (
            f"{public(self._source.root)}: no captions: looked for a .txt beside each image and "
            f"for {', '.join(self._caption_names)} in metadata.jsonl or metadata.csv, {found}; "
            "to caption images with their folder's name, set data.folder_names_as_captions: true"
        )

    def candidates(self) -> Iterator[CandidateSample]:
        """Every image, and every name in the metadata that has no image."""
        metadata = self._metadata_captions()
        for name in sorted(self._images.keys() | self._missing_images(metadata)):
            yield CandidateSample(name, self._loader(name, metadata.get(name)))

    @property
    def _caption_names(self) -> Sequence[str]:
        return CAPTION_NAMES if self._spec.caption is None else (self._spec.caption,)

    def _missing_images(self, metadata: Mapping[str, Any]) -> set[str]:
        """Names in the metadata without a file; a glob leaves files out on purpose."""
        return metadata.keys() - self._images.keys() if self._source.is_folder else set()

    def _loader(self, name: str, caption: Any) -> "_ImageLoader":
        return _ImageLoader(
            self._images.get(name),
            caption,
            self._text_files.get(posixpath.splitext(name)[0]),
            posixpath.basename(posixpath.dirname(name))
            if self._spec.folder_names_as_captions
            else None,
            self._options,
        )

    def _metadata_captions(self) -> dict[str, Any]:
        """Image name -> its caption in the metadata; None where the row has none."""
        if self._metadata is None:
            self._metadata = {}
            for file in self._metadata_files:
                self._metadata |= self._read_metadata(file)
        return self._metadata

    def _read_metadata(self, file: Source) -> dict[str, Any]:
        folder = posixpath.dirname(self._source.name(file.url))
        captions: dict[str, Any] = {}
        with open_source(file.url, self._options) as stream:
            for number, (line, row) in enumerate(_rows(file.url, stream)):
                if not isinstance(row.get(FILE_NAME), str):
                    raise DataError(
                        f"{public(file.url)}, line {line}: no {FILE_NAME}; "
                        f"the columns are {', '.join(map(str, row)) or 'none'}"
                    )
                if not number:
                    columns = self._metadata_columns
                    columns += [key for key in row if key not in columns]
                name = posixpath.normpath(posixpath.join(folder, row[FILE_NAME]))
                values = (row[key] for key in self._caption_names if row.get(key) is not None)
                captions[name] = next(values, None)
        return captions


class _ImageLoader:
    """Loads one image and its caption, in the thread that calls it."""

    def __init__(
        self,
        image_url: str | None,
        metadata_caption: Any,
        text_url: str | None,
        folder_name: str | None,
        options: Options,
    ) -> None:
        self._image_url, self._options = image_url, options
        self._metadata_caption = metadata_caption
        self._text_url, self._folder_name = text_url, folder_name

    def __call__(self) -> Sample:
        if self._image_url is None:
            raise BadImageError("listed in the metadata, but there is no such file")
        return Sample(fetch(self._image_url, self._options), self._captions())

    def _captions(self) -> Captions:
        """From the metadata, otherwise the .txt file, otherwise the folder's name."""
        captions = parse_captions(self._metadata_caption)
        if not captions and self._text_url is not None:
            captions = parse_captions(decode_text(fetch(self._text_url, self._options)))
        return captions or parse_captions(self._folder_name)


def _rows(url: str, stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with the line that it is on; the last one, if a row has several."""
    text = (line.decode("utf-8" if n else "utf-8-sig") for n, line in enumerate(stream))
    try:
        if url.lower().endswith(".csv"):
            reader = csv.DictReader(text, strict=True)
            yield from ((reader.line_num, row) for row in reader)
        else:
            yield from _json_objects(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{public(url)}: cannot be read: {error}") from error


def _json_objects(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            value = DECODER.decode(line)
            if not isinstance(value, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield number, value
