"""Read a local run directory without nightpress's own reader."""

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from nightpress.pipelines.job.spec import RunSpec

PROMPTS = 21
"""Rows of the manifest that the tests of `jobs` run."""


def read_metadata(spec: RunSpec) -> pa.Table:
    """A local run's metadata, read by Arrow alone and sorted by image id."""
    table: pa.Table = ds.dataset(f"{spec.url}/metadata", format="parquet").to_table()
    return table.sort_by("image_id")


def hashes(spec: RunSpec) -> dict[str, str]:
    """image_id -> sha256 of its file."""
    table = read_metadata(spec)
    ids, sums = (table.column(name).to_pylist() for name in ("image_id", "sha256"))
    return dict(zip(ids, sums, strict=True))


def files_of(spec: RunSpec) -> dict[str, tuple[int, int]]:
    """Every file of a local run -> (bytes, modified at)."""
    root = Path(spec.url)
    stats = {path: path.stat() for path in root.rglob("*") if path.is_file()}
    return {str(p.relative_to(root)): (s.st_size, s.st_mtime_ns) for p, s in stats.items()}
