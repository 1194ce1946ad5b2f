"""Refuse a job that would read its own images' metadata and plan as prompts.

A manifest that is a folder or a pattern may cover the folder that the job writes to. The first
start would find only the manifest's own files, and every later one would find the run's files too.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from string import digits

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.storage import Source, is_local
from nightpress.pipelines.storage.options import SAME_STORE
from nightpress.pipelines.storage.sources import linked_folders
from nightpress.pipelines.storage.urls import (
    absolute,
    glob_can_match,
    has_glob,
    literal_folder,
    local_path,
    protocol_of,
    public,
)

KEPT_TABLES = "manifest"
"""The folder in a run directory that keeps a table that was passed as the manifest."""

MOST_DIGITS = 10
"""The most digits in the number of a part or a shard; it has at least five."""


def refuse_own_output(spec: RunSpec) -> None:
    """Refuse a manifest that contains or matches files of the job's own run directory.

    Another run's directory may be a manifest: its metadata has a row for each of its images.

    Raises:
        SpecError: names the manifest and the run directory.
    """
    runs = _spellings(spec.url)
    for url in spec.manifests:
        for run in runs:
            for place in _spellings(url):
                if _is_own(place, run):
                    raise SpecError(
                        f"manifest: {public(url)} is in the run directory of this very job, "
                        f"{public(spec.url)}; to use a run's files as prompts, give this job "
                        "another name or output"
                    )
                if _is_inside(run, place) or _matches_files_of(place, run):
                    raise _refusal(spec, url)


def refuse_own_files(spec: RunSpec, sources: Iterable[Source]) -> None:
    """Refuse files that turn out to be in the run directory, as through a symbolic link.

    A link below a folder is noticed before the run directory exists, one that a pattern matches
    once it has files.

    Raises:
        SpecError: names the file or the folder, and the run directory.
    """
    runs = _spellings(spec.url)
    for path in map(local_path, filter(is_local, spec.manifests)):
        for link in linked_folders(str(path)) if path.is_dir() else ():
            if any(_is_inside(run, os.path.realpath(link)) for run in runs):
                raise _refusal(spec, link)
    for source in sources:
        if any(_is_own(place, run) for place in _spellings(source.url) for run in runs):
            raise _refusal(spec, source.url)


def _refusal(spec: RunSpec, url: str) -> SpecError:
    return SpecError(
        f"manifest: {public(url)} also covers the run directory of this job, {public(spec.url)}, "
        "whose files would be read as prompts; move `output` elsewhere, or name the manifest's "
        "files"
    )


def _spellings(url: str) -> Sequence[str]:
    """The URL in comparable spellings: without its protocol's variants, and behind local links."""
    if not is_local(url):
        link = absolute(url).rpartition("::")[2]
        protocol = protocol_of(link)
        names = next((group for group in SAME_STORE if protocol in group), (protocol,))
        return [f"{names[0]}://{link.partition('://')[2].strip('/')}"]
    path = str(local_path(url))
    if not has_glob(path) or os.path.exists(path):
        return list(dict.fromkeys([path, os.path.realpath(path)]))
    folder = literal_folder(path)
    return list(dict.fromkeys([path, os.path.realpath(folder or "/") + path[len(folder) :]]))


def _is_inside(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _is_own(path: str, run: str) -> bool:
    return _is_inside(path, run) and not _is_inside(path, f"{run}/{KEPT_TABLES}")


def _matches_files_of(pattern: str, run: str) -> bool:
    return has_glob(pattern) and any(glob_can_match(pattern, file) for file in _files_of(run))


def _files_of(run: str) -> Iterator[Sequence[Sequence[str]]]:
    """All files of a run whose names are those of manifests, in the form of `glob_can_match`."""
    folders = [list(part) for part in run.split("/")]
    for count in range(5, MOST_DIGITS + 1):
        number = [digits[count > 5 :], *[digits] * (count - 1)]
        yield [*folders, [*"plan"], [*"part-", *number, *".parquet"]]
        yield [*folders, [*"metadata"], [*"shard-", *number, *".parquet"]]
        for kind in ("rows", "images", "inputs"):
            edition = [*number[1:], "-", *kind, "-", *[f"{digits}abcdef"] * 16, *".parquet"]
            yield [*folders, [*"editions"], edition]
        pack = [*"shard-", *number, "-", *[f"{digits}abcdef"] * 16, *".parquet"]
        yield [*folders, [*"images"], pack]
