"""What one driver costs, and how far it reaches: 1 to 256 actors that sleep where others denoise.

::

    python tests/benchmarks/bench_scale.py
    python tests/benchmarks/bench_scale.py --actors 1 4 16 64 256
    python tests/benchmarks/bench_scale.py --actors 1 4 16 --store s3 --images-per-s 64
    python tests/benchmarks/bench_scale.py --actors 1 4 16 64 --batch-s 16

All is real but the model: plan, Ray, events, PNG files of 32 x 32 pixels, store, commits, metadata,
report. The driver has the same load at each number of actors unless --batch-s is given: the more
actors there are to make --images-per-s together, the longer a batch takes. So 256 of them fit on
two cores, and what a driver pays for their number alone shows. More than --processes actors share
processes, with handles, streams and threads of their own. Each number is tried in a process and a
Ray of its own, which end with it.

Driver CPU is the user and system time of all threads of the driver's process, Ray's included but
not Ray's own processes, from the first image to the last commit. Images/s are counted while all
actors have work. The first image, when it is sampled, and all actors being up are timed from the
start of the driver's process.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "benchmarks")]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import yaml  # noqa: E402

if TYPE_CHECKING:
    from support.servers import Folder

BATCH_SIZE = 16
SHARD_SIZE = 4 * BATCH_SIZE

JOB = "job.yaml"

PROCESS_BYTES = 450_000_000
"""What a process of actors may take, as long as none was measured."""
LEAST_PROCESS_BYTES = 150_000_000
SPARE_BYTES = 2_000_000_000
"""For the driver, Ray's own processes, and the machine."""

END_S = 60.0
"""How long a driver may take to stop its Ray."""

RATES = (0.4, 2.0, 12.0)
"""Images a second of one accelerator: from a large transformer's to a small U-Net's."""

HEADER = (
    "actors | processes | images/s | ideal images/s | driver CPU ms/image | driver RSS MB "
    "| time to first image s | seconds until all actors up | MB of a process of actors: own, RSS"
)


@dataclass(frozen=True)
class Trial:
    """One number of actors, and their work."""

    actors: int
    seats: int
    """Actors in each process."""
    batch_s: float
    num_images: int
    folder: str
    """With the job file; for what the trial leaves on this machine."""

    @property
    def processes(self) -> int:
        """Of actors."""
        return math.ceil(self.actors / self.seats)

    @property
    def ideal(self) -> float:
        """Images a second, if actors never waited."""
        return self.actors * BATCH_SIZE / self.batch_s


@dataclass(frozen=True)
class Outcome:
    """What a driver has seen."""

    first_image_at: float
    """Seconds since the epoch, when the batch that began first was sampled."""
    all_up_at: float | None
    images_per_s: float | None
    """While all actors had work; None if they never had at the same time."""
    cpu_ms: float
    """For each image, from the first to the last commit."""
    closing_cpu_ms: float
    """For each image, from there to the end of the run: totals and report."""
    rss_bytes: int
    """At the last commit."""
    lost: list[str]
    """Why actors were lost."""


@dataclass(frozen=True)
class ProcessMemory:
    """Of a process of actors, in the mean; bytes."""

    own: float
    """What no other process shares."""
    rss: float

    def __str__(self) -> str:
        return f"{self.own / 1e6:.0f}, {self.rss / 1e6:.0f}"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    trial: Trial
    outcome: Outcome
    began: float
    """Seconds since the epoch."""
    memory: ProcessMemory | None

    def __str__(self) -> str:
        trial, seen = self.trial, self.outcome
        up_s = None if seen.all_up_at is None else seen.all_up_at - self.began
        return (
            f"{trial.actors:>6} | {trial.processes:>9} | {_number(seen.images_per_s):>8} "
            f"| {trial.ideal:>14.1f} | {seen.cpu_ms:>19.3f} | {seen.rss_bytes / 1e6:>13.0f} "
            f"| {seen.first_image_at - self.began:>21.1f} | {_number(up_s):>27} | {self.memory}"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--images-per-s", type=float, default=128.0, help="of all actors together")
    parser.add_argument("--batch-s", type=float, help="seconds that a batch of 16 takes, fixed")
    parser.add_argument("--images", type=int, default=3072, help="of each trial, at least")
    parser.add_argument("--shards", type=int, default=3, help="for each actor, at least")
    parser.add_argument("--processes", type=int, default=32, help="of actors, at most")
    parser.add_argument("--store", choices=("folder", "s3"), default="folder")
    parser.add_argument("--limit-s", type=float, default=1800.0, help="for each trial")
    options = parser.parse_args()
    rows: list[Row] = []
    with ExitStack() as stack:
        scratch = tempfile.TemporaryDirectory(prefix="scale-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(scratch))
        place = stack.enter_context(output(options.store, folder))
        print(f"{os.cpu_count()} cores, store: {options.store}\n{HEADER}", flush=True)
        for row in tried(options, folder, place):
            print(row, flush=True)
            rows.append(row)
    for line in beyond(rows):
        print(line)


@contextmanager
def output(store: str, folder: Path) -> "Iterator[Folder]":
    """Somewhere to write to."""
    from support import servers  # not for a driver, which imports this module for its records

    if store == "folder":
        yield servers.Folder(str(folder / "runs"), {})
        return
    with servers.environment(), servers.seaweed(folder / "seaweed") as server:
        yield server.folder()


def tried(options: argparse.Namespace, folder: Path, place: "Folder") -> Iterator[Row]:
    """One number of actors after the other, until the machine takes no more, and why."""
    process_bytes = PROCESS_BYTES
    for actors in dict.fromkeys(options.actors):
        trial = as_asked(options, actors, folder)
        needed, free = trial.processes * process_bytes, psutil.virtual_memory().available
        if needed + SPARE_BYTES > free:
            print(
                f"stopped before {actors} actors: their {trial.processes} processes would take "
                f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
            )
            return
        write_job(trial, place)
        row = try_out(trial, options.limit_s)
        if isinstance(row, str):
            print(f"stopped at {actors} actors: {row}")
            return
        yield row
        if row.memory is not None:
            process_bytes = max(LEAST_PROCESS_BYTES, round(1.2 * row.memory.own))


def as_asked(options: argparse.Namespace, actors: int, folder: Path) -> Trial:
    """A trial with so many actors."""
    return Trial(
        actors=actors,
        seats=math.ceil(actors / options.processes),
        batch_s=options.batch_s or actors * BATCH_SIZE / options.images_per_s,
        num_images=max(options.images, options.shards * SHARD_SIZE * actors),
        folder=str(folder / str(actors)),
    )


def write_job(trial: Trial, place: "Folder") -> None:
    """Its manifest, and its job file."""
    folder = Path(trial.folder)
    folder.mkdir()
    lines = (f"a picture of the number {number}\n" for number in range(trial.num_images))
    (folder / "prompts.txt").write_text("".join(lines))
    job = {
        "name": f"actors-{trial.actors}",
        "manifest": str(folder / "prompts.txt"),
        "output": place.url,
        "storage": place.options,
        "model": "simulated",
        "batch": {"size": BATCH_SIZE, "shard_size": SHARD_SIZE},
        "cluster": {"actors": trial.actors},
    }
    (folder / JOB).write_text(yaml.safe_dump(job))
    (folder / "trial.json").write_text(json.dumps(asdict(trial)))


def try_out(trial: Trial, limit_s: float) -> Row | str:
    """A trial in a process of its own; why there is no row, if there is none."""
    folder, began = Path(trial.folder), time.time()
    driver = TESTS / "benchmarks" / "scale_driver.py"
    command: Sequence[str] = (sys.executable, str(driver), str(folder / "trial.json"))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(),
            start_new_session=True,
        )
    timer = threading.Timer(limit_s, end, [process])
    timer.start()
    try:
        assert process.stdout is not None
        memory, outcome = told_by(process.stdout, process.pid)
        in_time = time.time() - began < limit_s
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    finally:
        timer.cancel()
        end(process)
    if outcome is None:
        said = (folder / "log").read_text()[-2000:]
        return said if in_time else f"they were not done after {limit_s:.0f} s\n{said}"
    if outcome.lost:
        return f"{len(outcome.lost)} of them were lost: {outcome.lost[0]}"
    return Row(trial, outcome, began, memory)


def environment() -> dict[str, str]:
    """Of a driver: Ray starts no more workers than are asked for, and each has one thread."""
    path = [str(TESTS.parent), str(TESTS), str(TESTS / "benchmarks")]
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, [*path, os.environ.get("PYTHONPATH", "")])),
        "OMP_NUM_THREADS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_worker_register_timeout_seconds": "600",
    }
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own


def told_by(stream: IO[str], pid: int) -> tuple[ProcessMemory | None, Outcome | None]:
    """What a driver prints: that all actors are up, when their memory is looked at, and the end."""
    memory = None
    for line in stream:
        if line == "up\n":
            memory = memory_of_actors(pid)
        elif line.startswith("{"):
            return memory, Outcome(**json.loads(line))
    return memory, None


def memory_of_actors(driver: int) -> ProcessMemory | None:
    """Of the processes of actors that a driver's Ray has started."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(driver).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                title = " ".join(process.cmdline())
                if "ray::SimulatedActor" in title or "ray::ActorHouse" in title:
                    found.append(process.memory_full_info())
    if not found:
        return None
    own, rss = (float(np.mean([getattr(each, name) for each in found])) for name in ("uss", "rss"))
    return ProcessMemory(own, rss)


def end(process: "subprocess.Popen[str]") -> None:
    """End a driver and the Ray that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def beyond(rows: Sequence[Row]) -> Iterator[str]:
    """The arithmetic: what the table says of more actors than it has."""
    if not rows:
        return
    closing_ms = max(row.outcome.closing_cpu_ms for row in rows)
    yield f"\nafter the last commit, for totals and report: at most {closing_ms:.3f} ms an image"
    loads = {round(row.trial.ideal, 3) for row in rows}
    if len(rows) < 2 or len(loads) > 1:
        yield "what lies beyond is told by several numbers of actors under one load, no --batch-s"
        return
    actors = [row.trial.actors for row in rows]
    more_ms, base_ms = np.polyfit(actors, [row.outcome.cpu_ms for row in rows], 1)
    more_mb, base_mb = np.polyfit(actors, [row.outcome.rss_bytes / 1e6 for row in rows], 1)
    yield (
        f"straight lines through the table, at {loads.pop():.0f} images/s: driver CPU "
        f"{base_ms:.3f} ms an image and {more_ms:+.5f} for each actor; driver memory "
        f"{base_mb:.0f} MB and {more_mb:+.2f} for each actor"
    )
    for rate in RATES:
        most = most_actors(base_ms, more_ms, rate)
        gigabytes = (base_mb + max(0.0, more_mb) * most) / 1000
        yield (
            f"actors that make {rate:g} images/s each: {most:,.0f} fill one core of a driver, with "
            f"{most * rate:,.0f} images/s and {gigabytes:.1f} GB"
        )


def most_actors(base_ms: float, more_ms: float, images_per_s: float) -> float:
    """The number n of actors whose images take a driver a second of CPU each second.

    It solves n * images_per_s * (base_ms + more_ms * n) = 1000; a line that falls counts as level.
    """
    if more_ms <= 0:
        return 1000 / (images_per_s * base_ms)
    root = math.sqrt(base_ms**2 + 4 * more_ms * 1000 / images_per_s)
    return (root - base_ms) / (2 * more_ms)


if __name__ == "__main__":
    main()
