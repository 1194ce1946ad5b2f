"""How long it takes to extend a large run by a few rows, until their first batch could be sampled.

::

    python tests/benchmarks/bench_extend.py
    python tests/benchmarks/bench_extend.py --store seaweed
    python tests/benchmarks/bench_extend.py --images 100000 --rows 1000

The run is planned from a manifest with ids in random order. Its commits are stand-ins, because an
extend only lists them. The steps are those of `nightpress run --extend` before its actors have
work; starting Ray and loading the model come on top. Requests are counted where they leave the
process: as S3 operations, or as read calls on local files.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "benchmarks")]

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from bench_lookup import counted, output, plan  # noqa: E402
from support.plans import MODEL  # noqa: E402

from nightpress.jobs.runs.existing_run import compare_with_run  # noqa: E402
from nightpress.jobs.runs.extend_options import ExtendOptions  # noqa: E402
from nightpress.jobs.runs.extension import add_edition, compare  # noqa: E402
from nightpress.pipelines.job.spec import RunSpec  # noqa: E402
from nightpress.pipelines.planning import read_shard, write_plan  # noqa: E402
from nightpress.pipelines.run_directory.commit import committed_shards, shard_path  # noqa: E402
from nightpress.pipelines.run_directory.lease import Lease, acquire  # noqa: E402
from nightpress.pipelines.run_directory.record import RunRecord, require_record  # noqa: E402
from nightpress.pipelines.storage import Store  # noqa: E402

T = TypeVar("T")

SHARD_SIZE = 1_024
THREADS = 32


def main() -> None:
    """Extend a run and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10, help="rows that the manifest gains")
    parser.add_argument("--store", choices=("folder", "seaweed"), default="folder")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        output(arguments.store, Path(folder)) as place,
    ):
        spec = plan(Path(folder), place, arguments.images, SHARD_SIZE)
        store = Store(spec.url, spec.storage)
        commit_all(store, require_record(store))
        grow(spec, arguments.rows)
        print(f"{arguments.images:,} images on {arguments.store}, and {arguments.rows:,} rows more")
        print(f"{'':24}{'seconds':>10}{'requests':>10}")
        lease = acquire(store)
        Steps(spec, store, lease).run()
        lease.release()
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB at most")


def commit_all(store: Store, record: RunRecord) -> None:
    """Put a stand-in in place of every commit."""
    paths = map(shard_path, range(record.layout.num_shards))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda path: store.put(path, b"stand-in"), paths))


def grow(spec: RunSpec, num_rows: int) -> None:
    """Append rows to the manifest."""
    (path,) = spec.manifests
    ids = [f"new-{number}" for number in range(num_rows)]
    added = pa.table({"id": ids, "prompt": [f"a new picture {name}" for name in ids]})
    pq.write_table(pa.concat_tables([pq.read_table(path), added]), path)


class Steps:
    """The steps of an extend, each of them timed."""

    def __init__(self, spec: RunSpec, store: Store, lease: Lease) -> None:
        self._spec, self._store, self._lease = spec, store, lease
        self._seconds, self._requests = 0.0, 0

    def run(self) -> None:
        """Carry out all of them, and check the result."""
        spec, store = self._spec, self._store
        record = self._step("read the run", lambda: require_record(store))
        changes = self._step(
            "look at the manifest", lambda: compare_with_run(store, record, spec).manifest_changes
        )
        options = ExtendOptions(extend=True)
        found = self._step("compare", lambda: compare(store, record, spec, changes, options))
        checked = self._step("check the new rows", lambda: found.checked(store, MODEL))
        extended = self._step("add the edition", lambda: add_edition(store, checked, self._lease))
        self._step("plan it", lambda: list(write_plan(spec, MODEL, extended.layout, store)))
        committed = self._step("find what is left", lambda: committed_shards(store))
        left = [n for n in range(extended.layout.num_shards) if n not in committed]
        rows = self._step(
            "read its first shard", lambda: read_shard(store, extended.layout, left[0])
        )
        self._show("all", self._seconds, self._requests)
        new = sum(map(extended.layout.shard_images, left))
        again = [name for name in rows.column("id").to_pylist() if not name.startswith("new-")]
        print(f"{new:,} images to make, {len(again)} of them made before")

    def _step(self, name: str, action: Callable[[], T]) -> T:
        with counted(self._spec.url) as requests:
            began = time.perf_counter()
            result = action()
            took_s = time.perf_counter() - began
        self._seconds += took_s
        self._requests += requests[0]
        self._show(name, took_s, requests[0])
        return result

    def _show(self, name: str, took_s: float, requests: int) -> None:
        print(f"{name:24}{took_s:>10.2f}{requests:>10,}", flush=True)


if __name__ == "__main__":
    main()
