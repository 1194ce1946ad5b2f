"""Manifest files read by themselves, without a job."""

from pathlib import Path
from typing import Any

import pytest

from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.manifest.file_records import ManifestFile, RowRange
from nightpress.pipelines.manifest.files import read_rows, scan
from nightpress.pipelines.storage import find


def scanned(path: Path) -> ManifestFile:
    """A file after its scan."""
    (source,) = find([str(path)], {})
    return scan(source, {})


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Every row of a file, with all its columns."""
    file = scanned(path)
    if not file.num_rows:
        return []
    tables = read_rows(RowRange(file, 0, file.num_rows), file.schema.names, {})
    return [row for table in tables for row in table.to_pylist()]


def problem_of(path: Path) -> Problem:
    """The one problem that scanning a file finds."""
    with pytest.raises(ManifestError) as caught:
        scanned(path)
    (problem,) = caught.value.problems
    return problem
