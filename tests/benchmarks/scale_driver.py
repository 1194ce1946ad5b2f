"""One run with simulated actors, in its own process and Ray; `bench_scale.py` starts it.

::

    python tests/benchmarks/scale_driver.py trial.json

Prints `up` when all actors are up, and at the end the outcome as JSON.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import ray
from bench_scale import JOB, Outcome, Trial
from rich.console import Console
from simulated_actors import SimulatedFactory, process_of

from nightpress.jobs.cluster.connection import LOCAL_OBJECT_STORE_BYTES
from nightpress.jobs.progress.events import ActorJoined, ActorLost, Event, Planned
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.runs import runner
from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.shards.events import BatchDone, ShardDone


@dataclass(frozen=True)
class Moment:
    """A driver's progress and CPU time at one moment."""

    at: float
    """Seconds since the epoch."""
    cpu_s: float
    """User and system time of all threads of this process."""
    num_images: int

    def rate_until(self, end: "Moment") -> float | None:
        """Images/s until a later moment; None if no image was made in between."""
        if end.num_images <= self.num_images:
            return None
        return (end.num_images - self.num_images) / (end.at - self.at)

    def cpu_ms_until(self, end: "Moment") -> float:
        """CPU time per image until a later moment."""
        return 1000 * (end.cpu_s - self.cpu_s) / (end.num_images - self.num_images)


class Meter:
    """Measures a run of `actors` actors from its events."""

    def __init__(self, actors: int) -> None:
        self._actors = actors
        self._num_images = self._shards_left = 0
        self._first: Moment | None = None
        self._up: Moment | None = None
        self._busy_until: Moment | None = None
        """When as many shards were left as there are actors: with fewer, some have no work."""
        self._last: Moment | None = None
        self._rss_bytes = 0
        self._lost: list[str] = []

    def handle(self, event: Event) -> None:
        """Take an event into account."""
        match event:
            case Planned():
                self._shards_left = event.num_shards
            case ActorJoined() if event.num_actors == self._actors and self._up is None:
                self._up = self.now()
                print("up", flush=True)
            case ActorLost():
                self._lost.append(event.reason)
            case BatchDone():
                self._num_images += event.num_sampled
                self._first = self._first or self.now()
            case ShardDone():
                self._committed()

    def outcome(self, end: Moment, first_image_at: float) -> Outcome:
        """The outcome of a finished run."""
        first, last = self._first, self._last
        assert first is not None
        assert last is not None
        return Outcome(
            first_image_at=first_image_at,
            all_up_at=self._up.at if self._up else None,
            images_per_s=self._images_per_s(first),
            cpu_ms=first.cpu_ms_until(last),
            closing_cpu_ms=1000 * (end.cpu_s - last.cpu_s) / self._num_images,
            rss_bytes=self._rss_bytes,
            lost=self._lost,
        )

    def _images_per_s(self, first: Moment) -> float | None:
        if self._up is None or self._busy_until is None:
            return None
        since = max(first, self._up, key=lambda moment: moment.at)
        return since.rate_until(self._busy_until)

    def _committed(self) -> None:
        self._shards_left -= 1
        if self._shards_left == self._actors:
            self._busy_until = self.now()
        if not self._shards_left:
            self._last = self.now()
            self._rss_bytes = psutil.Process().memory_info().rss

    def now(self) -> Moment:
        """The present moment."""
        return Moment(time.time(), time.process_time(), self._num_images)


def drive(trial: Trial) -> Outcome:
    """Run a trial's job and measure it."""
    folder, meter = Path(trial.folder), Meter(trial.actors)
    spec = RunSpec.from_file(folder / JOB)
    # As in a real run through a pipe: the lines of progress are part of a driver's work.
    display = display_for(Console(stderr=True))
    with started_ray(trial, folder / "ray"), simulated(trial):

        def on_event(event: Event) -> None:
            display.show(event)
            meter.handle(event)

        with display:
            result = runner.run(spec, on_event)
        end = meter.now()
        if result.num_ok != trial.num_images:
            raise SystemExit(f"{result.num_ok:,} of {trial.num_images:,} images are ok")
        return meter.outcome(end, first_batch_at(spec) + trial.batch_s)


def first_batch_at(spec: RunSpec) -> float:
    """When the first batch started, in seconds since the epoch, by the metadata."""
    starts = open_run(spec.url, spec.storage).metadata.to_table(columns=["started_at"])
    earliest: int = pc.min(starts.column("started_at")).cast(pa.int64()).as_py()
    return earliest / 1e6


@contextmanager
def started_ray(trial: Trial, folder: Path) -> Iterator[None]:
    """A local Ray that has a CPU for each actor, whatever the machine has."""
    ray.init(
        address="local",
        num_cpus=trial.processes * trial.actors_per_process,
        include_dashboard=False,
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        logging_level="ERROR",
        log_to_driver=False,
        _temp_dir=str(folder),
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def simulated(trial: Trial) -> Iterator[None]:
    """Make runs start and kill simulated actors."""
    plain = ray.kill

    def kill(actor: Any, **values: Any) -> None:
        plain(process_of(actor), **values)

    def factory(spec: RunSpec, traced: bool = False) -> SimulatedFactory:
        return SimulatedFactory(
            spec=spec.model,
            options=spec.storage,
            cpus=1,
            gpus=0,
            threads=1,
            traced=traced,
            batch_s=trial.batch_s,
            actors_per_process=trial.actors_per_process,
        )

    with (
        mock.patch.object(ray, "kill", kill),
        mock.patch.object(runner, "actor_factory", factory),
    ):
        yield


if __name__ == "__main__":
    print(json.dumps(asdict(drive(Trial(**json.loads(Path(sys.argv[1]).read_text()))))), flush=True)
