"""Finds the lists that a reference of SwarmUI or sd-dynamic-prompts means, and circles of them."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from graphlib import CycleError, TopologicalSorter

from nightpress.pipelines.campaign.importing.output_text import Resolve, Resolved
from nightpress.pipelines.campaign.lists import is_pattern, pattern_regex

Names = Mapping[str, str]
"""The name of each list in the folder, and its name in the campaign."""


def swarmui_resolver(names: Names, empty: Collection[str] = ()) -> Resolve:
    """Finds a list as SwarmUI does: without case, else the shortest name that contains the text.

    Args:
        names: the lists that there are.
        empty: the names of lists that have no entries, for messages.
    """
    folded = {name.lower(): name for name in sorted(names, reverse=True)}

    @cache
    def resolve(name: str) -> Resolved:
        wanted = name.lower()
        if not wanted:
            raise LookupError("a reference names no list")
        containing = [each for each in folded if wanted in each]
        best = wanted if wanted in folded else min(containing, key=len, default=None)
        if best is None:
            raise LookupError(_missing(name, names, empty))
        return _single(name, folded[best], names)

    return resolve


def dynamic_prompts_resolver(names: Names, empty: Collection[str] = ()) -> Resolve:
    """Finds lists as sd-dynamic-prompts does: by a name or pattern, else in any folder.

    Args:
        names: the lists that there are.
        empty: the names of lists that have no entries, for messages.
    """

    @cache
    def resolve(name: str) -> Resolved:
        pattern = re.sub(r"[\\/]+", "/", name).strip("/")
        if pattern in names:
            return _single(name, pattern, names)
        is_glob = re.search(r"[*?[]", pattern) is not None
        for each in (pattern, f"**/{pattern}") if is_glob else (f"**/{pattern}",):
            found = (
                [key for key in names if fnmatchcase(key, each)]
                if is_glob
                else [key for key in names if key.endswith(f"/{pattern}")]
            )
            if len(found) == 1 and not is_glob:
                return _single(name, found[0], names)
            if found:
                return _several(name, each, found, names)
        same = [key for key in names if key.casefold() == pattern.casefold()]
        if len(same) == 1:
            return _single(name, same[0], names)
        raise LookupError(_missing(name, names, empty))

    return resolve


def circles(uses: Callable[[], Mapping[str, Iterable[str]]]) -> Iterable[tuple[str, ...]]:
    """Lists that refer to each other in a circle, one circle at a time.

    Args:
        uses: gives the names of the lists that each list refers to. It is asked again after each
            circle, which must have been broken.
    """
    while True:
        try:
            TopologicalSorter(uses()).prepare()
        except CycleError as error:
            # graphlib names each list before the one that refers to it
            yield tuple(reversed(error.args[1]))
        else:
            return


def usable_name(name: str, taken: Iterable[str]) -> str:
    """A name like this one that a template can refer to, and that is not taken."""
    parts = [re.sub(r"[^\w ./+&'()-]|__+", "_", part).strip("_ ") for part in name.split("/")]
    base = "/".join(re.sub("_+", "_", part) or "list" for part in parts)
    base = base if re.match(r"[\w-]", base) else f"list {base}"
    others, number, made = set(taken), 1, base
    while made in others:
        number += 1
        made = f"{base}-{number}"
    return made


def _single(written: str, name: str, names: Names) -> Resolved:
    new = names[name]
    return Resolved(new, (new,), None if new == written else f"{written} becomes {new}")


def _several(written: str, pattern: str, found: Sequence[str], names: Names) -> Resolved:
    """A pattern that means the same lists here, where * stays in a folder and ** does not."""
    wanted = sorted(names[each] for each in found)
    own = re.sub(r"\*+", "**", pattern)
    for candidate in dict.fromkeys((re.sub(r"\*+", "*", pattern), pattern, own)):
        matches = pattern_regex(candidate).fullmatch
        if is_pattern(candidate) and sorted(filter(matches, names.values())) == wanted:
            message = None if candidate == written else f"{written} becomes {candidate}"
            return Resolved(candidate, tuple(wanted), message)
    raise LookupError(f"no pattern of * and ** means the same lists as {written}")


def _missing(name: str, names: Names, empty: Collection[str]) -> str:
    """What is wrong, with a name that was perhaps meant; those that begin alike are compared."""
    folded = name.casefold()
    if any(f"/{each.casefold()}".endswith(f"/{folded}") for each in empty):
        return f"the list {name} has no entries that can be used"
    start = folded.rpartition("/")[2][:1]
    alike = {key.casefold(): key for key in names if key.casefold().rpartition("/")[2][:1] == start}
    near = get_close_matches(folded, alike, 1)
    hint = f"; did you mean {alike[near[0]]}?" if near else ""
    return f"there is no list {name}{hint}"
