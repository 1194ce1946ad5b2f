"""A job's manifest files, and whether they are those that a run was planned from.

What counts is the content: the same bytes in the same order are the same manifest, wherever they
are stored and however the job spells their URL.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile

from nightpress.pipelines.errors import Change, ManifestError, Problem, StoreMissing
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.file_records import ManifestFile, identity_of
from nightpress.pipelines.manifest.files import sha256_of
from nightpress.pipelines.manifest.formats import is_campaign, manifest_files
from nightpress.pipelines.manifest.partitions import partition_of
from nightpress.pipelines.manifest.same_bytes import changed_error
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.planning.own_output import refuse_own_files, refuse_own_output
from nightpress.pipelines.storage import Options, Source, find

HASH_THREADS = 8

ORDER = "manifest: order of the files"
"""What a change is called if the files are the same but in another order."""


@dataclass(frozen=True)
class ManifestComparison:
    """A job's manifest beside the one that a run was planned from."""

    changes: tuple[Change, ...]
    """How they differ; empty if they are the same."""
    files: tuple[ManifestFile, ...]
    """The planned files; if nothing has changed, where the job finds them now."""


def manifest_sources(spec: RunSpec) -> list[Source]:
    """The manifest's files; other files in the same folder are skipped.

    Raises:
        SpecError: the job names no manifest, or one that covers the job's own run directory.
        ManifestError: a URL names no manifest files, or files that are not one manifest.
        StoreError: the files cannot be found.
    """
    refuse_own_output(spec)
    sources: dict[str, Source] = {}
    for url in spec.manifests:
        for source in manifest_files(url, find([url], spec.storage)):
            partition = partition_of(source.url, url)
            known = sources.get(source.url)
            # The folders that count are the last ones of the path, so more of them hold the others.
            if known is None or len(known.partition) < len(partition):
                sources[source.url] = replace(source, partition=partition)
    refuse_own_files(spec, sources.values())
    return list(sources.values())


def compare_manifest(files: Sequence[ManifestFile], spec: RunSpec) -> ManifestComparison:
    """Compare a job's manifest with the one that was planned.

    Versions are compared first, and only files whose version differs are read.

    Raises:
        SpecError, ManifestError, StoreError: as `manifest_sources` raises them.
    """
    sources = manifest_sources(spec)
    new = _identities(files, sources, spec.storage)
    old = {file.url: file.identity for file in files}
    if list(new.values()) != list(old.values()):
        return ManifestComparison(tuple(_changes(old, new)), tuple(files))
    found = [
        replace(file, url=source.url, version=source.version)
        for file, source in zip(files, sources, strict=True)
    ]
    return ManifestComparison((), tuple(found))


def file_changes(files: Sequence[ManifestFile], new: Sequence[ManifestFile]) -> list[Change]:
    """How the files of a manifest differ from those of an older one."""
    before, after = ({file.url: file.identity for file in each} for each in (files, new))
    return list(_changes(before, after))


def planned_file_changes(layout: PlanLayout, options: Options) -> list[Change]:
    """How the files that were planned have changed, at the URLs where they were found then.

    Raises:
        StoreMissing: one of them is not there any more.
        StoreError: they cannot be read.
    """
    sources = [_found_again(file, options) for file in layout.files]
    old = {file.url: file.identity for file in layout.files}
    return list(_changes(old, _identities(layout.files, sources, options)))


def _found_again(file: ManifestFile, options: Options) -> Source:
    """A planned file where it was then; its URL is no pattern now, and no folder."""
    why = f"{file.url}: the run was planned from this file, but it is not there any more"
    try:
        found = {source.url: source for source in find([file.url], options)}
    except StoreMissing as error:
        raise StoreMissing(why) from error
    if file.url not in found:
        raise StoreMissing(why)
    return replace(found[file.url], partition=file.partition)


def require_unchanged(layout: PlanLayout, spec: RunSpec) -> PlanLayout:
    """The plan, after making sure that the manifest is still the one that was checked.

    Raises:
        ManifestError: it has changed since.
    """
    comparison = compare_manifest(layout.files, spec)
    if comparison.changes:
        errors = [_changed_since(change) for change in comparison.changes]
        raise ManifestError([problem for error in errors for problem in error.problems])
    return replace(layout, files=comparison.files)


def _changed_since(change: Change) -> ManifestError:
    if change.field == ORDER:
        message = "the order of its files has changed since it was checked; start again"
        return ManifestError([Problem("manifest", None, None, message)])
    return changed_error(change.field.removeprefix("manifest "))


Identity = tuple[str, ...]
"""What makes two manifest files the same; see `ManifestFile.identity`."""


def _identities(
    files: Sequence[ManifestFile], sources: Sequence[Source], options: Options
) -> dict[str, Identity]:
    """The identity of each file by its URL."""
    planned = {file.url: file for file in files}

    def sha256(source: Source) -> str:
        file = planned.get(source.url)
        # A campaign's own version says nothing of the lists and tables that it reads.
        same = file is not None and source.version and file.version == source.version
        if file is not None and same and not is_campaign(source.url):
            return file.sha256
        return sha256_of(source.url, options)

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        hashes = list(pool.map(sha256, sources))
    return {
        source.url: identity_of(source.url, digest, source.partition)
        for source, digest in zip(sources, hashes, strict=True)
    }


def _changes(old: Mapping[str, Identity], new: Mapping[str, Identity]) -> list[Change]:
    """The files that differ, by their names below the folder that they share."""
    if len(old) == len(new) == 1:
        (one,), (other,) = old.items(), new.items()
        return [] if one[1] == other[1] else [_change(one, other)]
    old_names, new_names = _by_name(old), _by_name(new)
    changes = []
    for name in sorted(old_names.keys() | new_names.keys()):
        before, after = old_names.get(name), new_names.get(name)
        if before is None or after is None or before[1] != after[1]:
            changes.append(_change(before, after))
    if not changes and list(old.values()) != list(new.values()):
        changes = [Change(ORDER, list(old), list(new))]
    return changes


def _change(before: tuple[str, Identity] | None, after: tuple[str, Identity] | None) -> Change:
    """The change of one file; its SHA-256 is enough unless only the rest differs.

    Args:
        before, after: the file's URL and identity; None if there was or is no such file.
    """
    url = (after or before or ("", ()))[0]
    old, new = (each[1] if each else () for each in (before, after))
    if old[:1] == new[:1]:
        return Change(f"manifest {url}", " ".join(old[1:]), " ".join(new[1:]))
    return Change(f"manifest {url}", *(each[0] if each else None for each in (old, new)))


def _by_name(identities: Mapping[str, Identity]) -> dict[str, tuple[str, Identity]]:
    """URL and identity by the name below the folder that all the files share."""
    folders = [url.split("/")[:-1] for url in identities]
    levels = list(takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False)))
    return {
        "/".join(url.split("/")[len(levels) :]): (url, identity)
        for url, identity in identities.items()
    }
