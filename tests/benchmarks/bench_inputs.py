"""How long rows take whose pictures lie on an S3 server, and how much of it is waiting for them.

::

    python tests/benchmarks/bench_inputs.py
    python tests/benchmarks/bench_inputs.py --rows 64 --batch-s 2 --side 1536

Each row has four pictures of its own: an initial image, a mask and two controls, photographs as
JPEG. The sampler only sleeps, as a GPU would leave the CPU alone. First the CPU time of preparing a
picture is measured, step by step; then whole shards are run, and the timeline's share of waiting
for input is printed, without and with a batch of pictures prepared ahead.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
from support import servers  # noqa: E402
from support.fakes.fake_runs import FakeSampler, work_on  # noqa: E402
from support.picture_files import encoded, smooth_picture  # noqa: E402
from support.pictured_runs import PICTURED  # noqa: E402
from support.plans import write  # noqa: E402

from nightpress.diffusion_core.conditioning.spec import Conditioning  # noqa: E402
from nightpress.diffusion_core.models.lora_files import LoraInfo  # noqa: E402
from nightpress.diffusion_core.sampling.sampler import (  # noqa: E402
    ImageRequest,
    SampledBatch,
    SamplingParams,
)
from nightpress.pipelines.inputs.decoding import DecodeLimits, decode_colour  # noqa: E402
from nightpress.pipelines.inputs.fitting import Placement, fitted  # noqa: E402
from nightpress.pipelines.job.spec import RunSpec  # noqa: E402
from nightpress.pipelines.planning import check, plan_part  # noqa: E402
from nightpress.pipelines.records import PlannedInput  # noqa: E402
from nightpress.pipelines.run_directory.record import new_record  # noqa: E402
from nightpress.pipelines.shards import runner as runners  # noqa: E402
from nightpress.pipelines.shards.batch_inputs import BatchInputs  # noqa: E402
from nightpress.pipelines.shards.batching import PlannedImage, planned_images  # noqa: E402
from nightpress.pipelines.shards.input_history import InputSession  # noqa: E402
from nightpress.pipelines.shards.timeline import Activity  # noqa: E402
from nightpress.pipelines.storage import Store  # noqa: E402
from nightpress.pipelines.storage.limited import read_limited  # noqa: E402

ROLES = ("init_image", "mask_image", "control_image", "control_image")
CONDITIONING = Conditioning("inpaint+control", controls=("a", "b"), control_scales=(1.0, 1.0))
CONTROLNETS = tuple(LoraInfo(name, "0" * 64, 1.0) for name in ("a", "b"))
INFO = replace(PICTURED, width=512, height=512, controlnets=CONTROLNETS)


class SleepingSampler(FakeSampler):
    """Takes a fixed time for a batch, and no CPU time."""

    def __init__(self, batch_s: float) -> None:
        super().__init__()
        self._batch_s = batch_s

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        time.sleep(self._batch_s)
        pixels = np.zeros((len(requests), 64, 64, 3), np.uint8)
        pixels[:, 0] = 255
        return SampledBatch(pixels, (None,) * len(requests))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--side", type=int, default=1024, help="pixels of a picture's side")
    parser.add_argument("--batch-s", type=float, default=2.0, help="what a batch of four takes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, servers.environment():
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        with servers.seaweed(folder / "data") as server:
            place = server.folder()
            num_bytes = put_pictures(place, arguments.rows, arguments.side)
            print(
                f"{arguments.rows} rows with four pictures each, {arguments.side}^2, "
                f"{num_bytes / 1e3:.0f} kB on average, to 512^2; batches of 4, "
                f"{arguments.batch_s} s"
            )
            show_steps(place, arguments.side)
            for ahead in (False, True):
                show_run(folder, place, arguments.rows, arguments.batch_s, ahead)


def put_pictures(place: servers.Folder, rows: int, side: int) -> float:
    """Store four pictures a row; returns their mean size in bytes."""
    store, sizes = Store(place.url, place.options), []
    for row in range(rows):
        for number in range(len(ROLES)):
            data = encoded(smooth_picture(side, side, 4 * row + number), "JPEG", quality=92)
            store.put(f"{row}-{number}.jpg", data)
            sizes.append(len(data))
    return float(np.mean(sizes))


def show_steps(place: servers.Folder, side: int) -> None:
    """Print the CPU and wall time of each step of preparing one picture."""
    url, limits = f"{place.url}/0-0.jpg", DecodeLimits(10**8, 10**8)
    data = read_limited(url, place.options, 10**8)
    image = decode_colour(data, limits)
    placement = Placement.of(image.size, (512, 512), "cover")
    steps: dict[str, Callable[[], object]] = {
        "fetch": lambda: read_limited(url, place.options, 10**8),
        "decode": lambda: decode_colour(data, limits),
        "fit": lambda: fitted(image, placement, (512, 512)),
    }
    for step, action in steps.items():
        clock, cpu = time.perf_counter(), time.process_time()
        for _ in range(20):
            action()
        wall_ms = (time.perf_counter() - clock) * 50
        print(f"{step:8} {wall_ms:7.1f} ms, {(time.process_time() - cpu) * 50:6.1f} ms of CPU")


def show_run(folder: Path, place: servers.Folder, rows: int, batch_s: float, ahead: bool) -> None:
    """Run all rows as one shard, and print where the time went."""
    name = "ahead" if ahead else "not-ahead"
    spec = RunSpec.from_dict(
        {
            "name": name,
            "manifest": str(write(folder / "m.jsonl", [{"prompt": f"{n}"} for n in range(rows)])),
            "output": str(folder / "runs"),
            "batch": {"size": 4, "shard_size": rows},
            "storage": place.options,
        }
    )
    layout = check(spec, INFO, 4)
    record, plan = new_record(spec, INFO, "cpu", 4, layout), plan_part(spec, INFO, layout, 0)

    def pictured(table: object) -> list[PlannedImage]:
        return [
            replace(image, conditioning=CONDITIONING.as_text(), inputs=pictures_of(place, number))
            for number, image in enumerate(planned_images(plan))
        ]

    prefetch, take = BatchInputs.prefetch, BatchInputs.take

    store = Store(spec.url)
    runner = runners.ShardRunner(
        store,
        record,
        SleepingSampler(batch_s),  # type: ignore[arg-type]
        "here:1",
        inputs=InputSession(name),
    )
    with patch.object(runners, "planned_images", pictured):
        clock = time.perf_counter()
        if ahead:
            list(runner.run(work_on(plan), plan))
        else:

            def prepare_now(self, images, is_stopped):  # type: ignore[no-untyped-def]
                prefetch(self, images)
                return take(self, images, is_stopped)

            with (
                patch.object(BatchInputs, "prefetch", lambda self, images, history: None),
                patch.object(BatchInputs, "are_ready", lambda self, images: False),
                patch.object(BatchInputs, "take", prepare_now),
            ):
                list(runner.run(work_on(plan), plan))
        seconds = time.perf_counter() - clock
    spent = runner.timeline.spent().seconds
    runner.close()
    total = sum(spent[each] for each in (Activity.BUSY, Activity.INPUT, Activity.OUTPUT))
    print(
        f"{name:10} {seconds:6.1f} s, {rows / seconds:5.2f} rows/s, "
        f"{spent[Activity.INPUT] / total:6.1%} waiting for input, "
        f"{spent[Activity.OUTPUT] / total:.1%} for output"
    )


def pictures_of(place: servers.Folder, row: int) -> tuple[PlannedInput, ...]:
    return tuple(
        PlannedInput(role, f"{place.url}/{row}-{number}.jpg") for number, role in enumerate(ROLES)
    )


if __name__ == "__main__":
    main()
