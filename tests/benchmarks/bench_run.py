"""A whole run against the bare loop on the same batches: what storing and recording costs.

The bare loop runs in one process for each actor of the run, with one thread and its share of the
same batches: it encodes prompts, denoises and decodes latents, and drops the pixels. The run does
the same, and also encodes image files, stores, records and commits them. Both are timed from the
moment the models are loaded. Pairs alternate, and the median of their ratios is the result.

The pause between an actor's batches is the time from the end of one to the start of the next, by
the host's clock and for any reason: median and 95th percentile of each actor's last thousand.

    python tests/benchmarks/bench_run.py --images 96 --actors 2 --pairs 3
"""

import argparse
import multiprocessing as mp
import statistics
import tempfile
import time
from pathlib import Path

from nightpress.diffusion_core.models.loading import describe, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.jobs.progress.events import ActorJoined, Event
from nightpress.jobs.progress.trace import BetweenBatches
from nightpress.jobs.runs.runner import run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.planning import check, plan_part
from nightpress.pipelines.shards.batching import PlannedImage, batches, planned_images

PROMPTS = Path(__file__).resolve().parents[2] / "jobs" / "examples" / "prompts.txt"


def main() -> None:
    """Time pairs of runs and bare loops, and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--model", default="builtin")
    parser.add_argument(
        "--output", help="URL of a folder for the runs; default: a temporary folder"
    )
    options = parser.parse_args()
    ratios, between = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for pair in range(options.pairs):
            spec = job(options, scratch, pair)
            bare = bare_rate(spec, options.actors, options.batch_size)
            whole, pauses = run_rate(spec, options.actors)
            ratios.append(whole / bare)
            between.append(pauses)
            print(
                f"pair {pair}: bare loop {bare:.2f} images/s, run {whole:.2f} images/s, "
                f"ratio {whole / bare:.3f}; between batches {pauses.median_ms:.1f} ms, "
                f"95th percentile {pauses.p95_ms:.1f} ms",
                flush=True,
            )
    print(
        f"median ratio {statistics.median(ratios):.3f} over {options.pairs} pairs: "
        f"{options.images} images, {options.actors} actors, batches of {options.batch_size}; "
        f"between batches {statistics.median(each.median_ms for each in between):.1f} ms, "
        f"95th percentile {statistics.median(each.p95_ms for each in between):.1f} ms"
    )


def job(options: argparse.Namespace, scratch: str, pair: int) -> RunSpec:
    """A job over the example prompts, repeated until there are enough images."""
    prompts = PROMPTS.read_text().split("\n")[:-1]
    manifest = Path(scratch) / "prompts.txt"
    rows = [prompts[i % len(prompts)] for i in range(options.images)]
    manifest.write_text("\n".join(rows) + "\n")
    return RunSpec.from_dict(
        {
            "name": f"pair-{pair}",
            "manifest": str(manifest),
            "output": options.output or f"{scratch}/runs",
            "model": {"source": options.model, "speed": "exact"},
            "batch": {"size": options.batch_size, "shard_size": 4 * options.batch_size},
            "cluster": {"actors": options.actors},
        }
    )


def run_rate(spec: RunSpec, actors: int) -> tuple[float, BetweenBatches]:
    """Images/s of a run with all its actors, and the pauses between their batches.

    Each actor's time counts from the moment its model is loaded to the last commit.
    """
    joined: list[float] = []

    def on_event(event: Event) -> None:
        if isinstance(event, ActorJoined):
            joined.append(time.perf_counter())

    result = run(spec, on_event)
    end = time.perf_counter()
    if len(joined) != actors or result.num_failed:
        raise SystemExit(f"{len(joined)} actors joined, {result.num_failed} images failed")
    if result.between_batches is None:
        raise SystemExit("no batch followed another: more --images, or smaller batches")
    # The first actor works alone until the others have joined: count actor-seconds.
    rate = result.num_made * actors / sum(end - moment for moment in joined)
    return rate, result.between_batches


def bare_rate(spec: RunSpec, processes: int, batch_size: int) -> float:
    """Images/s of the bare loop."""
    info = describe(locate(spec.model, {}), spec.model)
    layout = check(spec, info, batch_size)
    images = [
        image
        for index in range(len(layout.parts))
        for image in planned_images(plan_part(spec, info, layout, index))
    ]
    work = list(batches(images, lambda image: batch_size))
    context = mp.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    workers = [
        context.Process(
            target=bare_loop, args=(spec.model, work[i::processes], batch_size, barrier)
        )
        for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    return len(images) / (time.perf_counter() - start)


def bare_loop(
    spec: ModelSpec, work: list[list[PlannedImage]], batch_size: int, barrier: object
) -> None:
    """Load the model, wait for the other processes, then sample."""
    import torch

    from nightpress.diffusion_core.sampling.sampler import Sampler

    torch.set_num_threads(1)
    sampler = Sampler(load(locate(spec, {}), spec, "cpu"), batch_size)
    barrier.wait()  # type: ignore[attr-defined]
    for batch in work:
        sampler.sample([image.request for image in batch], batch[0].params)


if __name__ == "__main__":
    main()
