"""How long a half-done run of many rows takes from its start to its first batch.

::

    python tests/benchmarks/bench_resume.py --rows 10000000
    python tests/benchmarks/bench_resume.py --rows 10000000 --store seaweed
    python tests/benchmarks/bench_resume.py --rows 10000000 --mixed

The plan is real. Every other shard is then marked as committed by an object with the commit's name,
which is all that a resumed run looks at before its first batch; the images of these shards are not
made. All rows have the same settings or, with --mixed, one of eighteen combinations of the
manifest's widths, samplers and guidance scales.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "benchmarks")]

import yaml  # noqa: E402
from bench_planning import make_manifest  # noqa: E402
from support import servers, tiny_models  # noqa: E402

from nightpress.jobs import run  # noqa: E402
from nightpress.jobs.progress.events import Event, Planned  # noqa: E402
from nightpress.pipelines.job.spec import RunSpec  # noqa: E402
from nightpress.pipelines.run_directory.commit import shard_path  # noqa: E402
from nightpress.pipelines.run_directory.record import read_record  # noqa: E402
from nightpress.pipelines.shards.events import BatchDone, BatchSampled  # noqa: E402
from nightpress.pipelines.storage import Store  # noqa: E402

THREADS = 32

ONE_SETTING = {"width": None, "scheduler": None, "guidance_scale": None}
"""Columns of the manifest to ignore."""


def main() -> None:
    """Make the half-done run, start it several times and print the seconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--shard-size", type=int, default=512)
    parser.add_argument("--store", choices=("folder", "seaweed"), default="folder")
    parser.add_argument(
        "--mixed", action="store_true", help="rows with eighteen combinations of settings"
    )
    parser.add_argument("--starts", type=int, default=3, help="how many times to resume the run")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job is not None:
        exit_at_first_batch(arguments.job)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        output(arguments.store, Path(folder)) as place,
    ):
        settings = {} if arguments.mixed else ONE_SETTING
        job = write_job(Path(folder), place, arguments.rows, arguments.shard_size, settings)
        mixed = "eighteen settings" if arguments.mixed else "one setting"
        print(f"{arguments.rows:,} rows of {mixed} on {arguments.store}")
        print(f"planned, and first batch: {seconds(job):.1f} s", flush=True)
        spec = RunSpec.from_file(job)
        print(f"commits by name: {commit_every_other(spec):,}", flush=True)
        for _ in range(arguments.starts):
            print(f"resumed, and first batch: {seconds(job):.1f} s", flush=True)


@contextmanager
def output(store: str, folder: Path) -> Iterator[servers.Folder]:
    """A folder to write to, on the chosen store."""
    if store == "folder":
        yield servers.Folder(str(folder / "runs"), {})
        return
    with servers.environment(), servers.seaweed(folder / "seaweed") as server:
        yield server.folder()


def write_job(
    folder: Path, place: servers.Folder, rows: int, shard_size: int, columns: dict[str, None]
) -> Path:
    """Write a job file for `rows` rows, with a model that samples in milliseconds."""
    manifest = folder / "prompts.parquet"
    make_manifest(manifest, rows, row_group=1 << 17, ids=False)
    job = {
        "name": "resumed",
        "manifest": str(manifest),
        "output": place.url,
        "storage": place.options,
        "model": str(tiny_models.save("sd", folder / "model")),
        "columns": columns,
        "sampling": {"width": 64, "height": 64, "num_inference_steps": 2},
        "batch": {"size": 2, "shard_size": shard_size},
        "cluster": {"actors": 1},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def seconds(job: Path) -> float:
    """Seconds from the start of a process to its first batch, which ends the process."""
    began = time.time()
    command: Sequence[str] = (sys.executable, __file__, "--job", str(job))
    process = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True)
    printed, errors = process.communicate()
    with suppress(ProcessLookupError):  # its Ray has already ended
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return float(printed.split()[-1]) - began
    except (IndexError, ValueError):
        raise SystemExit(errors) from None


def exit_at_first_batch(job: Path) -> None:
    """Run until a batch is sampled; print the time and exit at once, as if killed."""

    def on_event(event: Event) -> None:
        if isinstance(event, Planned):
            print(f"{event.num_done:,} of {event.num_images:,} done", file=sys.stderr)
        if isinstance(event, BatchSampled | BatchDone):
            print(time.time(), flush=True)
            os._exit(0)

    run(RunSpec.from_file(job), on_event)


def commit_every_other(spec: RunSpec) -> int:
    """Create commits for half of the shards; returns how many."""
    store = Store(spec.url, spec.storage)
    record = read_record(store)
    assert record is not None
    shards = range(1, record.layout.num_shards, 2)
    with ThreadPoolExecutor(THREADS) as pool:
        created = pool.map(lambda shard: store.create(shard_path(shard), b"by name"), shards)
        return sum(created)


if __name__ == "__main__":
    main()
