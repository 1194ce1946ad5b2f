"""Draws that a gated run makes against those foretold, and whether two gated runs are the same.

::

    python tests/benchmarks/bench_gates.py --rows 100 --kills 3

A small run without gates samples the first rows, four variants each. Its median sharpness is the
gate, which half of the draws pass, and `nightpress gates` foretells from it what all other rows
take. Then two gated runs of these are made: one in large shards by one actor, one in small shards
by two, which are killed at random. `plan` foretells the first one from the run without gates, and
then its like.

With `--in-process` no cluster and no model is needed: noise takes the place of images, stronger for
some prompts and seeds than for others, and the work ends at random in a write to the store.

`--model` may be a folder; by default it is a tiny network with random weights. `--scorer-s 0.5`
adds a scorer that takes so long for an image.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from support.fakes.fake_runs import FakeSampler, prepare, work_on  # noqa: E402
from support.plans import MODEL  # noqa: E402
from support.tiny_models import save  # noqa: E402

from nightpress import gates, plan, run, verify  # noqa: E402
from nightpress.diffusion_core.sampling.sampler import (  # noqa: E402
    ImageRequest,
    SampledBatch,
    SamplingParams,
)
from nightpress.jobs.progress.events import ActorLost, Event  # noqa: E402
from nightpress.pipelines import open_run  # noqa: E402
from nightpress.pipelines.job.spec import RunSpec  # noqa: E402
from nightpress.pipelines.planning import read_shard, write_plan  # noqa: E402
from nightpress.pipelines.run_directory.record import RUN_FILE  # noqa: E402
from nightpress.pipelines.shards.events import BatchDone, DrawsJudged  # noqa: E402
from nightpress.pipelines.shards.runner import ShardRunner  # noqa: E402
from nightpress.pipelines.storage import Store  # noqa: E402

PROMPTS = TESTS.parent / "jobs" / "examples" / "prompts.txt"

SLOW = """
import time

class Slow:
    def __init__(self, seconds):
        self.seconds = seconds

    def score(self, image):
        time.sleep(self.seconds)
        return float(image.pixels.mean())
"""

COMPARED = ("status", "sha256", "seed", "draw", "draws", "gate", "error", "scores")
"""What must be the same in both runs, for each image."""


@dataclass
class Watcher:
    """Counts draws, and kills actors at random until it has killed `kills`."""

    kills: int
    chance: random.Random
    num_draws: int = 0
    num_unused: int = 0
    num_lost: int = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, DrawsJudged):
            self.num_draws += event.num_draws
            self.num_unused += event.num_unused
        self.num_lost += isinstance(event, ActorLost)
        if isinstance(event, BatchDone) and self.kills and self.chance.random() < 0.2:
            actors = [each for each in psutil.Process().children(recursive=True) if is_actor(each)]
            if actors:
                os.kill(self.chance.choice(actors).pid, signal.SIGKILL)
                self.kills -= 1


def is_actor(process: psutil.Process) -> bool:
    """Whether a process below this one is an actor that samples."""
    try:
        return any(part.startswith("ray::SamplerActor") for part in process.cmdline())
    except psutil.Error:
        return False


def main() -> None:
    """Make the three runs, and print what was foretold and what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--seen", type=int, default=12, help="rows of the run without gates")
    parser.add_argument("--best-of", type=int, default=1)
    parser.add_argument("--max-draws", type=int, default=16)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--scorer-s", type=float, default=0.0)
    parser.add_argument("--model", help="default: a tiny network")
    parser.add_argument("--prompts", default=str(PROMPTS), help="one a line; repeated as needed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-process", action="store_true", help="without a cluster or a model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.in_process:
            compare_in_process(options, Path(folder))
        else:
            compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Foretell, make, and compare."""
    base = job(options, folder)
    seen = base | {"name": "seen", "manifest": str(folder / "seen.jsonl")}
    ungated = RunSpec.from_dict(seen | {"sampling": base["sampling"] | {"num_images": 4}})
    run(ungated)
    tried = foretold(options, ungated)
    one = gated(base, tried, "one", actors=1, shard_size=64)
    two = gated(base, tried, "two", actors=2, shard_size=12)
    tell_plan(one, "no run with these gates is known")
    made(one, Watcher(0, random.Random(options.seed)))
    tell_plan(gated(base, tried, "next", actors=1, shard_size=64), "after that run")
    made(two, Watcher(options.kills, random.Random(options.seed)))
    require_same(one, two)


def require_same(one: RunSpec, two: RunSpec) -> None:
    """Compare two runs image by image; ends the process if they differ."""
    first, second = taken(one), taken(two)
    differing = [each for each in first if first[each] != second.get(each)]
    sound = verify(one.url).is_sound and verify(two.url).is_sound
    same = len(first) - len(differing)
    print(f"same bytes, draws and scores: {same} of {len(first)} images; verify is sound: {sound}")
    if differing or first.keys() != second.keys() or not sound:
        raise SystemExit(f"the runs differ: {differing[:5]}")


def job(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A job without gates over all rows; the manifest of the first rows lies beside its own."""
    prompts = Path(options.prompts).read_text().splitlines()
    rows = [
        json.dumps({"id": f"{n:05d}", "prompt": prompts[n % len(prompts)]}) + "\n"
        for n in range(options.rows + options.seen)
    ]
    (folder / "seen.jsonl").write_text("".join(rows[: options.seen]))
    (folder / "held-out.jsonl").write_text("".join(rows[options.seen :]))
    (folder / "slow.py").write_text(SLOW)
    model = options.model or str(save("sd", folder / "model"))
    slow = {"scorer": f"{folder}/slow.py:Slow", "args": {"seconds": options.scorer_s}}
    sides = {"width": options.size, "height": options.size}
    return {
        "name": "job",
        "manifest": str(folder / "held-out.jsonl"),
        "output": str(folder / "runs"),
        "model": model,
        "sampling": {"num_inference_steps": options.steps, **sides},
        "scores": {"slow": slow} if options.scorer_s else {},
        "batch": {"size": 4, "shard_size": 16},
        "cluster": {"actors": 1},
    }


def foretold(options: argparse.Namespace, ungated: RunSpec) -> dict[str, Any]:
    """Gates that half of the draws of a run pass, after printing what they would do."""
    rows = open_run(ungated.url).metadata.to_table(columns=["scores"]).column("scores").to_pylist()
    middle = statistics.median(dict(each)["sharpness"] for each in rows)
    tried: dict[str, Any] = {
        "require": [f"sharpness > {middle!r}"],
        "max_draws": options.max_draws,
    }
    if options.best_of > 1:
        tried |= {"best_of": options.best_of, "rank_by": "contrast"}
    told = gates(ungated.url, **tried).trial
    assert told is not None
    low, high = told.passed.interval
    print(
        f"foretold from {told.passed.of} draws: {told.passed.value:.1%} pass ({low:.1%} to "
        f"{high:.1%}), {told.expected.draws:.2f} draws an image ({told.plausible[0]:.2f} to "
        f"{told.plausible[1]:.2f}), {told.expected.exhausted:.1%} "
        f"rejected; draws of a row are alike by {told.correlation or 0.0:.2f}"
    )
    return tried


class Noise(FakeSampler):
    """Noise whose strength the prompt and the seed decide, as sharpness shows."""

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        made = super().sample(requests, params, batch_size)
        for pixels, request in zip(made.pixels, requests, strict=True):
            of_prompt = random.Random(request.prompt).gauss(0.0, 0.5)
            chance = np.random.default_rng(request.seed)
            strength = 20.0 * np.exp(of_prompt + chance.normal(0.0, 0.5))
            noise = 128 + strength * chance.standard_normal(pixels.shape)
            pixels[:] = np.clip(noise, 0, 255).astype(np.uint8)
        return made


class Killed(BaseException):
    """The process would end here."""


def compare_in_process(options: argparse.Namespace, folder: Path) -> None:
    """The same without a cluster: a write to the store ends an attempt at random."""
    prompts = [f"picture {n}" for n in range(options.seen + options.rows)]
    seen, held_out = prompts[: options.seen], prompts[options.seen :]
    four = {"sampling": {"num_images": 4}}
    ungated, _ = made_in_process(folder / "seen", seen, 64, random.Random(0), 0, **four)
    tried = foretold(options, ungated)
    specs = []
    for name, shard_size, kills in (("one", 64, 0), ("two", 12, options.kills)):
        chance = random.Random(options.seed)
        spec, num_sampled = made_in_process(
            folder / name, held_out, shard_size, chance, kills, gates=tried
        )
        specs.append(spec)
        draws = open_run(spec.url).metadata.to_table(columns=["status", "draws"]).to_pylist()
        rejected = [row for row in draws if row["status"] == "failed"]
        decisive = sum(row["draws"] for row in draws)
        print(
            f"{name}: shards of {shard_size}, {kills} kills: {decisive / len(draws):.2f} draws an "
            f"image, {len(rejected) / len(draws):.1%} rejected; {decisive} draws decide, "
            f"{num_sampled} were sampled"
        )
    require_same(*specs)


def made_in_process(
    folder: Path,
    prompts: Sequence[str],
    shard_size: int,
    chance: random.Random,
    kills: int,
    **job: Any,
) -> tuple[RunSpec, int]:
    """Make a whole run; returns its job, and how many draws were sampled."""
    store, record, _ = prepare(folder, prompts, shard_size, **job)
    store.create(RUN_FILE, record.to_json())
    list(write_plan(record.spec, MODEL, record.layout, store))
    fatal = set(chance.sample(range(len(prompts)), kills))
    plain, written, num_sampled = Store.create, iter(range(10**9)), 0

    def create(self: Store, path: str, data: bytes) -> bool:
        if next(written) in fatal:
            raise Killed
        return plain(self, path, data)

    for shard in range(record.layout.num_shards):
        rows, attempt = read_shard(store, record.layout, shard), 1
        while True:
            sampler = Noise()
            runner = ShardRunner(store, record, sampler, "here:1")  # type: ignore[arg-type]
            work = work_on(rows, shard, attempt=attempt, look_first=attempt > 1)
            with mock.patch.object(Store, "create", create):
                try:
                    list(runner.run(work, rows))
                    break
                except Killed:
                    attempt += 1
                finally:
                    num_sampled += len(sampler.seeds)
                    runner.close()
    return record.spec, num_sampled


def gated(
    base: dict[str, Any], tried: dict[str, Any], name: str, actors: int, shard_size: int
) -> RunSpec:
    """The job with gates."""
    own = {"batch": {"size": 4, "shard_size": shard_size}, "cluster": {"actors": actors}}
    return RunSpec.from_dict(base | {"name": name, "gates": tried} | own)


def tell_plan(spec: RunSpec, when: str) -> None:
    """Print what `plan` foretells."""
    found = plan(spec).estimate
    told = (
        "nothing" if found is None else f"{found.actor_s:.1f} s of actors, scoring {found.scoring}"
    )
    print(f"plan foretells, {when}: {told}")


def made(spec: RunSpec, watcher: Watcher) -> None:
    """Make a run, and print its draws."""
    began = time.perf_counter()
    result = run(spec, watcher)
    elapsed_s = time.perf_counter() - began
    draws = open_run(spec.url).metadata.to_table(columns=["draws"]).column("draws").to_pylist()
    print(
        f"{spec.name}: shards of {spec.batch.shard_size}, {spec.cluster.actors} actors, "
        f"{watcher.num_lost} killed: {sum(draws) / len(draws):.2f} draws an image, "
        f"{result.num_rejected / len(draws):.1%} rejected; {sum(draws)} draws decide, "
        f"{watcher.num_draws + watcher.num_unused} were judged, {watcher.num_unused} of them made "
        f"ahead and not needed; {elapsed_s:.1f} s with loading"
    )


def taken(spec: RunSpec) -> dict[str, tuple[Any, ...]]:
    """Image id -> what must not depend on shards and actors, and the image's bytes."""
    found = open_run(spec.url)
    rows = found.metadata.to_table(columns=["image_id", "file", *COMPARED]).to_pylist()
    return {
        row["image_id"]: (
            *(row[name] for name in COMPARED),
            None if row["file"] is None else found.store.read(row["file"]),
        )
        for row in rows
    }


if __name__ == "__main__":
    main()
