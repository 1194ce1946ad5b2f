"""Refuse a job that would read its own images' metadata and plan as prompts.

A manifest that is a folder or a pattern may cover the folder that the job writes to. The first
start would find only the manifest's own files, and every later one would find the run's files too.
"""

import os
from collections.abc import Iterable, Iterator, Sequence

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.storage import Source, is_local
from nightpress.pipelines.storage.options import SAME_STORE
from nightpress.pipelines.storage.urls import (
    absolute,
    glob_matches,
    has_glob,
    literal_folder,
    local_path,
    protocol_of,
    public,
)

KEPT_TABLES = "manifest"
"""The folder in a run directory that keeps a table that was passed as the manifest."""

NUMBERS = (*range(11), 42, 99, 100, 123, 999, 1000, 4567, 12345)
"""Enough numbers of parts and shards to find out whether a pattern matches their names."""


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
                if _is_inside(place, run) and not _is_inside(place, f"{run}/{KEPT_TABLES}"):
                    raise SpecError(
                        f"manifest: {public(url)} is in the run directory of this very job, "
                        f"{public(spec.url)}; to use a run's files as prompts, give this job "
                        "another name or output"
                    )
                if _is_inside(run, place) or _matches_files_of(place, run):
                    raise _refusal(spec, url)


def refuse_own_files(spec: RunSpec, sources: Iterable[Source]) -> None:
    """Refuse files that turn out to be in the run directory, through a symbolic link.

    Raises:
        SpecError: names the file and the run directory.
    """
    if not is_local(spec.url):
        return
    run = os.path.realpath(local_path(spec.url))
    for source in sources:
        if not is_local(source.url):
            continue
        path = os.path.realpath(source.url)
        if _is_inside(path, run) and not _is_inside(path, f"{run}/{KEPT_TABLES}"):
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


def _matches_files_of(pattern: str, run: str) -> bool:
    return has_glob(pattern) and any(glob_matches(pattern, file) for file in _files_of(run))


def _files_of(run: str) -> Iterator[str]:
    """Examples of a run's files whose names are those of manifests."""
    for number in NUMBERS:
        yield f"{run}/plan/part-{number:05d}.parquet"
        yield f"{run}/metadata/shard-{number:05d}.parquet"
        yield f"{run}/images/shard-{number:05d}-0123456789abcdef.parquet"
