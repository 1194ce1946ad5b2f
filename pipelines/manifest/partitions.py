"""Columns in the names of folders, as Hive, Spark and pyarrow write them: `category=01/width=64/`.

All folders below a named folder count, and those from the first wildcard of a pattern on. So do
those directly above: `set/width=64`, `set/width=64/*.csv` and `set/width=64/a.csv` give the same
columns, while pyarrow gives none for the first. References: pyarrow.dataset.partitioning, flavor
"hive"; Hive's LanguageManual DDL, "Partitioned tables".
"""

from collections.abc import Iterable
from itertools import takewhile
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.storage import Partition
from nightpress.pipelines.storage.urls import absolute, has_glob, is_http

NULL = "__HIVE_DEFAULT_PARTITION__"
"""The value in the name of a folder whose rows have none."""


def partition_of(url: str, named: str) -> Partition:
    """The columns that the folders of a file give, and their values as text; None for null.

    Args:
        url: the file's URL.
        named: what the job names: the file, a folder that it is in, or a pattern that it matches.

    Raises:
        ManifestError: two folders disagree, or a name is not UTF-8.
    """
    folders = _path(url).split("/")[:-1]
    found: dict[str, str | None] = {}
    for folder in folders[_first_that_counts(url, absolute(named), folders) :]:
        name, equals, value = folder.partition("=")
        if not equals:
            continue
        try:
            key, text = _decoded(name, url), _decoded(value, url)
        except UnicodeDecodeError as error:
            message = f"the folder {folder} is not UTF-8 text when its percent signs are decoded"
            raise ManifestError([Problem(url, None, None, message)]) from error
        new = None if text == NULL else text
        if found.setdefault(key, new) != new:
            message = f"two folders give this column, as {found[key]!r} and {new!r}"
            raise ManifestError([Problem(url, None, key, message)])
    return tuple(found.items())


def partition_texts(partition: Partition) -> tuple[str, ...]:
    """A partition as texts, `category=01`, which differ where the partitions do."""
    return tuple(
        quote(name, safe="") + ("" if value is None else f"={quote(value, safe='')}")
        for name, value in partition
    )


def with_partition(table: pa.Table, partition: Partition, names: Iterable[str]) -> pa.Table:
    """A table with those columns of a partition that it lacks and that are among `names`."""
    num_rows, wanted = table.num_rows, set(names)
    for name, value in partition:
        if name in wanted and name not in table.schema.names:
            column = pa.repeat(pa.scalar(value, pa.string()), num_rows)
            table = (
                table.append_column(name, column) if table.num_columns else pa.table({name: column})
            )
    return table


def refuse_other_values(url: str, first_row: int, table: pa.Table, partition: Partition) -> None:
    """Refuse a file with a column that its folder gives as well, with another value.

    Raises:
        ManifestError: names the first such row.
    """
    for name, value in partition:
        if name not in table.schema.names:
            continue
        column = table[name]
        agrees = _equal(column, value)
        row = pc.index(agrees, False).as_py()
        if row >= 0:
            message = (
                f"it is {column[row].as_py()!r}, but the folder gives this column too, as "
                f"{value!r}; keep one of the two"
            )
            raise ManifestError([Problem(url, first_row + row, name, message)])


def _equal(column: pa.ChunkedArray, value: str | None) -> pa.ChunkedArray:
    """Where a column has a value that is given as text; (n,) bool."""
    if value is None:
        return pc.is_null(column)
    try:
        wanted = pc.cast(pa.scalar(value), column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pc.and_(pc.is_null(column), False)
    return pc.fill_null(pc.equal(column, wanted), False)


def _path(url: str) -> str:
    """The part of a URL that holds the folders; in a chained URL only the first link has them."""
    first = url.partition("::")[0]
    path = first if "://" in first else url
    return path.partition("?")[0] if is_http(url) else path


def _decoded(text: str, url: str) -> str:
    plain = unquote(text, errors="strict") if is_http(url) else text
    return unquote(plain, errors="strict")


def _first_that_counts(url: str, named: str, folders: list[str]) -> int:
    """The index of the first folder whose `key=value` is a column."""
    parts = _path(named).split("/")
    is_folder = url.startswith(f"{_path(named)}/")
    if url != named and not is_folder:
        parts = list(takewhile(lambda part: not has_glob(part), parts))
    literal = min(len(parts), len(folders))
    before = list(takewhile(lambda folder: "=" in folder, reversed(folders[:literal])))
    return literal - len(before)
