"""Loading a model in one file against loading the diffusers folder with the same weights.

    python tests/benchmarks/bench_single_file.py [--scale full|tiny] [--repeats N] [--work FOLDER]

Writes Stable Diffusion 1.5 with random weights in float16 as a diffusers folder and as a single
file in LDM's layout, and loads each in a process of its own, in turn, in the file's type and in
float32. Prints the median seconds of `loading.load` alone, the largest resident memory of the
process, and how much of it is not the files' own pages.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from random_models import SD15, make
from support import ldm_checkpoints

from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.storage.urls import Options

NO_OPTIONS: Options = {}
POLL_S = 0.01


def memory() -> tuple[int, int]:
    """(resident bytes, resident bytes that are not pages of files) of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return tuple(int(values[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


def load_once(source: str, config: str | None, dtype: str) -> dict[str, float]:
    """Load one model; returns seconds and peaks of memory above those before."""
    spec = ModelSpec.model_validate({"source": source, "config": config, "dtype": dtype})
    began = time.perf_counter()
    files = ModelFiles.locate(spec, NO_OPTIONS)
    located_s = time.perf_counter() - began
    import diffusers  # noqa: F401  its import is not what is measured

    loading.read_model(files.folder)
    peaks, done = [memory()], threading.Event()

    def watch() -> None:
        while not done.wait(POLL_S):
            peaks.append(memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    model = files.load(spec, "cpu")
    load_s = time.perf_counter() - began
    done.set()
    watcher.join()
    peaks.append(memory())
    assert model.dtype == dtype
    return {
        "locate_s": located_s,
        "load_s": load_s,
        "peak": max(each[0] for each in peaks) - peaks[0][0],
        "peak_anonymous": max(each[1] for each in peaks) - peaks[0][1],
    }


def write_models(folder: Path, scale: str) -> tuple[Path, Path]:
    """A diffusers folder and a single file with the same weights."""
    pipeline = make(SD15, scale, "float16", "cpu")
    pipeline.save_pretrained(folder / "sd15")
    file = ldm_checkpoints.write(ldm_checkpoints.sd1(pipeline), folder / "sd15.safetensors")
    return folder / "sd15", file


def compare(folder: Path, file: Path, repeats: int) -> None:
    """Load both in turn, each time in a new process, and print a table."""
    print(f"{'':12} {'dtype':8} {'load':>7} {'peak':>9} {'anonymous':>10}")
    for dtype in ("float16", "float32"):
        measured: dict[str, list[dict[str, float]]] = {"folder": [], "file": []}
        for _ in range(repeats):
            for kind, source, config in (("folder", folder, None), ("file", file, folder)):
                arguments = [str(source), str(config or ""), dtype]
                command = [sys.executable, __file__, "--child", *arguments]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                measured[kind].append(json.loads(done.stdout.splitlines()[-1]))
        for kind, values in measured.items():
            load, peak, anonymous = (
                statistics.median(each[key] for each in values)
                for key in ("load_s", "peak", "peak_anonymous")
            )
            print(
                f"{kind:12} {dtype:8} {load:5.2f} s {peak / 1e9:6.2f} GB {anonymous / 1e9:7.2f} GB",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=["full", "tiny"], default="full")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--work", type=Path, help="Folder for the models; a temporary one if unset."
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        source, config, dtype = options.child
        print(json.dumps(load_once(source, config or None, dtype)))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        os.environ["XDG_CACHE_HOME"] = temporary
        folder, file = write_models(Path(temporary), options.scale)
        print(f"{file.stat().st_size / 1e9:.2f} GB in one file")
        compare(folder, file, options.repeats)


if __name__ == "__main__":
    main()
