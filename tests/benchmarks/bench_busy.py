"""How busy a mixed manifest keeps an accelerator that sleeps, from the first batch to the last.

::

    python tests/benchmarks/bench_busy.py
    python tests/benchmarks/bench_busy.py --rates 20 --cores plentiful --images 960
    python tests/benchmarks/bench_busy.py --store seaweed --latency-s 0.1

The rows have six sizes, three samplers, two LoRAs or none, and four modes; they are made by one
`ShardRunner` with the real sampler, pipelines, schedulers, plan and store, two shards side by side
as in an actor. Only the networks are simulated: SDXL's, which sleep as long as they would compute
(`busy_model`, `simulated_accelerator`). Images are PNG of about 1024 x 1024 with thumbnails.

    device busy   seconds of the accelerator's work by seconds from the first batch to the last
    host alone    the same if the sampling thread always had a core and waited for nothing else:
                  by its CPU time, which other work on the machine changes little; from one shard
                  to the next, which another thread samples, it counts nothing
    in a batch    seconds in which the accelerator waits for the host between two steps
    timeline      shares of what nightpress's own timeline tells

With `--cores real` the CPU encodes. A machine with few cores then limits the rate, and the command
says so. With `--cores plentiful` the work on pixels sleeps as long as it would compute, as if each
image had a core of its own: what is lost then is lost by nightpress, to the host's own work, or by
waiting for a core, which hashing, storing and the simulation itself still need.
"""

import argparse
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import busy_model
from busy_run import SIZES, Outcome, Sampled, Setup, run
from simulated_accelerator import Span
from support import servers
from support.cat_facts import CAT

from nightpress.diffusion_core.silence_libraries import silence_process
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.shards.timeline import Activity

CORES = ("real", "plentiful")
GOAL = 0.98


def main() -> None:
    """Measure each rate, and print what is lost where."""
    options = parse()
    silence_process()
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    print(f"{cores} cores, load {load:.1f}")
    if load > cores / 2:
        print("the machine is busy: figures in real time, and that of the lock, say little")
    print(f"one encoding thread holds the interpreter lock {gil_share():.0%} of the time")
    for images_per_s in options.rates:
        for cores in options.cores:
            setup = Setup(
                images=options.images or max(96, int(40 * images_per_s)),
                batch_size=options.batch_size,
                images_per_s=images_per_s,
                batches_alike=options.batches_alike,
                shard_size=options.shard_size,
                latency_s=options.latency_s,
                plentiful_cores=cores == "plentiful",
            )
            with tempfile.TemporaryDirectory() as name, place(options.store, Path(name)) as url:
                show(setup, run(Path(name), setup, url))


@contextmanager
def place(store: str, folder: Path) -> Iterator[Any]:
    """The URL and options of a server's bucket; None for a folder."""
    if store == "folder":
        yield None
        return
    with servers.environment(), servers.seaweed(folder / "data") as server:
        yield server.folder()


def show(setup: Setup, outcome: Outcome) -> None:
    """Print one measurement."""
    cores = "plentiful" if setup.plentiful_cores else "real"
    print(f"\n{setup.images_per_s:g} images/s, batches of {setup.batch_size}, {cores} cores:")
    if outcome.num_ok != setup.images:
        raise SystemExit(f"{setup.images - outcome.num_ok} of {setup.images} images were not made")
    work = outcome.accelerator.done
    seconds = work[-1].real.ended - work[0].real.began
    share, rate = device_share([each.real for each in work]), setup.images / seconds
    print(f"  device busy  {share:7.2%}  (goal {GOAL:.0%}), {rate:.2f} images/s")
    print(f"  host alone   {device_share([each.alone for each in work]):7.2%}")
    print(f"  in a batch   {idle_in_batches(outcome) / seconds:7.2%}", end="")
    print(f", {outcome.accelerator.num_waits} waits for all that is queued,", end=" ")
    print(f"{outcome.num_operations / len(outcome.batches):.0f} operations a batch")
    shares = timeline_shares(outcome)
    print("  timeline     " + ", ".join(f"{each:.2%} {name}" for name, each in shares.items()))
    print("  the accelerator waits between two batches, where these change:")
    for what, gaps in gaps_by_change(outcome).items():
        real, alone = zip(*gaps, strict=True)
        times = f"{1000 * median(real):6.1f} ms median {1000 * max(real):7.1f} most"
        cost = f"host alone {1000 * median(alone):5.1f} ms"
        print(f"    {what:28} {len(gaps):4} x {times}, {cost}, {sum(real) / seconds:6.2%}")
    print("  the same for each mode that follows: ", end="")
    print(", ".join(f"{mode} {ms:.1f} ms" for mode, ms in gaps_by_mode(outcome).items()))
    show_costs(setup, outcome)


def show_costs(setup: Setup, outcome: Outcome) -> None:
    """Print what the threads beside the sampling cost, and whether the CPU limits the rate."""
    costs = outcome.costs
    print("  CPU ms of an image: ", end="")
    print(", ".join(f"{part} {ms:.1f}" for part, ms in costs.ms.items()))
    print(f"  threads at work at most {costs.most_threads}, images pending at most", end=" ")
    print(f"{costs.most_pending}, {outcome.cpu_s / outcome.wall_s:.2f} cores in use")
    needed = sum(costs.ms.values()) / 1000 * setup.images_per_s
    if not setup.plentiful_cores and needed > 0.8 * (os.cpu_count() or 1):
        print(f"  the CPU limits this: the images need {needed:.2f} cores, and the host its own")


def device_share(work: Sequence[Span]) -> float:
    """The share of time in which the accelerator works, from its first work to its last."""
    return sum(each.ended - each.began for each in work) / (work[-1].ended - work[0].began)


def idle_in_batches(outcome: Outcome) -> float:
    """Seconds in which the accelerator waits for the host inside a batch."""
    pairs = pairwise(outcome.accelerator.done)
    return sum(two.real.began - one.real.ended for one, two in pairs if one.batch == two.batch)


def timeline_shares(outcome: Outcome) -> dict[Activity, float]:
    """Shares of the timeline's activities between the first batch and the last."""
    start, end = outcome.batches[0].began, outcome.batches[-1].ended
    seconds = defaultdict[Activity, float](float)
    for span in outcome.spans:
        inside = min(end, span.began + span.seconds) - max(start, span.began)
        seconds[span.activity] += max(0.0, inside)
    return {name: each / (end - start) for name, each in seconds.items() if each}


def gaps(outcome: Outcome) -> Iterator[tuple[Sampled, Sampled, float, float]]:
    """Each two batches that follow each other, and how long the accelerator waits in between.

    In seconds: really, and if the host had a core to itself.
    """
    for one, two in pairwise(outcome.accelerator.done):
        if one.batch != two.batch:
            real, alone = two.real.began - one.real.ended, two.alone.began - one.alone.ended
            yield outcome.batches[one.batch], outcome.batches[two.batch], real, alone


def gaps_by_change(outcome: Outcome) -> dict[str, list[tuple[float, float]]]:
    """What changes from a batch to the next -> how long the accelerator waits then."""
    found = defaultdict[str, list[tuple[float, float]]](list)
    for one, two, *seconds in gaps(outcome):
        found[changes(one, two)].append((seconds[0], seconds[1]))
    return dict(sorted(found.items(), key=lambda item: -sum(real for real, _ in item[1])))


def gaps_by_mode(outcome: Outcome) -> dict[str, float]:
    """Mode of the later batch -> median milliseconds, if the host had a core to itself."""
    found = defaultdict[str, list[float]](list)
    for _, two, _, alone in gaps(outcome):
        found[two.params.conditioning.mode].append(1000 * alone)
    return {mode: median(each) for mode, each in found.items()}


def changes(one: Sampled, later: Sampled) -> str:
    """What differs between two batches."""

    def settings(batch: Sampled) -> dict[str, object]:
        params = batch.params
        return {
            "size": (params.width, params.height),
            "sampler": params.scheduler,
            "LoRA": params.lora,
            "mode": params.conditioning.mode,
            "shard": batch.shard,
        }

    after = settings(later)
    return ", ".join(name for name, value in settings(one).items() if value != after[name]) or "-"


def gil_share(seconds: float = 1.0) -> float:
    """The share of time in which one thread that encodes PNG keeps another from running Python."""
    pixels, done = busy_model.photograph(*SIZES[0], 0), threading.Event()

    def encode_all() -> None:
        while not done.is_set():
            encode(pixels, CAT, ImagesSpec())

    alone = _python_share(seconds)
    thread = threading.Thread(target=encode_all)
    thread.start()
    beside = _python_share(seconds)
    done.set()
    thread.join()
    return max(0.0, 1 - beside / alone)


def _python_share(seconds: float) -> float:
    """The share of time in which this thread can run Python."""
    start, cpu = time.perf_counter(), time.thread_time()
    while time.perf_counter() - start < seconds:
        pass
    return (time.thread_time() - cpu) / seconds


def parse() -> argparse.Namespace:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rates", nargs="+", type=float, default=[2.0, 20.0], help="images/s")
    parser.add_argument("--cores", nargs="+", choices=CORES, default=[*CORES])
    parser.add_argument("--images", type=int, help="default: as many as take 40 s, at least 96")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches-alike", type=int, default=2, help="of equal settings in a row")
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--store", choices=("folder", "seaweed"), default="folder")
    parser.add_argument("--latency-s", type=float, default=0.0, help="added to each request")
    return parser.parse_args()


if __name__ == "__main__":
    main()
