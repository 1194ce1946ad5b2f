"""What the steps of a run of 100 million images cost, by what they cost at two smaller sizes.

::

    python tests/benchmarks/bench_internet.py
    python tests/benchmarks/bench_internet.py --rows 1000000 10000000 --shards 1000 20000
    python tests/benchmarks/bench_internet.py --only report verify

Each step runs by itself in a process of its own, at both sizes. The table has its CPU time for a
row, a shard of 1,000 images or an image, and from the larger size what it comes to for 100 million
rows in 100,000 shards. The column "growth" is the unit cost at the larger size by that at the
smaller one: 1 where a step is linear. The unit of `status` is the run: there it is 1 where the time
does not depend on the number of shards. Memory is that of the process: the peaks at both sizes,
continued on a line. Requests are those of the store, for one unit; a thousand names of a listing
count as one.

The manifest has ids and five other columns. The commits of the shards are links to one real
metadata part of 1,000 rows, in a local folder (`internet_runs.py`). The events come from actors
that answer at once without Ray (`quick_actors.py`), so their time is that of nightpress alone;
`bench_scale.py` measures Ray's part, too.
"""

import argparse
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "benchmarks")]

from bench_planning import MODEL  # noqa: E402
from internet_runs import (  # noqa: E402
    BATCH_SIZE,
    NUM_IMAGES,
    NUM_SHARDS,
    PART_IMAGES,
    SAMPLE,
    SHARD_SIZE,
    commits_of,
    make_commits,
    make_plan,
    records_of,
    run_of,
    some_shards,
    spec_of,
    whole_record,
)
from quick_actors import quick_dispatcher  # noqa: E402
from rich.console import Console  # noqa: E402

from nightpress.jobs.dispatch.assignment import queue_of  # noqa: E402
from nightpress.jobs.dispatch.config import DispatchConfig  # noqa: E402
from nightpress.jobs.progress.events import Planned  # noqa: E402
from nightpress.jobs.progress.lines import display_for  # noqa: E402
from nightpress.jobs.runs.start_log import StartLog, StartOptions  # noqa: E402
from nightpress.jobs.runs.status import status  # noqa: E402
from nightpress.jobs.runs.watch import Watch  # noqa: E402
from nightpress.pipelines.planning import (  # noqa: E402
    candidate_shards,
    check,
    read_shard,
    shards_in_order,
    write_plan,
)
from nightpress.pipelines.planning.index import INDEX_FOLDER  # noqa: E402
from nightpress.pipelines.reporting.report import write_report  # noqa: E402
from nightpress.pipelines.run_directory.commit import (  # noqa: E402
    commit_shard,
    commit_sizes,
    committed_shards,
    metadata_part,
)
from nightpress.pipelines.run_directory.summary_index import (  # noqa: E402
    SUMMARY_INDEX,
    read_totals,
    write_summary_index,
)
from nightpress.pipelines.run_directory.verify import orphan_images, verify_shards  # noqa: E402
from nightpress.pipelines.storage import Store  # noqa: E402
from nightpress.pipelines.storage.local import PAGE_NAMES, LocalFolder  # noqa: E402

SHARDS_OF_ACTOR = 2

HEADER = (
    f"{'step':44}{'of':>8}{'small':>12}{'large':>12}{'growth':>8}{'requests':>10}"
    f"{'whole run':>12}{'memory':>10}"
)


@dataclass(frozen=True)
class Cost:
    """What a step came to at one size."""

    units: int
    seconds: float
    """CPU time of all threads."""
    requests: int = 0
    peak_bytes: int = 0

    @property
    def unit_s(self) -> float:
        """CPU seconds of one unit."""
        return self.seconds / self.units


@dataclass(frozen=True)
class Step:
    """A step, and how many of its units the whole run has."""

    name: str
    title: str
    unit: str
    in_all: int
    kind: str
    """Whether its size is a number of `rows`, `shards` or `actors`."""
    measure: Callable[[Path, int], Cost]


def main() -> None:
    """Measure every step at both sizes and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs=2, default=[500_000, 2_000_000])
    parser.add_argument("--shards", type=int, nargs=2, default=[500, 2_000])
    parser.add_argument("--actors", type=int, nargs=2, default=[100, 1_000])
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS])
    options = parser.parse_args()
    wanted = [
        step for step in STEPS if step.name in (options.only or [each.name for each in STEPS])
    ]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for size in options.rows:
            apart(make_plan, folder, size)
        for size in options.shards:
            apart(make_commits, folder, size, options.rows[0])
        print(HEADER, flush=True)
        for step in wanted:
            costs = [apart(step.measure, folder, size) for size in getattr(options, step.kind)]
            print(line(step, *costs), flush=True)
        print(sizes(folder, options.rows[-1], options.shards[-1]))


def sizes(folder: Path, rows: int, shards: int) -> str:
    """The bytes of what a run stores beside its images."""
    store = run_of(folder, rows).store
    of_plan, of_index = (sum(store.list(name).values()) / rows for name in ("plan", INDEX_FOLDER))
    commits = commits_of(folder, shards)
    of_commit = next(iter(commit_sizes(commits.store).values())) / SHARD_SIZE
    totals = (commits.store.size(SUMMARY_INDEX) or 0) / shards
    record = len(whole_record(folder).to_json())
    return (
        f"bytes of an image: plan {of_plan:.0f}, its index {of_index:.0f}, metadata "
        f"{of_commit:.0f}; of a shard in the index of commits {totals:.0f}; run.json of the whole "
        f"run {record:,}"
    )


def apart(function: Callable[..., Any], *values: Any) -> Any:
    """Call a function in a process of its own; a cost gets the peak of its memory.

    The process is a fork of this one, which has imported everything and started no thread.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(_with_peak, function, values).result()


def _with_peak(function: Callable[..., Any], values: Sequence[Any]) -> Any:
    found = function(*values)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return replace(found, peak_bytes=peak) if isinstance(found, Cost) else found


def line(step: Step, small: Cost, large: Cost) -> str:
    """A row of the table."""
    slope = (large.peak_bytes - small.peak_bytes) / max(1, large.units - small.units)
    grows = max(0.0, slope) if step.kind != "actors" and large.units > small.units else 0.0
    memory = large.peak_bytes + grows * (step.in_all - large.units)
    requests = large.requests / large.units
    return (
        f"{step.title:44}{step.unit:>8}{small.unit_s * 1e6:>9.2f} us{large.unit_s * 1e6:>9.2f} us"
        f"{large.unit_s / small.unit_s:>8.2f}{requests:>10.3g}"
        f"{large.unit_s * step.in_all:>10,.0f} s{memory / 1e9:>7.2f} GB"
    )


@contextmanager
def timed(units: int) -> Iterator[Callable[[], Cost]]:
    """Measures what is inside, and counts its requests; the result is there afterwards."""
    counts = [0]
    with ExitStack() as stack:
        for name in ("create", "put", "read", "read_part", "size", "delete"):
            stack.enter_context(mock.patch.object(LocalFolder, name, _counted(name, counts)))
        stack.enter_context(mock.patch.object(LocalFolder, "list", _counted_pages(counts)))
        began, took = time.process_time(), [0.0]
        yield lambda: Cost(units, took[0], counts[0])
        took[0] = time.process_time() - began


def _counted(name: str, counts: list[int]) -> Callable[..., Any]:
    plain = getattr(LocalFolder, name)

    def call(self: LocalFolder, *values: Any) -> Any:
        counts[0] += 1
        return plain(self, *values)

    return call


def _counted_pages(counts: list[int]) -> Callable[..., dict[str, int]]:
    plain = LocalFolder.list

    def call(self: LocalFolder, folder: str) -> dict[str, int]:
        found = plain(self, folder)
        counts[0] += max(1, math.ceil(len(found) / PAGE_NAMES))
        return found

    return call


def check_rows(folder: Path, rows: int) -> Cost:
    spec = spec_of(folder / f"rows-{rows}")
    with timed(rows) as cost:
        check(spec, MODEL, BATCH_SIZE)
    return cost()


def write_rows(folder: Path, rows: int) -> Cost:
    run = run_of(folder, rows)
    with timed(rows) as cost, tempfile.TemporaryDirectory(dir=folder) as other:
        for _ in write_plan(run.spec, MODEL, run.record.layout, Store(other)):
            pass
    return cost()


def read_shards(folder: Path, rows: int) -> Cost:
    run = run_of(folder, rows)
    with timed(SAMPLE) as cost:
        for shard in some_shards(run.record.layout):
            read_shard(run.store, run.record.layout, shard)
    return cost()


def write_commits(folder: Path, rows: int) -> Cost:
    """What an actor does with the records of a shard, once all of its images are stored."""
    run = run_of(folder, rows)
    planned = {
        shard: read_shard(run.store, run.record.layout, shard)
        for shard in some_shards(run.record.layout)
    }
    records = {shard: records_of(part) for shard, part in planned.items()}
    with tempfile.TemporaryDirectory(dir=folder) as other, timed(SAMPLE) as cost:
        for shard, part in planned.items():
            commit_shard(Store(other), shard, metadata_part(records[shard], part))
    return cost()


def look_up(folder: Path, rows: int) -> Cost:
    """Units are the parts of the plan: one small read of each finds an image."""
    run = run_of(folder, rows)
    layout = run.record.layout
    with timed(SAMPLE * len(layout.parts)) as cost:
        for number in range(SAMPLE):
            row = number * rows // SAMPLE
            if not candidate_shards(run.store, layout, run.spec.seed, f"row-{row}_00"):
                raise SystemExit(f"row-{row}_00 is in no shard")
    return cost()


def verify_plan(folder: Path, rows: int) -> Cost:
    """Without the images, which take what reading and decoding them takes."""
    run = run_of(folder, rows)
    with timed(SAMPLE) as cost:
        found = verify_shards(run, some_shards(run.record.layout), sample=0.0)
    if any(each.findings for each in found):
        raise SystemExit(f"not sound: {found[0].findings}")
    return cost()


def list_commits(folder: Path, shards: int) -> Cost:
    run = commits_of(folder, shards)
    with timed(shards) as cost:
        committed_shards(run.store)
    return cost()


def resume(folder: Path, shards: int) -> Cost:
    """What a start does between its model and its first shard, if half of them are committed."""
    config = DispatchConfig(1, 1, max_attempts=3, look_first=True)
    with timed(shards) as cost:
        run = commits_of(folder, shards)
        layout = run.record.layout
        committed = set(sorted(committed_shards(run.store))[::2])
        sum(map(layout.shard_images, committed))
        left = [shard for shard in shards_in_order(run.store, layout) if shard not in committed]
        queue_of(run.record, config, left)
    return cost()


def first_totals(folder: Path, shards: int) -> Cost:
    run = commits_of(folder, shards)
    run.store.delete(SUMMARY_INDEX)
    with timed(shards) as cost:
        read_totals(run.store)
    return cost()


def write_index(folder: Path, shards: int) -> Cost:
    run = commits_of(folder, shards)
    totals = read_totals(run.store)
    with timed(shards) as cost:
        write_summary_index(run.store, totals)
    return cost()


def read_status(folder: Path, shards: int) -> Cost:
    """With the index, as it is after the first minutes of a run; the unit is the whole run.

    It reads the scores of a few hundred commits at most.
    """
    run = commits_of(folder, shards)
    write_summary_index(run.store, read_totals(run.store))
    with timed(1) as cost:
        status(run.url)
    return cost()


def report(folder: Path, shards: int) -> Cost:
    run = commits_of(folder, shards)
    with timed(shards) as cost:
        write_report(run, run.store)
    return cost()


def names(folder: Path, shards: int) -> Cost:
    """The names in all commits; listing the images comes on top."""
    run = commits_of(folder, shards)
    with timed(shards * SHARD_SIZE) as cost:
        orphan_images(run)
    return cost()


def dispatch(folder: Path, actors: int) -> Cost:
    """CPU seconds of an image; the plan is that of the whole run."""
    store, record = Store(str(folder / "none")), whole_record(folder)
    num_shards = SHARDS_OF_ACTOR * actors
    console = Console(file=open(os.devnull, "w"))  # noqa: SIM115 - open as long as the process
    watch = Watch(None)
    with (
        display_for(console) as display,
        quick_dispatcher(store, record, actors, BATCH_SIZE) as dispatcher,
    ):
        log = StartLog(StartOptions("run"), record.spec, display.show)
        log.show(Planned(NUM_IMAGES, NUM_SHARDS, 0))
        began = time.process_time()
        for event in watch.following(dispatcher.run(range(num_shards))):
            log.show(event)
        took = time.process_time() - began
    if log.tally.num_done != num_shards * SHARD_SIZE:
        raise SystemExit(f"{log.tally.num_done:,} images are done")
    return Cost(num_shards * SHARD_SIZE, took)


STEPS = (
    Step("check", "check the manifest", "row", NUM_IMAGES, "rows", check_rows),
    Step("plan", "write the plan", "row", NUM_IMAGES, "rows", write_rows),
    Step("resume", "resume: list, count and queue", "shard", NUM_SHARDS, "shards", resume),
    Step("dispatch", "events of few, and of many actors", "image", NUM_IMAGES, "actors", dispatch),
    Step("shard", "an actor reads a shard of the plan", "shard", NUM_SHARDS, "rows", read_shards),
    Step("commit", "an actor writes its metadata", "shard", NUM_SHARDS, "rows", write_commits),
    Step("list", "list what is committed", "shard", NUM_SHARDS, "shards", list_commits),
    Step("totals", "totals without the index", "shard", NUM_SHARDS, "shards", first_totals),
    Step("index", "write the index of commits", "shard", NUM_SHARDS, "shards", write_index),
    Step("status", "status, by the index", "run", 1, "shards", read_status),
    Step("report", "report.html", "shard", NUM_SHARDS, "shards", report),
    Step("lookup", "find an image by its id", "part", NUM_IMAGES // PART_IMAGES, "rows", look_up),
    Step("verify", "verify, without its images", "shard", NUM_SHARDS, "rows", verify_plan),
    Step("names", "names of the commits, for orphans", "image", NUM_IMAGES, "shards", names),
)

if __name__ == "__main__":
    main()
