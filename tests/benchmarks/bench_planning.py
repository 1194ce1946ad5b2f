"""How fast a Parquet manifest is planned, and in how much memory.

    python tests/benchmarks/bench_planning.py --rows 10000000
    python tests/benchmarks/bench_planning.py --pictures

Another process makes the manifest first, so that its time and memory do not count.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check, read_shard, write_plan
from nightpress.pipelines.storage import Store

MODEL = ModelInfo(
    source="builtin",
    fingerprint="0" * 64,
    pipeline="StableDiffusionPipeline",
    size_multiple=8,
    width=512,
    height=512,
    num_inference_steps=50,
    guidance_scale=7.5,
    samplers=("ddim", "euler", "dpmsolver++"),
    takes_negative_prompt=True,
    modes=("text", "image"),
)

UNCHECKED = InputsSpec(check="none")

ROWS_AT_ONCE = 1 << 17

Mapper = Callable[..., Iterable[Any]]


def make_manifest(path: Path, num_rows: int, row_group: int, ids: bool, pictures: bool) -> None:
    """Write a manifest: 60-byte prompts, three widths, three samplers, two guidance scales.

    With `pictures`, every row has an init_image of its own and one of ten strengths.
    """
    random = np.random.default_rng(0)
    words = np.array([f"word{index:03d}" for index in range(1000)])
    writer = None
    for start in range(0, num_rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, num_rows - start)
        numbers = np.arange(start, start + count)
        picks = words[random.integers(0, 1000, (count, 7))]
        columns = {
            "prompt": [f"{' '.join(pick)} {n}" for pick, n in zip(picks, numbers, strict=True)],
            "width": random.choice([512, 640, 768], count),
            "guidance_scale": random.choice([5.0, 7.5], count),
            "scheduler": random.choice(["ddim", "euler", "dpmsolver++"], count),
            "category": random.choice(["animals", "food", "vehicles"], count),
        }
        if ids:
            columns["id"] = [f"row-{number}" for number in numbers]
        if pictures:
            columns["init_image"] = [f"s3://press/night/{number:09d}.png" for number in numbers]
            columns["strength"] = random.choice(np.arange(1, 11) / 10, count)
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=row_group)
    if writer is not None:
        writer.close()


@contextmanager
def mapper(processes: int) -> Iterator[Mapper]:
    """`map`, or its equivalent over that many processes."""
    if processes == 1:
        yield map
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(int, range(processes)))
        yield pool.map


def peak_bytes(who: int) -> int:
    """Peak resident memory of this process or, with RUSAGE_CHILDREN, of its largest child."""
    return resource.getrusage(who).ru_maxrss * 1024


def line(what: str, num_rows: int, elapsed_s: float) -> str:
    """A line of the report."""
    return f"{what:<16}{elapsed_s:.2f} s, {num_rows / elapsed_s:,.0f} rows/s"


def main() -> None:
    """Plan one manifest and print the time and memory that it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--row-group", type=int, default=131_072)
    parser.add_argument("--ids", action="store_true", help="give the manifest an id column")
    parser.add_argument("--pictures", action="store_true", help="image to image: a picture a row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.parquet"
        maker = get_context("spawn").Process(
            target=make_manifest,
            args=(path, options.rows, options.row_group, options.ids, options.pictures),
        )
        maker.start()
        maker.join()
        made = peak_bytes(resource.RUSAGE_CHILDREN)
        spec = RunSpec(name="bench", manifest=str(path), output=folder, inputs=UNCHECKED)
        store = Store(spec.url)
        with mapper(options.processes) as spread:
            began, cpu = time.perf_counter(), time.process_time()
            layout = check(spec, MODEL, 8, spread)
            checked = time.perf_counter()
            parts = list(write_plan(spec, MODEL, layout, store, spread))
            written, cpu = time.perf_counter(), time.process_time() - cpu
        shard = read_shard(store, layout, layout.num_shards // 2)
        read = time.perf_counter()
    print(f"{'rows':<16}{options.rows:,} in {len(parts)} parts, {layout.num_shards:,} shards")
    print(line("check", options.rows, checked - began))
    print(line("write", options.rows, written - checked))
    print(line("both", options.rows, written - began))
    if options.processes == 1:
        print(line("both, CPU time", options.rows, cpu))
    print(f"{'read one shard':<16}{read - written:.4f} s, {shard.num_rows} images")
    print(f"{'peak RSS':<16}{peak_bytes(resource.RUSAGE_SELF) / 1e6:,.0f} MB in this process")
    if options.processes > 1:
        largest = peak_bytes(resource.RUSAGE_CHILDREN)
        bound = (
            "at most " if largest == made else ""
        )  # the process that made the manifest was the largest
        print(f"{'':<16}{bound}{largest / 1e6:,.0f} MB in each of {options.processes} workers")


if __name__ == "__main__":
    main()
