"""Imports images: reads how they were made, and writes manifests, jobs and notes."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import yaml

from nightpress.pipelines.errors import ManifestError, Problem, StoreDenied
from nightpress.pipelines.image_files.importing.jobs import (
    Group,
    Replacements,
    grouped,
    job_of,
    lora_label,
    row_lora,
)
from nightpress.pipelines.image_files.importing.made_image import (
    ImportNote,
    MadeImage,
    Program,
    UnreadableImage,
)
from nightpress.pipelines.image_files.importing.reading import (
    IMAGE_SUFFIXES,
    SUFFIXES,
    TEXT_SUFFIXES,
    max_bytes,
    read_made_image,
)
from nightpress.pipelines.manifest.expansion import OUTPUT_SUFFIXES
from nightpress.pipelines.storage import (
    READ_THREADS,
    Options,
    Source,
    Store,
    find,
    hidden,
    open_source,
)
from nightpress.pipelines.storage.urls import public

NOTES_SUFFIX = ".notes.json"

COLUMNS = (
    *("id", "prompt", "negative_prompt", "seed", "width", "height", "num_inference_steps"),
    *("guidance_scale", "scheduler", "lora", "lora_scale"),
)
"""The first columns of a manifest; others that rows have follow, then where they come from."""


@dataclass(frozen=True)
class ImportedManifest:
    """A manifest that was written, with its job."""

    manifest: str
    job: str
    num_rows: int
    model: str
    """The source of the model in the job."""


@dataclass(frozen=True)
class ImportedImage:
    """A file that became a row."""

    file: str
    id: str
    manifest: str
    program: Program
    notes: tuple[ImportNote, ...]
    """What could not be carried over as it was."""


@dataclass(frozen=True)
class NotRead:
    """A file that no row was made of."""

    file: str
    reason: str

    def __str__(self) -> str:
        """`a.png: not a PNG, WebP, JPEG or MP4 file`."""
        return f"{public(self.file)}: {self.reason}"


@dataclass(frozen=True)
class ImportedImages:
    """What an import of images has written, and what is to be said about it."""

    manifests: tuple[ImportedManifest, ...]
    """The one with the most rows first; several if no single job could make the images."""
    images: tuple[ImportedImage, ...]
    not_read: tuple[NotRead, ...]
    """Images, texts and graphs that do not say how an image was made."""
    passed_over: tuple[NotRead, ...]
    """Files of other kinds or hidden names, and texts beside images that say the same."""
    notes: str | None
    """URL of the notes about all files; None if there is nothing to say."""

    @property
    def num_rows(self) -> int:
        """The rows of all manifests."""
        return len(self.images)


def import_images(
    source: str,
    output: str,
    *,
    model: str | None = None,
    loras: str | None = None,
    options: Options | None = None,
) -> ImportedImages:
    """Turn images, A1111's texts and ComfyUI's graphs into manifests and jobs that make such again.

    Args:
        source: a file, a folder or a pattern, at any URL.
        output: the manifest to write, which ends in .csv, .jsonl or .parquet. Its job is written
            beside it, as .yaml.
        model: the source of the model for the job; by default what the files call it.
        loras: folder or URL with the LoRAs; by default where the run starts.
        options: fsspec options by protocol.

    Raises:
        ValueError: the output's suffix names no format.
        ManifestError: no file says how an image was made; nothing was written.
        StoreError: nothing is at the source, something is at an output, or a store fails.
    """
    if not output.lower().endswith(OUTPUT_SUFFIXES):
        raise ValueError(f"{output}: the name must end in one of {' '.join(OUTPUT_SUFFIXES)}")
    made, not_read, passed_over = _read_all(source, options)
    _require_some(made, not_read, source)
    replacements = Replacements(model, loras)
    groups = grouped(made, replacements)
    _set_ids(made)
    names = [_numbered(output, number) for number in range(1, len(groups) + 1)]
    manifests, files = _written(groups, names, replacements, source)
    images = tuple(_imported(groups, names))
    notes = _notes(images, not_read, passed_over)
    notes_name = f"{_stem(output)}{NOTES_SUFFIX}"
    _write(files if notes is None else files | {notes_name: notes}, options)
    said_in = None if notes is None else notes_name
    return ImportedImages(tuple(manifests), images, tuple(not_read), tuple(passed_over), said_in)


def _require_some(made: Sequence[MadeImage], not_read: Sequence[NotRead], source: str) -> None:
    if not made:
        raise ManifestError(
            [Problem(public(each.file), None, None, each.reason) for each in not_read]
            or [Problem(public(source), None, None, f"no file ends in {' '.join(SUFFIXES)}")]
        )


def _written(
    groups: Sequence[Group], names: Sequence[str], replacements: Replacements, source: str
) -> tuple[list[ImportedManifest], dict[str, bytes]]:
    """What is to be written for the groups, and the files by their URLs."""
    manifests: list[ImportedManifest] = []
    files: dict[str, bytes] = {}
    for group, name in zip(groups, names, strict=True):
        job = job_of(group, name, replacements)
        files |= {name: _table_bytes(group, name), _job_name(name): _job_bytes(job, group, source)}
        model = job["model"]["source"]
        manifests.append(ImportedManifest(name, _job_name(name), len(group.images), model))
    return manifests, files


def _read_all(
    source: str, options: Options | None
) -> tuple[list[MadeImage], list[NotRead], list[NotRead]]:
    """The images that say how they were made, the files that do not, and those passed over."""
    wanted: list[Source] = []
    passed_over = [
        NotRead(each.url, "its name, or that of its folder, begins with _ or .")
        for each in hidden(source, SUFFIXES, options)
    ]
    for each in find([source], options, suffixes=("",)):
        is_wanted = each.url.lower().endswith(SUFFIXES)
        if is_wanted and not each.url.lower().endswith(NOTES_SUFFIX):
            wanted.append(each)
        else:
            passed_over.append(NotRead(each.url, f"not one of {' '.join(SUFFIXES)}"))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        results = list(pool.map(lambda each: _read(each, options), wanted))
    made = {each.source: each for each in results if isinstance(each, MadeImage)}
    not_read = {each.file: each for each in results if isinstance(each, NotRead)}
    passed_over += _texts_beside_images(made, not_read)
    return list(made.values()), list(not_read.values()), passed_over


def _read(source: Source, options: Options | None) -> MadeImage | NotRead:
    most = max_bytes(source.url)
    if source.num_bytes > most:
        return NotRead(source.url, f"it has {source.num_bytes:,} bytes; at most {most:,} are read")
    with open_source(source.url, options) as stream:
        data = stream.read()
    try:
        return read_made_image(source.url, data)
    except UnreadableImage as error:
        return NotRead(source.url, str(error))


def _texts_beside_images(
    made: dict[str, MadeImage], not_read: dict[str, NotRead]
) -> Iterator[NotRead]:
    """Take an image and the text beside it for one, as A1111 can write both."""
    texts = [url for url in (*made, *not_read) if url.lower().endswith(TEXT_SUFFIXES)]
    pictures = {
        _stem(url): url for url in (*made, *not_read) if url.lower().endswith(IMAGE_SUFFIXES)
    }
    for text in texts:
        picture = pictures.get(_stem(text))
        if picture in made:
            made.pop(text, None)
            not_read.pop(text, None)
            yield NotRead(text, "the image beside it says how it was made")
        elif picture is not None and text in made:
            del not_read[picture]
            yield NotRead(picture, "the text beside it says how it was made")


def _set_ids(images: Sequence[MadeImage]) -> None:
    """Name each row after its file, or its image of nightpress; a repeated name gets a number."""
    taken: set[str] = set()
    for made in images:
        wanted = str(made.settings.get("id") or PurePosixPath(_stem(made.source)).name)[:120]
        name, number = wanted, 1
        while name.casefold() in taken:
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name.casefold())
        made.settings["id"] = name


def _imported(groups: Sequence[Group], names: Sequence[str]) -> Iterator[ImportedImage]:
    for group, name in zip(groups, names, strict=True):
        for made in group.images:
            row_id = made.settings["id"]
            yield ImportedImage(made.source, row_id, name, made.program, tuple(made.notes))


def _rows(group: Group) -> Iterator[dict[str, Any]]:
    for made in group.images:
        lora = row_lora(made)
        named = {} if lora is None else {"lora": lora_label(lora), "lora_scale": lora.scale}
        origin = {
            "source_file": public(made.source),
            "source_model": made.model,
            "source_model_hash": made.model_hash,
        }
        yield {**made.settings, **named, **origin}


def _table_bytes(group: Group, name: str) -> bytes:
    """The rows of a group in the format of a file's suffix."""
    rows = list(_rows(group))
    found = dict.fromkeys(key for row in rows for key, value in row.items() if value is not None)
    columns = [*(key for key in COLUMNS if key in found), *(k for k in found if k not in COLUMNS)]
    table = pa.table({key: [row.get(key) for row in rows] for key in columns})
    out = BytesIO()
    match PurePosixPath(name).suffix.lower():
        case ".parquet":
            pq.write_table(table, out)
        case ".csv":
            pyarrow.csv.write_csv(table, out)
        case _:
            lines = (json.dumps(row, ensure_ascii=False) for row in table.to_pylist())
            out.write("".join(f"{line}\n" for line in lines).encode())
    return out.getvalue()


def _job_bytes(job: Mapping[str, Any], group: Group, source: str) -> bytes:
    """A job as a file, with comments on what its model is."""
    text = yaml.safe_dump(dict(job), sort_keys=False, allow_unicode=True, width=1000)
    lines = [f"# Made by nightpress import from {json.dumps(public(source))}."]
    named = {(made.model, made.model_hash) for made in group.images}
    for model, model_hash in sorted(named, key=str):
        if model not in (None, "builtin"):
            known = f" (hash {model_hash})" if model_hash else ""
            lines.append(
                f"# The images call their model {json.dumps(model)}{known}; model.source is where "
                "it lies."
            )
    return ("\n".join([*lines, text])).encode()


def _notes(
    images: Sequence[ImportedImage], not_read: Sequence[NotRead], passed_over: Sequence[NotRead]
) -> bytes | None:
    """The notes about all files as JSON; None if every file was carried over as it was."""
    noted = [asdict(each) | {"file": public(each.file)} for each in images if each.notes]
    if not noted and not not_read:
        return None
    values = {
        "images": noted,
        "not_read": [asdict(each) | {"file": public(each.file)} for each in not_read],
        "passed_over": [asdict(each) | {"file": public(each.file)} for each in passed_over],
    }
    text = json.dumps(values, ensure_ascii=False, indent=2) + "\n"
    return text.encode("utf-8", "backslashreplace")


def _write(files: Mapping[str, bytes], options: Options | None) -> None:
    """Write new files; nothing if one of them is there already.

    Raises:
        StoreDenied: one is there.
    """
    stores = [(_store(name, options), PurePosixPath(name).name, name) for name in files]
    for store, last, name in stores:
        with store.as_store_errors(last):
            if store.size(last) is not None:
                raise StoreDenied(f"{public(name)}: this file is there already; name another")
    for store, last, name in stores:
        if not store.create(last, files[name]):
            raise StoreDenied(f"{public(name)}: another process has written this file")


def _store(name: str, options: Options | None) -> Store:
    folder, _, _ = name.rpartition("/")
    return Store(folder or ("/" if name.startswith("/") else "."), options)


def _stem(url: str) -> str:
    """A URL without its last suffix."""
    return re.sub(r"\.[^./]+$", "", url)


def _numbered(output: str, number: int) -> str:
    """`out.csv` as `out-2.csv`; unchanged for 1."""
    return output if number == 1 else f"{_stem(output)}-{number}{PurePosixPath(output).suffix}"


def _job_name(manifest: str) -> str:
    return f"{_stem(manifest)}.yaml"
