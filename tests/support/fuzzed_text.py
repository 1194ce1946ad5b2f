"""Random text manifests, and what Python's own readers make of them.

    python tests/support/fuzzed_text.py --files 10000

writes so many files of each format, well-formed and damaged, reads each with nightpress and with
`csv`, `json` and pandas, and prints how many agree. A difference, a file that is read but gives
other values than the other reader gives, ends it with exit code 1.
"""

import argparse
import bz2
import csv
import gzip
import io
import json
import math
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pyarrow as pa

from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.manifest import text
from nightpress.pipelines.manifest.file_records import RowRange
from nightpress.pipelines.manifest.files import read_rows, scan
from nightpress.pipelines.storage import find

FORMATS = ("csv", "tsv", "jsonl", "txt")

Table = list[dict[str, Any]]


class OtherReaderRefuses(Exception):
    """The independent reader does not read the file either."""


@dataclass
class Tally:
    """How reading many files ended."""

    equal: int = 0
    refused_by_both: int = 0
    refused_by_us: Counter[str] = field(default_factory=Counter)
    """Files that the other reader reads, by why we refuse them."""
    different: list[tuple[bytes, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.equal} read and equal, {self.refused_by_both} refused by both, "
            f"{self.refused_by_us.total()} refused by us alone, {len(self.different)} different"
        ]
        lines += [f"  {count:5} {why}" for why, count in self.refused_by_us.most_common()]
        return "\n".join(lines)


# --- random files

PIECES = {
    "csv": ['"', '""', '"""', ",", "\n", "\r\n", " ", "a", "é", "\u2028", ";", "\t"],
    "jsonl": ['"', ",", ":", "{", "}", "[", "]", "\n", "\r", " ", "\\", "0", "1", "e", ".", "-"],
    "txt": ["\n", "\r\n", "\n\n", " ", "a", '"', "é", "\u2028", "\ufeff", "\t"],
}
PIECES["csv"] += ['\\"', "\\n", "'", "007", "1e5", "NA", "7,5", "\n\n", '"\n"', "\ufeff"]
PIECES["tsv"] = [piece.replace(",", "\t") for piece in PIECES["csv"]] + [","]
PIECES["jsonl"] += ['{"a":1}', '"a":2,', "null", "NaN", "Infinity", "\n\n", "\u2028", "\ufeff"]
DAMAGE = ["\x00", "\x1b", "\x7f", "\x0c", "\x85", "\r"]

VALUES = [
    "a cat",
    "",
    " ",
    'say "hi"',
    '"x" y',
    '"',
    '""',
    "a,b",
    "a\tb",
    "two\nlines",
    "é😀",
    "007",
]
VALUES += ["NA", "null", "true", "2024-01-01", "10:00:00", "1_000", "1e5", "a\r\nb", "x\ry", "\\n"]

SCALARS = [0, 1, -1, 7, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, 10**40, 0.0, -0.0, 1.0]
SCALARS += [
    0.1,
    1e5,
    1e300,
    5e-324,
    True,
    False,
    None,
    "1",
    "x",
    "",
    "2024-01-01",
    "é",
    "\ud83d\ude00",
]
SCALARS += ["2024-01-01 10:00:00", "10:00", "\x00", "a\nb"]

NUMBERS = [
    "1e5",
    "1E+2",
    "-0",
    "-0.0",
    "1.50",
    "0.1234567890123456789",
    "1e-400",
    "12345678901234567",
]
NUMBERS += [
    "1" * 400,
    "0." + "1" * 30,
    "9007199254740993.0",
    "1e400",
    "007",
    "1.",
    "Inf",
    "-Infinity",
]
NUMBERS += ["NaN", '"\\u0041"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\/"', "[1, 2.50]", '{"k": 1}']


def random_file(dice: random.Random, name: str) -> bytes:
    """A file of a format: mostly well-formed, often with a few pieces changed."""
    make: dict[str, Callable[[random.Random], str]] = {
        "csv": lambda dice: _delimited(dice, ","),
        "tsv": lambda dice: _delimited(dice, "\t"),
        "jsonl": _json_lines,
        "txt": _plain,
    }
    data = make[name](dice)
    for _ in range(dice.choice([0, 0, 1, 2, 5])):
        pieces = DAMAGE if dice.random() < 0.05 else PIECES[name]
        at = dice.randrange(len(data) + 1)
        data = data[:at] + dice.choice(pieces) + data[at + dice.choice([0, 0, 1, 3]) :]
    mark = "\ufeff" if dice.random() < 0.1 else ""
    encoding = dice.choice(["utf-8"] * 40 + ["utf-16", "utf-16-le", "latin-1"])
    return (mark + data).encode(encoding, "ignore")


def _delimited(dice: random.Random, separator: str) -> str:
    num_columns = dice.randint(1, 4)
    out = io.StringIO(newline="")
    writer = csv.writer(
        out,
        delimiter=separator,
        lineterminator=dice.choice(["\n", "\n", "\r\n"]),
        quoting=dice.choice([csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    )
    writer.writerow(["prompt", "x", "y z", 'q"q'][:num_columns])
    for _ in range(dice.randint(0, 8)):
        writer.writerow([dice.choice(VALUES) for _ in range(num_columns)])
    data = out.getvalue()
    if dice.random() < 0.2:  # as programs write it that know nothing of quotes
        data = data.replace('"', "") if dice.random() < 0.5 else data.replace('""', '"')
    return data[:-1] if dice.random() < 0.2 else data


def _json_lines(dice: random.Random) -> str:
    names = dice.sample(["prompt", "a", "b", "c d", "é"], dice.randint(1, 4))
    kinds = {name: dice.choice(["same", "number", "any", "nested", "written"]) for name in names}
    same = {name: dice.choice(SCALARS) for name in names}
    end = dice.choice(["\n", "\n", "\r\n", " \n", "\n\n"])
    lines = []
    for _ in range(dice.randint(0, 6)):
        items = [
            f"{json.dumps(name)}:{' ' * dice.randint(0, 1)}{_json(dice, kinds[name], same[name])}"
            for name in names
            if dice.random() < 0.9
        ]
        lines.append("{" + ", ".join(items) + "}" + end)
    return "".join(lines).removesuffix(dice.choice(["", "\n"]))


def _json(dice: random.Random, kind: str, same: Any) -> str:
    match kind:
        case "same":
            value = same if dice.random() < 0.9 else None
        case "number":
            value = dice.choice([value for value in SCALARS if type(value) in (int, float)][:14])
        case "any":
            value = dice.choice(SCALARS)
        case "written":
            return dice.choice(NUMBERS)
        case _:
            value = _nested(dice, 2)
    return json.dumps(value, ensure_ascii=dice.random() < 0.5)


def _nested(dice: random.Random, depth: int) -> Any:
    if depth and dice.random() < 0.4:
        return [_nested(dice, depth - 1) for _ in range(dice.randint(0, 3))]
    if depth and dice.random() < 0.6:
        keys = dice.choice([["k"], ["k", "l"], ["k", "l"], ["l", "k"], []])
        return {key: _nested(dice, depth - 1) for key in keys}
    return dice.choice([1, 1, 2, 2.5, 2**53 + 1, None, "x", "2024-01-01", True])


def _plain(dice: random.Random) -> str:
    end = dice.choice(["\n", "\n", "\r\n"])
    values = [value for value in VALUES if "\n" not in value and "\r" not in value]
    return end.join(dice.choice(values) for _ in range(dice.randint(0, 8)))


# --- other readers


def read_csv(data: bytes, separator: str) -> Table:
    """What `csv` reads, strictly; without its blank lines. Empty fields are empty texts."""
    csv.field_size_limit(1 << 30)
    lines = io.StringIO(_decoded(data), newline="")
    try:
        names, *rows = [row for row in csv.reader(lines, delimiter=separator, strict=True) if row]
    except (csv.Error, ValueError) as error:
        if separator != "\t":
            raise OtherReaderRefuses from error
        return _read_unquoted(data)
    return _as_table(names, rows)


def _read_unquoted(data: bytes) -> Table:
    """TSV that is no quoted TSV, as `csv` reads it without quoting."""
    lines = io.StringIO(_decoded(data), newline="")
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        names, *rows = [row for row in reader if row]
    except (csv.Error, ValueError) as error:
        raise OtherReaderRefuses from error
    return _as_table(names, rows)


def _as_table(names: list[str], rows: list[list[str]]) -> Table:
    names = [name or f"unnamed_{number}" for number, name in enumerate(names)]
    if any(len(row) != len(names) for row in rows) or len(set(names)) < len(names):
        raise OtherReaderRefuses
    return [dict(zip(names, row, strict=True)) for row in rows]


def read_with_pandas(data: bytes, separator: str, quoting: int) -> Table:
    """What pandas reads, with text in every column."""
    frame = pd.read_csv(
        io.BytesIO(data),
        sep=separator,
        dtype=str,
        keep_default_na=False,
        index_col=False,
        quoting=quoting,  # type: ignore[call-overload]
        encoding="utf-8-sig",
        skip_blank_lines=True,
    )
    table: Table = frame.to_dict("records")
    return table


def read_json(data: bytes) -> Table:
    """What `json` reads, line by line."""
    lines = [line for line in _decoded(data).split("\n") if line.strip(" \t\r")]
    try:
        rows = [json.loads(line, object_pairs_hook=_unique) for line in lines]
    except ValueError as error:
        raise OtherReaderRefuses from error
    if not all(isinstance(row, dict) for row in rows):
        raise OtherReaderRefuses
    return rows


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def read_lines(data: bytes) -> Table:
    """What a text file opened in Python gives, line by line."""
    lines = io.StringIO(_decoded(data), newline=None)
    return [{"prompt": line.removesuffix("\n")} for line in lines]


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OtherReaderRefuses from error


# --- comparison


def ours(path: Path) -> tuple[Table, pa.Schema, bool]:
    """A file as nightpress reads it, its columns, and whether its quotes are text."""
    (source,) = find([str(path)], {})
    file = scan(source, {})
    names = file.schema.names
    tables = read_rows(RowRange(file, 0, file.num_rows), names, {}) if file.num_rows else []
    return [row for table in tables for row in table.to_pylist()], file.schema, file.quotes_are_text


def compare(
    folder: Path, name: str, number: int, data: bytes, tally: Tally, dice: random.Random
) -> None:
    """Read one file with both readers, in blocks of a random size, and count the outcome."""
    suffix, stored = dice.choice(
        [("", data)] * 3
        + [(".gz", gzip.compress(data, 1)), (".bz2", bz2.compress(data))]
        + [(".zst", pa.Codec("zstd").compress(data, asbytes=True))]
    )
    path = folder / f"{number}.{name}{suffix}"
    path.write_bytes(stored)
    with mock.patch.object(text, "BLOCK_BYTES", dice.choice([1, 2, 3, 7, 20, 64, 1 << 20])):
        try:
            rows, schema, unquoted = ours(path)
        except ManifestError as error:
            refused = error.problems[0].message
            if "cannot be read" in refused:
                tally.different.append((data, refused))
                return
            _count_refusal(name, data, refused, tally)
            return
        finally:
            path.unlink()
    try:
        expected = _expected(name, data)
    except OtherReaderRefuses:
        tally.different.append((data, f"only we read it: {rows}"))
        return
    if not _equal(name, rows, schema, expected):
        tally.different.append((data, f"{rows} instead of {expected}"))
        return
    if name in ("csv", "tsv") and rows and not _pandas_agrees(name, data, rows, unquoted):
        tally.different.append((data, f"pandas does not say {rows}"))
        return
    tally.equal += 1


def _expected(name: str, data: bytes) -> Table:
    match name:
        case "csv":
            return read_csv(data, ",")
        case "tsv":
            return read_csv(data, "\t")
        case "jsonl":
            return read_json(data)
        case _:
            return read_lines(data)


def _count_refusal(name: str, data: bytes, refused: str, tally: Tally) -> None:
    try:
        _expected(name, data)
    except OtherReaderRefuses:
        tally.refused_by_both += 1
        return
    why = re.sub(r"'[^']*'|U\+00[0-9A-F]{2}|: .*|; .*|(?<=number )\S+", "...", refused)
    tally.refused_by_us[why] += 1


def _pandas_agrees(name: str, data: bytes, rows: Table, unquoted: bool) -> bool:
    """Whether pandas gives the same; it skips lines of blanks alone, which `csv` does not."""
    quoting = csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL
    theirs = read_with_pandas(data, "," if name == "csv" else "\t", quoting)
    texts = [[value or "" for value in row.values()] for row in rows]
    filled = [row for row in texts if len(row) > 1 or not row[0] or row[0].strip(" \t")]
    return [list(row.values()) for row in theirs] in (texts, filled)


def _equal(name: str, rows: Table, schema: pa.Schema, expected: Table) -> bool:
    if name != "jsonl":
        return [{key: value or "" for key, value in row.items()} for row in rows] == expected
    if len(rows) != len(expected) or {key for row in expected for key in row} != set(schema.names):
        return False
    return all(
        _same(row[key], theirs.get(key), schema.field(key).type)
        for row, theirs in zip(rows, expected, strict=True)
        for key in schema.names
    )


def _same(value: Any, expected: Any, type_: pa.DataType | None = None) -> bool:
    """Whether a value is exactly the expected one, or its JSON in a column of text."""
    if type_ is not None and pa.types.is_string(type_) and not isinstance(expected, str | None):
        return _same(json.loads(value), expected)
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(_same, value, expected))
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            _same(value[key], expected[key]) for key in expected
        )
    if isinstance(expected, float):
        both_nan = math.isnan(value) and math.isnan(expected)
        return both_nan or (
            value == expected and math.copysign(1, value) == math.copysign(1, expected)
        )
    if isinstance(value, float):
        return isinstance(expected, int) and not isinstance(expected, bool) and value == expected
    return bool(type(value) is type(expected) and value == expected)


def fuzz(name: str, num_files: int, seed: int = 0) -> Tally:
    """Read many random files of one format."""
    dice = random.Random(f"{name} {seed}")
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(num_files):
            compare(Path(folder), name, number, random_file(dice, name), tally, dice)
    return tally


def main() -> None:
    """Fuzz every format and print the tallies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    arguments = parser.parse_args()
    failed = False
    for name in arguments.formats:
        tally = fuzz(name, arguments.files, arguments.seed)
        print(f"{name}: {tally}", flush=True)
        for data, why in tally.different[:5]:
            print(f"  {data!r}: {why}")
        failed |= bool(tally.different)
    sys.exit(failed)


if __name__ == "__main__":
    main()
