"""What becomes of each row of a source shard: its split, or why its image is dropped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from nightpress.pipelines.export.index import Drop
from nightpress.pipelines.export.plan import Leak
from nightpress.pipelines.export.spec import ExportSpec, SelectSpec
from nightpress.pipelines.export.splits import SPLITS, splits_of
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.where import parse_condition


@dataclass(frozen=True)
class Decision:
    """What becomes of one row."""

    split: str | None
    """None if it is dropped."""
    reason: Drop | None = None
    detail: str | None = None


def decide(
    part: pa.Table,
    spec: ExportSpec,
    wanted: Mapping[int, str] | None,
    leaks: Mapping[int, Leak],
) -> list[Decision]:
    """Decide each row of a commit.

    Args:
        part: the commit's rows, with every column of its run.
        spec: the export.
        wanted: row -> SHA-256 that a selection has for it; None without a selection.
        leaks: rows that are left out because of other images.
    """
    splits = splits_of(part, spec.split, spec.seed)
    met = _meets(part, spec)
    statuses, hashes = (part.column(name).to_pylist() for name in ("status", "sha256"))
    errors = _errors(part, spec)
    decisions = []
    for row, status in enumerate(statuses):
        drop = _drop(status, errors[row], hashes[row], met[row], _asked(wanted, row))
        split = SPLITS[splits[row]]
        if drop is None and row in leaks:
            drop = Decision(None, leaks[row].reason, leaks[row].other or None)
        decisions.append(drop or Decision(split))
    return decisions


def _errors(part: pa.Table, spec: ExportSpec) -> list[str | None]:
    """Why each row failed: the type of its error, and what the gates did not let pass.

    Other errors may tell prompts and machines.
    """
    types, texts = (part.column(name).to_pylist() for name in ("error_type", "error"))
    tells = spec.metadata != "none"
    return [
        f"{type_}: {text}" if type_ == FailureType.REJECTED and tells and text else type_
        for type_, text in zip(types, texts, strict=True)
    ]


_ANY = ""
"""Stands for the hash of an image that no selection names."""


def _asked(wanted: Mapping[int, str] | None, row: int) -> str | None:
    return _ANY if wanted is None else wanted.get(row)


def _drop(
    status: str, error: str | None, sha256: str | None, meets: bool, asked: str | None
) -> Decision | None:
    """The decision for an image that is dropped for what it is; None if it is not.

    Args:
        asked: the hash that a selection has for it; None if the selection does not name it.
    """
    if status != "ok":
        return Decision(None, Drop.FAILED, error)
    if not meets or asked is None:
        return Decision(None, Drop.NOT_SELECTED)
    if asked not in (_ANY, sha256):
        return Decision(None, Drop.CHANGED)
    return None


def _meets(part: pa.Table, spec: ExportSpec) -> list[bool]:
    """Whether each row meets the condition of the export."""
    if not isinstance(spec.select, SelectSpec):
        return [True] * len(part)
    condition = parse_condition(spec.select.where, part.schema)
    numbered = part.append_column("", pa.array(range(len(part)), pa.int64()))
    met = set(numbered.filter(condition).column("").to_pylist())
    return [row in met for row in range(len(part))]


def rows_by_split(decisions: Sequence[Decision]) -> dict[str, list[int]]:
    """Split -> the rows that are exported in it, in order."""
    found: dict[str, list[int]] = {}
    for row, decision in enumerate(decisions):
        if decision.split is not None:
            found.setdefault(decision.split, []).append(row)
    return found
