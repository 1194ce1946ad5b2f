"""How many small objects per second `Store.create` writes, with and without throttling.

::

    python tests/benchmarks/bench_store.py
    python tests/benchmarks/bench_store.py --objects 4000 --threads 32 --processes 2 --limit 100

First straight to SeaweedFS, with names in one folder and with names spread over 256 folders; then
through a proxy on this machine, without a limit and with a limit above which it answers 503
SlowDown. With the limit there are three rows: without pacing, so that only the growing waits
between attempts slow the client down; paced by the answers; and below a ceiling that the job sets.
Each process paces itself, like an actor. The proxy is a Python program that uses at most one core,
so compare only the rows that go through it.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
from support import servers  # noqa: E402
from support.fakes.faulty_proxy import FaultyProxy, proxy  # noqa: E402

from nightpress.pipelines.image_files.naming import SPREAD_ROWS, spread  # noqa: E402
from nightpress.pipelines.storage import Options, Store  # noqa: E402
from nightpress.pipelines.storage.pacing import Pacer  # noqa: E402
from nightpress.pipelines.storage.remote import RemoteFolder  # noqa: E402


class Unpaced(Pacer):
    """Sends every request at once."""

    def run(self, action: Callable[[], Any], until: float) -> Any:
        return action()


@dataclass(frozen=True)
class Share:
    """The objects that one process writes, and how."""

    url: str
    options: Options
    first: int
    num_objects: int
    num_bytes: int
    threads: int
    spread_names: bool
    paced: bool


@dataclass(frozen=True)
class Timing:
    """The timing of one process."""

    began: float
    ended: float
    seconds: tuple[float, ...]
    """Seconds for each object, waits included."""


def main() -> None:
    """Write the objects for each row and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=2_000)
    parser.add_argument("--bytes", type=int, default=20_000, help="bytes in each object")
    parser.add_argument("--threads", type=int, default=16, help="threads in each process")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--limit", type=float, default=50, help="requests/s that the proxy forwards"
    )
    arguments = parser.parse_args()
    print(
        f"{arguments.objects:,} objects of {arguments.bytes:,} bytes, {arguments.processes} "
        f"processes with {arguments.threads} threads each"
    )
    print(f"{'':44}{'objects/s':>10}{'503s':>8}{'p50 s':>8}{'p99 s':>8}")
    with seaweed() as server:
        show("SeaweedFS, one folder", arguments, server, server.options)
        show("SeaweedFS, 256 folders", arguments, server, server.options, spread_names=True)
        with proxy(server.endpoint) as faulty:
            show("proxy, no limit", arguments, server, faulty.options, faulty)
            limited(arguments, server, faulty)


def limited(arguments: argparse.Namespace, server: servers.Server, faulty: FaultyProxy) -> None:
    """Show the rows for which the proxy throttles."""
    limit = arguments.limit
    ceiling = {"requests_per_s": 0.9 * limit / arguments.processes}
    below = {"s3": {**faulty.options["s3"], **ceiling}}
    for name, options, paced in (
        (f"proxy, {limit:g}/s, waits between attempts alone", faulty.options, False),
        (f"proxy, {limit:g}/s, paced", faulty.options, True),
        (f"proxy, {limit:g}/s, ceiling {ceiling['requests_per_s']:g}/s", below, True),
    ):
        faulty.limit(limit)
        show(name, arguments, server, options, faulty, paced=paced)


def show(
    name: str,
    arguments: argparse.Namespace,
    server: servers.Server,
    options: Options,
    faulty: FaultyProxy | None = None,
    spread_names: bool = False,
    paced: bool = True,
) -> None:
    """Write all objects and print a row of the table."""
    url = f"{server.folder().url}/run"
    throttled = faulty.num_throttled if faulty else 0
    each = arguments.objects // arguments.processes
    shares = [
        Share(url, options, n * each, each, arguments.bytes, arguments.threads, spread_names, paced)
        for n in range(arguments.processes)
    ]
    with ProcessPoolExecutor(len(shares), multiprocessing.get_context("spawn")) as pool:
        timings = list(pool.map(write, shares))
    throttled = faulty.num_throttled - throttled if faulty else 0
    elapsed_s = max(one.ended for one in timings) - min(one.began for one in timings)
    rate = each * len(shares) / elapsed_s
    cuts = quantiles([second for one in timings for second in one.seconds], n=100)
    print(f"{name:44}{rate:10.1f}{throttled:8,}{cuts[49]:8.3f}{cuts[98]:8.3f}", flush=True)


def write(share: Share) -> Timing:
    """Write a share of the objects; at module level, so that other processes can import it."""
    store = Store(share.url, share.options)
    if not share.paced and isinstance(store._folder, RemoteFolder):
        store._folder.pacer = Unpaced()
    store.size("anything")  # loads the driver and opens a connection
    data = os.urandom(share.num_bytes)

    def create(path: str) -> float:
        began = time.monotonic()
        if not store.create(path, data):
            raise RuntimeError(f"{path} already exists")
        return time.monotonic() - began

    began = time.time()
    with ThreadPoolExecutor(share.threads) as pool:
        seconds = tuple(pool.map(create, names(share)))
    return Timing(began, time.time(), seconds)


def names(share: Share) -> Iterator[str]:
    """Names for the objects; each is in the folder of another block of rows."""
    numbers = np.arange(share.first, share.first + share.num_objects)
    folders = spread(numbers * SPREAD_ROWS).to_pylist()
    for number, folder in zip(numbers.tolist(), folders, strict=True):
        yield f"images/{folder}/{number}.png" if share.spread_names else f"images/{number}.png"


@contextmanager
def seaweed() -> Iterator[servers.Server]:
    """SeaweedFS on this machine until the block ends."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        servers.environment(),
        servers.seaweed(Path(folder) / "seaweed") as server,
    ):
        yield server


if __name__ == "__main__":
    main()
