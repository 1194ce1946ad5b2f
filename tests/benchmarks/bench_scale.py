"""What one driver costs and how many actors it can serve: 1 to 256 actors with a simulated model.

::

    python tests/benchmarks/bench_scale.py
    python tests/benchmarks/bench_scale.py --actors 1 4 16 64 256
    python tests/benchmarks/bench_scale.py --actors 1 4 16 --store s3 --images-per-s 64
    python tests/benchmarks/bench_scale.py --actors 1 4 16 64 --batch-s 16

Everything but the model is real: plan, Ray, events, PNG files of 32 x 32 pixels, store, commits,
metadata, report. Unless --batch-s is given, the driver has the same load at each number of actors:
together they make --images-per-s, so a batch takes longer the more actors there are. So 256 actors
fit on two cores, and the table shows what their number alone costs the driver. If there are more
actors than --processes, they share processes, but each has its own handle, streams and threads.
Each number of actors runs in its own driver process with its own Ray, and both end with the trial.

Driver CPU is the user and system time of all threads of the driver's process, Ray's included but
not Ray's own processes, from the first image to the last commit. Images/s are counted while all
actors have work. The times until the first image is sampled and until all actors are up are
measured from the start of the driver's process.
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
"""Assumed memory of an actor process until one has been measured."""
MIN_PROCESS_BYTES = 150_000_000
SPARE_BYTES = 2_000_000_000
"""Memory left for the driver, Ray's own processes and the machine."""

END_S = 60.0
"""How long a driver may take to shut down its Ray."""

RATES = (0.4, 2.0, 12.0)
"""Images/s of one accelerator: with a large transformer, and up to a small U-Net."""

HEADER = (
    "actors | processes | images/s | ideal images/s | driver CPU ms/image | driver RSS MB "
    "| time to first image s | seconds until all actors up | MB of a process of actors: own, RSS"
)


@dataclass(frozen=True)
class Trial:
    """One number of actors and the work for them."""

    actors: int
    actors_per_process: int
    batch_s: float
    num_images: int
    folder: str
    """A local folder for the job file and the trial's other files."""

    @property
    def processes(self) -> int:
        """The number of actor processes."""
        return math.ceil(self.actors / self.actors_per_process)

    @property
    def ideal(self) -> float:
        """Images/s if actors never waited."""
        return self.actors * BATCH_SIZE / self.batch_s


@dataclass(frozen=True)
class Outcome:
    """What a driver measured."""

    first_image_at: float
    """When the batch that started first was sampled, in seconds since the epoch."""
    all_up_at: float | None
    images_per_s: float | None
    """While all actors had work; None if they never had at the same time."""
    cpu_ms: float
    """CPU time per image, from the first image to the last commit."""
    closing_cpu_ms: float
    """CPU time per image, from the last commit to the end of the run: totals and report."""
    rss_bytes: int
    """Resident memory at the last commit."""
    lost: list[str]
    """The reasons for which actors were lost."""


@dataclass(frozen=True)
class ProcessMemory:
    """Mean memory of an actor process, in bytes."""

    own: float
    """Unique set size: memory that no other process shares."""
    rss: float

    def __str__(self) -> str:
        return f"{self.own / 1e6:.0f}, {self.rss / 1e6:.0f}"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    trial: Trial
    outcome: Outcome
    started_at: float
    """When the driver was started, in seconds since the epoch."""
    memory: ProcessMemory | None

    def __str__(self) -> str:
        trial, outcome = self.trial, self.outcome
        up_s = None if outcome.all_up_at is None else outcome.all_up_at - self.started_at
        return (
            f"{trial.actors:>6} | {trial.processes:>9} | {_number(outcome.images_per_s):>8} "
            f"| {trial.ideal:>14.1f} | {outcome.cpu_ms:>19.3f} | {outcome.rss_bytes / 1e6:>13.0f} "
            f"| {outcome.first_image_at - self.started_at:>21.1f} | {_number(up_s):>27} "
            f"| {self.memory}"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main() -> None:
    """Run a trial for each number of actors and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--images-per-s", type=float, default=128.0, help="images/s of all actors together"
    )
    parser.add_argument(
        "--batch-s", type=float, help="seconds for each batch of 16, whatever the number of actors"
    )
    parser.add_argument(
        "--images", type=int, default=3072, help="minimum number of images in each trial"
    )
    parser.add_argument(
        "--shards", type=int, default=3, help="minimum number of shards for each actor"
    )
    parser.add_argument(
        "--processes", type=int, default=32, help="maximum number of actor processes"
    )
    parser.add_argument("--store", choices=("folder", "s3"), default="folder")
    parser.add_argument("--limit-s", type=float, default=1800.0, help="time limit of each trial")
    options = parser.parse_args()
    rows: list[Row] = []
    with ExitStack() as stack:
        scratch = tempfile.TemporaryDirectory(prefix="scale-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(scratch))
        place = stack.enter_context(output(options.store, folder))
        print(f"{os.cpu_count()} cores, store: {options.store}\n{HEADER}", flush=True)
        for row in run_trials(options, folder, place):
            print(row, flush=True)
            rows.append(row)
    for line in extrapolate(rows):
        print(line)


@contextmanager
def output(store: str, folder: Path) -> "Iterator[Folder]":
    """A folder to write to, on the chosen store."""
    from support import servers  # not in the driver, which imports this module only for its records

    if store == "folder":
        yield servers.Folder(str(folder / "runs"), {})
        return
    with servers.environment(), servers.seaweed(folder / "seaweed") as server:
        yield server.folder()


def run_trials(options: argparse.Namespace, folder: Path, place: "Folder") -> Iterator[Row]:
    """Run the trials in turn; stop, and print why, at one that fails or needs too much memory."""
    process_bytes = PROCESS_BYTES
    for actors in dict.fromkeys(options.actors):
        trial = new_trial(options, actors, folder)
        needed, free = trial.processes * process_bytes, psutil.virtual_memory().available
        if needed + SPARE_BYTES > free:
            print(
                f"stopped before {actors} actors: their {trial.processes} processes would take "
                f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
            )
            return
        write_job(trial, place)
        row = run_trial(trial, options.limit_s)
        if isinstance(row, str):
            print(f"stopped at {actors} actors: {row}")
            return
        yield row
        if row.memory is not None:
            process_bytes = max(MIN_PROCESS_BYTES, round(1.2 * row.memory.own))


def new_trial(options: argparse.Namespace, actors: int, folder: Path) -> Trial:
    """A trial with this number of actors."""
    return Trial(
        actors=actors,
        actors_per_process=math.ceil(actors / options.processes),
        batch_s=options.batch_s or actors * BATCH_SIZE / options.images_per_s,
        num_images=max(options.images, options.shards * SHARD_SIZE * actors),
        folder=str(folder / str(actors)),
    )


def write_job(trial: Trial, place: "Folder") -> None:
    """Write the trial, its manifest and its job file."""
    folder = Path(trial.folder)
    folder.mkdir()
    lines = (f"a picture of the number {number}\n" for number in range(trial.num_images))
    (folder / "prompts.txt").write_text("".join(lines))
    job = {
        "name": f"actors-{trial.actors}",
        "manifest": str(folder / "prompts.txt"),
        "output": place.url,
        "storage": place.options,
        "model": {"source": "simulated", "speed": "exact"},
        "batch": {"size": BATCH_SIZE, "shard_size": SHARD_SIZE},
        "cluster": {"actors": trial.actors},
    }
    (folder / JOB).write_text(yaml.safe_dump(job))
    (folder / "trial.json").write_text(json.dumps(asdict(trial)))


def run_trial(trial: Trial, limit_s: float) -> Row | str:
    """Run a trial in a process of its own; returns its row, or why there is none."""
    folder, started_at = Path(trial.folder), time.time()
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
        memory, outcome = read_output(process.stdout, process.pid)
        in_time = time.time() - started_at < limit_s
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    finally:
        timer.cancel()
        end(process)
    if outcome is None:
        log_end = (folder / "log").read_text()[-2000:]
        return log_end if in_time else f"not done after {limit_s:.0f} s\n{log_end}"
    if outcome.lost:
        return f"{len(outcome.lost)} actors were lost: {outcome.lost[0]}"
    return Row(trial, outcome, started_at, memory)


def environment() -> dict[str, str]:
    """A driver's environment: Ray starts only requested workers, with one thread each."""
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


def read_output(stream: IO[str], pid: int) -> tuple[ProcessMemory | None, Outcome | None]:
    """Read a driver's output; measure the actors' memory when it prints that all are up."""
    memory = None
    for line in stream:
        if line == "up\n":
            memory = memory_of_actors(pid)
        elif line.startswith("{"):
            return memory, Outcome(**json.loads(line))
    return memory, None


def memory_of_actors(driver: int) -> ProcessMemory | None:
    """Memory of the actor processes that a driver's Ray has started."""
    actors = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(driver).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                title = " ".join(process.cmdline())
                if "ray::SimulatedActor" in title or "ray::ActorGroup" in title:
                    actors.append(process.memory_full_info())
    if not actors:
        return None
    own, rss = (float(np.mean([getattr(each, name) for each in actors])) for name in ("uss", "rss"))
    return ProcessMemory(own, rss)


def end(process: "subprocess.Popen[str]") -> None:
    """Kill a driver and the Ray that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def extrapolate(rows: Sequence[Row]) -> Iterator[str]:
    """Extrapolate the table to more actors than were measured."""
    if not rows:
        return
    closing_ms = max(row.outcome.closing_cpu_ms for row in rows)
    yield f"\nafter the last commit, for totals and report: at most {closing_ms:.3f} ms/image"
    loads = {round(row.trial.ideal, 3) for row in rows}
    if len(rows) < 2 or len(loads) > 1:
        yield "to extrapolate, give several --actors and no --batch-s"
        return
    actors = [row.trial.actors for row in rows]
    slope_ms, base_ms = np.polyfit(actors, [row.outcome.cpu_ms for row in rows], 1)
    slope_mb, base_mb = np.polyfit(actors, [row.outcome.rss_bytes / 1e6 for row in rows], 1)
    yield (
        f"linear fit of the table, at {loads.pop():.0f} images/s: driver CPU "
        f"{base_ms:.3f} ms/image and {slope_ms:+.5f} for each actor; driver memory "
        f"{base_mb:.0f} MB and {slope_mb:+.2f} for each actor"
    )
    for rate in RATES:
        num_actors = max_actors(base_ms, slope_ms, rate)
        gigabytes = (base_mb + max(0.0, slope_mb) * num_actors) / 1000
        yield (
            f"at {rate:g} images/s for each actor: {num_actors:,.0f} actors use one core of a "
            f"driver, with {num_actors * rate:,.0f} images/s and {gigabytes:.1f} GB"
        )


def max_actors(base_ms: float, slope_ms: float, images_per_s: float) -> float:
    """The number n of actors whose images take one full core of the driver.

    Solves n * images_per_s * (base_ms + slope_ms * n) = 1000; a negative slope counts as zero.
    """
    if slope_ms <= 0:
        return 1000 / (images_per_s * base_ms)
    root = math.sqrt(base_ms**2 + 4 * slope_ms * 1000 / images_per_s)
    return (root - base_ms) / (2 * slope_ms)


if __name__ == "__main__":
    main()
