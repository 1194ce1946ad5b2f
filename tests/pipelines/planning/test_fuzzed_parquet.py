"""Random Parquet files: what is planned of them is what pyarrow reads."""

import io
import random
import re
from collections.abc import Iterable
from datetime import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support.fuzzed_parquet import fuzzed_array, fuzzed_parquet, fuzzed_type
from support.plans import MODEL, job

from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.manifest.python_values import python_values
from nightpress.pipelines.manifest.types import plain_type
from nightpress.pipelines.planning import check, plan_part
from nightpress.pipelines.records import carried_name


def differences(folder: Path, seeds: Iterable[int]) -> list[str]:
    """Where a plan differs from what pyarrow reads and from what was written.

    A few files are damaged: Arrow splits lists of booleans wrongly into tiny pages. What pyarrow
    cannot read must be refused.
    """
    found = []
    for seed in seeds:
        file = fuzzed_parquet(seed)
        (folder / "m.parquet").write_bytes(file.data)
        read, plan = _read_by_pyarrow(file.data), _read_by_us(folder)
        if read is None or plan is None:
            found += [f"seed {seed}: only one refuses it"] if read is not plan else []
            continue
        for name in file.table.column_names:
            ours, theirs, written = (
                repr(python_values(table[column]))
                for table, column in (
                    (plan, "prompt" if name == "prompt" else carried_name(name)),
                    (read, name),
                    (file.table, name),
                )
            )
            if ours != theirs:
                found.append(f"seed {seed}, column {name!r}: {ours} instead of {theirs}")
            if ours != written and read.schema.field(name).type == file.table[name].type:
                found.append(f"seed {seed}, column {name!r}: {ours}, but {written} was written")
    return found


def _read_by_us(folder: Path) -> pa.Table | None:
    spec = job(folder, folder / "m.parquet")
    try:
        layout = check(spec, MODEL)
    except ManifestError:
        return None
    parts = [plan_part(spec, MODEL, layout, part) for part in range(len(layout.parts))]
    return pa.concat_tables(parts)


def _read_by_pyarrow(data: bytes) -> pa.Table | None:
    try:
        table = pq.read_table(io.BytesIO(data))
        table.validate(full=True)
    except (pa.ArrowInvalid, OSError):
        return None
    return table


def test_a_few_random_files_are_read_as_pyarrow_reads_them(tmp_path: Path) -> None:
    assert differences(tmp_path, range(120)) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_random_files_are_read_as_pyarrow_reads_them(tmp_path: Path) -> None:
    assert differences(tmp_path, range(10_000)) == []


def mixtures(folder: Path, seeds: Iterable[int]) -> tuple[int, list[str]]:
    """How many pairs of files with a column of two types were planned, and what was wrong then."""
    planned, found = 0, []
    for seed in seeds:
        dice = random.Random(seed)
        arrays = [fuzzed_array(dice, fuzzed_type(dice, dice.choice([0, 0, 1])), 3) for _ in "ab"]
        for name, array in zip("ab", arrays, strict=True):
            table = pa.table({"prompt": ["x", "y", "z"], "c": array})
            pq.write_table(table, folder / f"{name}.parquet")
        spec = job(folder, [folder / "a.parquet", folder / "b.parquet"])
        try:
            layout = check(spec, MODEL)
        except ManifestError:
            continue
        planned += 1
        parts = [plan_part(spec, MODEL, layout, part) for part in range(len(layout.parts))]
        column = pa.concat_tables(parts)["c"]
        given = [value for array in arrays for value in python_values(pa.chunked_array([array]))]
        types = [arrays[row // 3].type for row in range(6)]
        for value, arrived, type_ in zip(given, python_values(column), types, strict=True):
            if not same(value, arrived, type_):
                found.append(f"seed {seed}: {value!r} of {type_} arrived as {arrived!r}")
    return planned, found


def same(value: Any, arrived: Any, type_: pa.DataType) -> bool:
    """Whether a value is the same in another type; text is compared with the value's own text."""
    if isinstance(arrived, str) and value is not None and not isinstance(value, str):
        value_again = _read_back(arrived, type_)
        return value == value_again or repr(value) == repr(value_again)
    if isinstance(value, dict):
        return all(same(value.get(key), arrived[key], pa.null()) for key in arrived)
    if isinstance(value, list):
        return len(value) == len(arrived) and all(
            same(one, other, pa.null()) for one, other in zip(value, arrived, strict=True)
        )
    return value == arrived or repr(value) == repr(arrived)


def _read_back(text: str, type_: pa.DataType) -> Any:
    if pa.types.is_boolean(type_):
        return {"true": True, "false": False}[text]
    if pa.types.is_time(type_):
        return time.fromisoformat(text)
    if pa.types.is_timestamp(type_) and type_.tz is not None:
        text = re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text)
    return python_values(pa.chunked_array([pc.cast(pa.array([text]), plain_type(type_))]))[0]


def test_a_column_of_two_types_keeps_every_value_or_is_refused(tmp_path: Path) -> None:
    planned, found = mixtures(tmp_path, range(200))
    assert found == []
    assert planned > 20
