"""A whole run beside the bare loop on the same batches: what storing and documenting costs.

The bare loop is as many processes as the run has actors, each with one thread and its share of the
same batches: prompts encoded, latents denoised and decoded, pixels dropped. The run does the same
and encodes, stores, records and commits. Both are timed from the moment that the models are
loaded; pairs alternate, and the median of their ratios is what counts.

What lies between an actor's batches is from the end of one to the beginning of the next, by the
host's clock, whatever was waited for: median and 95th percentile of the latest thousand of each.

    python tests/benchmarks/bench_run.py --images 96 --actors 2 --pairs 3
"""

import argparse
import multiprocessing as mp
import statistics
import tempfile
import time
from pathlib import Path

from nightpress.diffusion_core.models.loading import ModelSpec, describe, load
from nightpress.jobs.progress.events import ActorJoined, Event
from nightpress.jobs.progress.trace import BetweenBatches
from nightpress.jobs.runs.runner import run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.planning import check, plan_part
from nightpress.pipelines.shards.batching import PlannedImage, batches, planned_images

PROMPTS = Path(__file__).resolve().parents[2] / "jobs" / "examples" / "prompts.txt"


def main() -> None:
    """Time pairs of both and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--output", help="URL of a folder for the runs; a temporary one unless set")
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
    """The examples' prompts, as many images of each as it takes."""
    prompts = PROMPTS.read_text().split("\n")[:-1]
    manifest = Path(scratch) / "prompts.txt"
    rows = [prompts[i % len(prompts)] for i in range(options.images)]
    manifest.write_text("\n".join(rows) + "\n")
    return RunSpec.from_dict(
        {
            "name": f"pair-{pair}",
            "manifest": str(manifest),
            "output": options.output or f"{scratch}/runs",
            "model": options.model,
            "batch": {"size": options.batch_size, "shard_size": 4 * options.batch_size},
            "cluster": {"actors": options.actors},
        }
    )


def run_rate(spec: RunSpec, actors: int) -> tuple[float, BetweenBatches]:
    """Images a second of a run, from its last actor's model being loaded to its last commit.

    Beside them, what lay between the batches of its actors.
    """
    joined: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, ActorJoined):
            joined.append(time.perf_counter())

    result = run(spec, note)
    end = time.perf_counter()
    if len(joined) != actors or result.num_failed:
        raise SystemExit(f"{len(joined)} actors joined, {result.num_failed} images failed")
    if result.between_batches is None:
        raise SystemExit("no batch followed another: more --images, or smaller batches")
    # The first actor works alone until the others have joined: count actor-seconds.
    rate = result.num_made * actors / sum(end - moment for moment in joined)
    return rate, result.between_batches


def bare_rate(spec: RunSpec, processes: int, batch_size: int) -> float:
    """Images a second of the loop alone."""
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
    """Load the model, wait for the others, sample."""
    import torch

    from nightpress.diffusion_core.sampling.sampler import Sampler

    torch.set_num_threads(1)
    sampler = Sampler(load(locate(spec, {}), spec, "cpu"), batch_size)
    barrier.wait()  # type: ignore[attr-defined]
    for batch in work:
        sampler.sample([image.request for image in batch], batch[0].params)


if __name__ == "__main__":
    main()
