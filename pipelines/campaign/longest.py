"""The longest text that a template can draw, by any measure of length."""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.campaign.axes import Axis
from nightpress.pipelines.campaign.campaign import Campaign, names_in
from nightpress.pipelines.campaign.compiled import Alternatives, AxisValue, Compiled
from nightpress.pipelines.campaign.permutation import Ints

Measure = Callable[[str], int]
"""The length of a text, such as its number of tokens."""

NOTHING: Mapping[str, str] = {}

MOST_MEASURED = 32
"""Of many texts only so many are measured: those with most bytes."""


def longest_text(
    campaign: Campaign, column: str, measure: Measure, fixed: Mapping[str, str] = NOTHING
) -> str | None:
    """The longest text that a column can have; None if nothing in it is drawn.

    Lengths are taken to add up, so another text may be a little longer. Where rules forbid the
    longest values of the axes together, nothing is known, and None is returned.

    Args:
        campaign: where the column is.
        column: its name.
        measure: of a text.
        fixed: names of axes -> the value that they have; None is returned if they never have it.
    """
    compiled = campaign.templates.texts.get(column)
    if compiled is None or not any(isinstance(part, Alternatives) for part in compiled):
        return None
    values: dict[str, str] = {}
    chosen: dict[int, int] = {}
    for number, axis in enumerate(campaign.axes):
        names = [name for name in names_in(compiled) if name in axis.texts]
        allowed = _with_values(axis, fixed)
        if not len(allowed):
            return None
        if names:
            totals = sum(_lengths(axis.texts[name], measure) for name in names)
            chosen[number] = int(allowed[np.argmax(np.asarray(totals)[allowed])])
            values |= {name: axis.texts[name][chosen[number]].as_py() for name in names}
        elif fixed.keys() & axis.texts.keys():
            chosen[number] = int(allowed[0])
    if not campaign.combinations.allows(chosen):
        return None
    return _longest(compiled, values, measure)


def _with_values(axis: Axis, fixed: Mapping[str, str]) -> Ints:
    """The places of an axis where it has the fixed values; (n,)."""
    held = np.ones(len(axis), bool)
    for name in fixed.keys() & axis.texts.keys():
        held &= np.array(pc.fill_null(pc.equal(axis.texts[name], fixed[name]), False))
    return np.flatnonzero(held)


def _longest(compiled: Compiled, values: Mapping[str, str], measure: Measure) -> str:
    texts = []
    for part in compiled:
        match part:
            case str():
                texts.append(part)
            case AxisValue(name):
                texts.append(values.get(name, ""))
            case Alternatives():
                texts.append(_of_alternatives(part, values, measure))
    return "".join(texts)


def _of_alternatives(part: Alternatives, values: Mapping[str, str], measure: Measure) -> str:
    possible = np.flatnonzero(part.weights.values > 0)
    plain = possible[~part.is_templated[possible]]
    texts = _with_most_bytes(part.texts.take(pa.array(plain))) if len(plain) else []
    for option, compiled in part.options.items():
        if part.weights.values[option] > 0:
            texts.append(_longest(compiled, values, measure))
    texts.sort(key=measure, reverse=True)
    return part.separator.join(texts[: max(1, part.most)])


def _with_most_bytes(texts: pa.StringArray) -> list[str]:
    number = min(MOST_MEASURED, len(texts))
    order = np.argsort(-np.array(pc.binary_length(texts)), kind="stable")[:number]
    found: list[str] = texts.take(pa.array(order)).to_pylist()
    return found


def _lengths(texts: pa.StringArray, measure: Measure) -> Ints:
    """The length of each text, exact for those with most bytes, 0 for the others; (n,)."""
    found = np.zeros(len(texts), np.int64)
    sizes = np.array(pc.fill_null(pc.binary_length(texts), 0))
    for row in np.argsort(-sizes, kind="stable")[:MOST_MEASURED].tolist():
        found[row] = measure(texts[row].as_py() or "")
    return found
