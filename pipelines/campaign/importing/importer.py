"""Imports a wildcard folder: reads it, converts its entries, writes lists and a first campaign."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nightpress.pipelines.campaign.importing import dynamic_prompts, swarmui
from nightpress.pipelines.campaign.importing.conversion import (
    Conversion,
    ConvertedList,
    convert_lists,
)
from nightpress.pipelines.campaign.importing.reading import (
    TOOL_NAMES,
    Entry,
    Finding,
    SourceFile,
    Tool,
    read_source,
)
from nightpress.pipelines.campaign.importing.starter import campaign_text
from nightpress.pipelines.campaign.list_files import MAX_FILE_BYTES, SUFFIXES
from nightpress.pipelines.campaign.lists import Skipped, list_sources
from nightpress.pipelines.errors import ManifestError, NotConverted, Problem, StoreDenied
from nightpress.pipelines.storage import READ_THREADS, Options, Source, Store, open_source
from nightpress.pipelines.storage.urls import absolute, public

LISTS_FOLDER = "lists"


@dataclass(frozen=True)
class Imported:
    """What an import has written, and what is to be said about it."""

    url: str
    """The folder that was written."""
    campaign: str
    """The name of the campaign file in it."""
    tool: Tool
    """Whose syntax was read."""
    num_lists: int
    num_entries: int
    findings: tuple[Finding, ...]
    """What was changed, kept as text, or left out, in the order of the files and lines."""
    skipped: tuple[Skipped, ...]
    """Files that are no lists."""

    @property
    def num_left_out(self) -> int:
        """How many entries, lists or files could not be converted."""
        return sum(each.kind == "not converted" for each in self.findings)


def import_lists(
    folder: str,
    output: str,
    *,
    tool: Tool | None = None,
    wrap: str = dynamic_prompts.DEFAULT_WRAP,
    leave_out: bool = False,
    options: Options | None = None,
) -> Imported:
    """Convert a wildcard folder of SwarmUI or sd-dynamic-prompts.

    Args:
        folder: the URL of the folder.
        output: the URL of the folder to write, which is empty or not there yet.
        tool: whose syntax the entries have; by default that is seen from the entries.
        wrap: what stands around the name of a list in sd-dynamic-prompts.
        leave_out: whether to leave out what cannot be converted. It stays in the lists as comments.
        options: fsspec options by protocol.

    Raises:
        NotConverted: something cannot be converted; nothing was written.
        ManifestError: there is no list.
        StoreDenied: the output is not empty.
        StoreError: a store refuses or fails.
    """
    store, where = Store(output, options), public(absolute(folder))
    _require_empty(store)
    files, skipped = _read(folder, options)
    tool = tool or _tool_of(files, wrap)
    converted = convert_lists(files, tool, wrap)
    findings = sorted(converted.findings, key=_place)
    _require_convertible(converted, findings, leave_out, where)
    name = _campaign_name(folder)
    text = campaign_text(converted.lists, LISTS_FOLDER, where, TOOL_NAMES[tool])
    _write(store, {_path_of(each): _file_of(each) for each in converted.lists})
    _write(store, {name: text.encode()})
    num_entries = sum(each.num_entries for each in converted.lists)
    return Imported(
        store.url, name, tool, len(converted.lists), num_entries, tuple(findings), tuple(skipped)
    )


def _require_convertible(
    converted: Conversion, findings: Sequence[Finding], leave_out: bool, where: str
) -> None:
    bad = [each.problem for each in findings if each.kind == "not converted"]
    if bad and not leave_out:
        raise NotConverted(bad)
    if not converted.lists:
        message = f"there is no list here; lists are {' '.join(SUFFIXES)} files with entries"
        raise ManifestError([Problem(where, None, None, message)])


def _write(store: Store, files: Mapping[str, bytes]) -> None:
    """Write new files, side by side.

    Raises:
        StoreDenied: another process has written one of them meanwhile.
    """
    with ThreadPoolExecutor(READ_THREADS) as pool:
        made = list(pool.map(store.create, files, files.values()))
    if not all(made):
        raise StoreDenied(f"{public(store.url)}: another process writes to this folder")


def _require_empty(store: Store) -> None:
    store.require_answer()
    if next(iter(store.pages()), None):
        raise StoreDenied(f"{public(store.url)}: this folder is not empty; name a new one")


def _read(folder: str, options: Options | None) -> tuple[list[SourceFile], list[Skipped]]:
    skipped: list[Skipped] = []
    sources: list[tuple[Source, str]] = []
    for source, path in list_sources(folder, options):
        if not path.lower().endswith(SUFFIXES):
            skipped.append(Skipped(source.url, f"not one of {' '.join(SUFFIXES)}"))
        elif source.num_bytes > MAX_FILE_BYTES:
            skipped.append(Skipped(source.url, f"larger than {MAX_FILE_BYTES >> 20} MiB"))
        else:
            sources.append((source, path))

    def read(each: tuple[Source, str]) -> SourceFile:
        with open_source(each[0].url, options) as stream:
            return read_source(each[0].url, each[1], stream.read())

    with ThreadPoolExecutor(READ_THREADS) as pool:
        return list(pool.map(read, sources)), skipped


def _tool_of(files: Sequence[SourceFile], wrap: str) -> Tool:
    """Whose syntax the entries have; a tag such as `<random:...>` can only be SwarmUI's."""
    if wrap != dynamic_prompts.DEFAULT_WRAP:
        return "dynamic-prompts"
    entries = [entry for file in files for each in file.lists for entry in each.entries]
    if any(swarmui.SIGN.search(entry.text) for entry in entries):
        return "swarmui"
    is_structured = any(not file.url.lower().endswith(".txt") for file in files)
    if is_structured or any(dynamic_prompts.SIGN.search(entry.text) for entry in entries):
        return "dynamic-prompts"
    return "swarmui"


def _place(finding: Finding) -> tuple[str, int, int]:
    problem = finding.problem
    return problem.file, problem.line or 0, problem.character or 0


def _campaign_name(folder: str) -> str:
    last = absolute(folder).partition("*")[0].rstrip("/").rpartition("/")[2]
    stem = re.sub(r"[^\w-]+", "-", last.removesuffix(".txt")).strip("-")
    return f"{stem or 'lists'}.campaign.yaml"


def _path_of(found: ConvertedList) -> str:
    return f"{LISTS_FOLDER}/{found.name}.txt"


def _file_of(found: ConvertedList) -> bytes:
    """The list as a file of one entry a line."""
    lines: list[str] = []
    for item in found.items:
        if isinstance(item, Entry):
            lines.append(item.text if item.weight is None else f"{item.weight}::{item.text}")
        else:
            lines.extend(f"# {line}".rstrip() for line in item.text.split("\n"))
    return ("\n".join(lines) + "\n").encode()
