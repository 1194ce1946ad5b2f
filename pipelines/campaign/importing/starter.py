"""Writes the campaign that an import begins with."""

import json
from collections.abc import Sequence

from nightpress.pipelines.campaign.importing.conversion import ConvertedList, reached

MOST_ROWS = 24

_TEXT = """\
# Made by nightpress import from {folder} ({tool}).
# {first} is one of {num_lists:,} lists; every list can stand in the prompt, as __name__.
prompt: {prompt}
lists: {lists_folder}
{axes}draw: {{rows: {rows}}}
duplicates: keep  # rows with the same prompt differ in their seeds
"""


def campaign_text(lists: Sequence[ConvertedList], lists_folder: str, folder: str, tool: str) -> str:
    """A campaign that draws from one of the lists.

    Args:
        lists: not empty; the one with the fewest axes is used, and of these the one that refers to
            the most others.
        lists_folder: where they are, relative to the campaign.
        folder: where they come from, for people.
        tool: whose folder it was, for people.
    """
    axes = {each.name: _axes(lists, each.name) for each in lists}
    best = min(lists, key=lambda each: (len(axes[each.name]), -len(each.uses), each.name))
    needed = [
        f"  {name}: [{json.dumps(name)}]  # the values of ${{{name}}}" for name in axes[best.name]
    ]
    return _TEXT.format(
        folder=folder,
        tool=tool,
        first=best.name,
        num_lists=len(lists),
        prompt=json.dumps(f"__{best.name}__", ensure_ascii=False),
        lists_folder=lists_folder,
        axes="".join(f"{line}\n" for line in (["axes:", *needed] if needed else [])),
        rows=min(MOST_ROWS, best.num_entries),
    )


def _axes(lists: Sequence[ConvertedList], name: str) -> list[str]:
    return sorted({axis for each in reached(lists, name) for axis in each.axes})
