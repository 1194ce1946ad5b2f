"""Names that were perhaps meant where there is none of the name that was given."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_SHOWN = 10


def did_you_mean(name: str, known: Iterable[str], what: str) -> str:
    """`did you mean golden or gold?`, or the first of all names if none is near.

    Args:
        name: what was given.
        known: the names that there are.
        what: what they are, in the plural.
    """
    names = sorted(known)
    folded = {each.casefold(): each for each in names}
    near = [folded[each] for each in get_close_matches(name.casefold(), folded, 3)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    if not names:
        return f"there are no {what}"
    shown = ", ".join(names[:MOST_SHOWN])
    more = f" and {len(names) - MOST_SHOWN:,} more" if len(names) > MOST_SHOWN else ""
    return f"the {what} are: {shown}{more}"
