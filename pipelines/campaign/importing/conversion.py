"""Converts all lists of a wildcard folder together, as they refer to each other."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nightpress.pipelines.campaign.importing import dynamic_prompts, swarmui
from nightpress.pipelines.campaign.importing.output_text import (
    PLAIN,
    Converted,
    Note,
    Resolve,
    Unconvertible,
)
from nightpress.pipelines.campaign.importing.reading import (
    Comment,
    Entry,
    Finding,
    SourceFile,
    SourceList,
    Tool,
)
from nightpress.pipelines.campaign.importing.references import (
    circles,
    dynamic_prompts_resolver,
    swarmui_resolver,
    usable_name,
)
from nightpress.pipelines.campaign.lists import NAME
from nightpress.pipelines.storage.urls import public


@dataclass
class ConvertedList:
    """A list in the language of campaigns."""

    name: str
    source: SourceList
    items: list[Entry | Comment] = field(default_factory=list)
    uses: dict[str, list[Entry]] = field(default_factory=dict)
    """The lists that it refers to, each with the entries, as written, that do."""
    axes: set[str] = field(default_factory=set)
    """Names that the campaign must give values."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def num_entries(self) -> int:
        """How many items are entries."""
        return sum(isinstance(item, Entry) for item in self.items)

    def leave_out(self, entry: Entry, message: str, offset: int = 0) -> None:
        """Keep an entry as a comment."""
        finding = Finding.at("not converted", self.source.file, entry.place_of(offset), message)
        self.findings.append(finding)
        weight = "" if entry.weight is None else f"{entry.weight}::"
        self.items.append(Comment(f"left out: {message}\n{weight}{entry.text}"))


@dataclass
class Conversion:
    """All lists of a folder in the language of campaigns."""

    lists: list[ConvertedList]
    """Those with entries, sorted by name."""
    findings: list[Finding]


def convert_lists(files: Sequence[SourceFile], tool: Tool, wrap: str) -> Conversion:
    """Convert the lists of a folder.

    Lists that keep no entry, and references that close a circle, are taken out and the rest is
    converted again, until every reference leads to entries.
    """
    findings = [finding for file in files for finding in file.findings]
    sources = _by_name(files, findings)
    names = _new_names(sources, findings)
    refused: dict[tuple[str, Entry], str] = {}
    while True:
        resolve = _resolver(tool, names, sources.keys() - names.keys())
        lists = [
            _convert_list(sources[old], new, resolve, tool, wrap, refused)
            for old, new in names.items()
        ]
        empty = [each for each in lists if not each.num_entries]
        if not empty:
            before = len(refused)
            _refuse_circles(lists, refused)
            if len(refused) == before:
                break
        for each in empty:
            del names[each.source.name]
            findings += [*each.findings, _about_empty(each)]
    return Conversion(
        sorted(lists, key=lambda each: each.name),
        findings + [finding for each in lists for finding in each.findings],
    )


def _about_empty(found: ConvertedList) -> Finding:
    message = f"the list {found.source.name} has no entries, so it is not written"
    return Finding.at("converted", found.source.file, None, message)


def _by_name(files: Sequence[SourceFile], findings: list[Finding]) -> dict[str, SourceList]:
    """The lists by their names; of two with one name, the first."""
    sources: dict[str, SourceList] = {}
    for file in files:
        for found in file.lists:
            first = sources.setdefault(found.name, found)
            if first is not found:
                where = "in this file" if first.file == found.file else f"in {public(first.file)}"
                message = f"the list {found.name} is {where} too"
                findings.append(Finding.at("not converted", file.url, None, message))
    return sources


def _new_names(sources: Mapping[str, SourceList], findings: list[Finding]) -> dict[str, str]:
    """The name of each list in the campaign."""
    names = {name: name for name in sources if NAME.fullmatch(name)}
    for name in sources:
        if name not in names:
            names[name] = usable_name(name, names.values())
            message = f"the list {name!r} becomes {names[name]!r}, a name that templates can have"
            findings.append(Finding.at("converted", sources[name].file, None, message))
    return names


def _resolver(tool: Tool, names: Mapping[str, str], empty: Collection[str]) -> Resolve:
    make = swarmui_resolver if tool == "swarmui" else dynamic_prompts_resolver
    return make(dict(names), empty)


def _convert_list(
    source: SourceList,
    name: str,
    resolve: Resolve,
    tool: Tool,
    wrap: str,
    refused: Mapping[tuple[str, Entry], str],
) -> ConvertedList:
    made = ConvertedList(name, source)
    seen: set[tuple[str | None, str]] = set()
    num_repeated = 0
    for item in source.items:
        if isinstance(item, Comment):
            made.items.append(item)
        elif (reason := refused.get((source.name, item))) is not None:
            made.leave_out(item, reason)
        elif tool == "dynamic-prompts" and (item.weight, item.text) in seen:
            num_repeated += 1
        else:
            seen.add((item.weight, item.text))
            _convert_entry(made, item, resolve, tool, wrap)
    if num_repeated:
        what = "entry is" if num_repeated == 1 else "entries are"
        message = f"the list {source.name}: {num_repeated:,} repeated {what} left out"
        made.findings.append(Finding.at("converted", source.file, None, message))
    return made


def _convert_entry(
    made: ConvertedList, entry: Entry, resolve: Resolve, tool: Tool, wrap: str
) -> None:
    if PLAIN.fullmatch(entry.text) and wrap not in entry.text:
        made.items.append(entry)
        return
    try:
        if tool == "swarmui":
            converted = swarmui.convert(entry.text, resolve)
        else:
            converted = dynamic_prompts.convert(entry.text, resolve, wrap)
    except Unconvertible as error:
        made.leave_out(entry, error.message, error.offset)
        return
    converted.notes.extend(_other_syntax(entry.text, tool))
    _note(made, entry, converted)
    made.items.extend(map(Comment, converted.comments))
    if converted.text:
        made.items.append(entry._replace(text=converted.text))
        made.axes |= converted.axes
        for used in sorted(converted.uses):
            made.uses.setdefault(used, []).append(entry)


def _other_syntax(text: str, tool: Tool) -> Iterator[Note]:
    """What is syntax of the other tool, and text to this one."""
    if tool == "swarmui" and (found := dynamic_prompts.SIGN.search(text)):
        message = "this has a meaning in sd-dynamic-prompts, but is text in SwarmUI"
        yield Note("kept as text", found.start(), message)
    if tool == "dynamic-prompts" and (found := swarmui.SIGN.search(text)):
        message = "this has a meaning in SwarmUI, but is text in sd-dynamic-prompts"
        yield Note("kept as text", found.start(), message)


def _note(made: ConvertedList, entry: Entry, converted: Converted) -> None:
    for note in converted.notes:
        place = entry.place_of(note.offset)
        made.findings.append(Finding.at(note.kind, made.source.file, place, note.message))


def _refuse_circles(lists: Sequence[ConvertedList], refused: dict[tuple[str, Entry], str]) -> None:
    """Take out one reference of each circle."""
    by_name = {each.name: each for each in lists}
    uses = {each.name: [*each.uses] for each in lists}
    for circle in circles(lambda: uses):
        last, first = circle[-2], circle[-1]
        message = f"the list refers back to itself: {' -> '.join((last, *circle[:-1]))}"
        for entry in by_name[last].uses[first]:
            refused[by_name[last].source.name, entry] = message
        uses[last].remove(first)


def reached(lists: Sequence[ConvertedList], name: str) -> Iterator[ConvertedList]:
    """A list and all that it refers to, directly or not."""
    by_name = {each.name: each for each in lists}
    waiting, seen = [name], {name}
    while waiting:
        found = by_name[waiting.pop()]
        yield found
        waiting += [used for used in found.uses if used not in seen]
        seen |= found.uses.keys()
