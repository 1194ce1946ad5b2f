"""How long `nightpress runs` takes to list an output folder, and how many requests.

Copies of one finished run of ten images, on SeaweedFS or in a folder.

    python tests/benchmarks/bench_runs.py --runs 200
    python tests/benchmarks/bench_runs.py --store folder
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "benchmarks")]

from bench_lookup import counted, output  # noqa: E402
from support.made_runs import begin, finish  # noqa: E402
from support.servers import Folder  # noqa: E402

from nightpress import list_runs  # noqa: E402
from nightpress.pipelines import Run  # noqa: E402
from nightpress.pipelines.run_directory.lease import held  # noqa: E402
from nightpress.pipelines.storage import Store  # noqa: E402

THREADS = 16


def main() -> None:
    """Make the runs, list them twice, and print the seconds and the requests."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--store", choices=("folder", "seaweed"), default="seaweed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, output(arguments.store, Path(folder)) as place:
        run = begin(f"{folder}/one", name="night")
        finish(run)
        with held(run.store):
            pass
        copy(run, place, arguments.runs)
        for _ in range(2):
            with counted(place.url) as requests:
                began = time.perf_counter()
                found = list_runs(place.url, storage=place.options)
                took_s = time.perf_counter() - began
            what = f"{len(found):,} runs on {arguments.store}"
            print(f"{what}: {took_s:.1f} s, {requests[0]:,} requests")


def copy(run: Run, place: Folder, number: int) -> None:
    """Store a run under many names."""
    objects = {path: run.store.read(path) for path in run.store.list()}

    def store_one(name: int) -> None:
        store = Store(f"{place.url}/night-{name:04d}", place.options)
        for path, data in objects.items():
            store.put(path, data)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(store_one, range(number)))


if __name__ == "__main__":
    main()
