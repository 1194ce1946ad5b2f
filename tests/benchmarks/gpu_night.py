"""What a GPU does with nightpress, in one night of eight minutes.

For a machine with CUDA that is lent for a short time: it needs torch, diffusers, transformers and
this checkout, and neither Ray nor a network. All models have random weights, which are made on the
device. The steps come in order of worth, and after each line the JSON file is written again, so
that a night which is cut off keeps what it has. A step that fails is recorded with its error, and
the next one begins; one that takes longer than its share is cut off, and one for which no time is
left is skipped.

    python tests/benchmarks/gpu_night.py --seconds 480 --out night.json
    python tests/benchmarks/gpu_night.py --device cpu --tiny --seconds 900

The second command rehearses it on a CPU: every step runs, with tiny models, whose figures say
nothing about full-size ones. Exit code 0: every step is done; 3: one failed, was cut or skipped.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from night_steps import STEPS, Entry, Night, Step
from random_models import ARCHITECTURES

from nightpress.diffusion_core.acceleration.numerics import SWITCHES, fix_numerics
from nightpress.diffusion_core.errors import one_line
from nightpress.diffusion_core.silence_libraries import silence_process

STARTED_AT = time.monotonic()
"""When torch was imported; the night is counted from here."""

LEAST_SHARE = 0.25
"""A step is skipped if less than this part of its share of the time is left."""

Status = Literal["done", "failed", "cut", "skipped"]


class TimeUp(BaseException):
    """A step has used its time; no exception of libraries, so that none of them swallows it."""


@dataclass(frozen=True)
class Clock:
    """When the night ends, and how long each of the steps that are left may take."""

    seconds: float
    ends_at: float

    @property
    def left_s(self) -> float:
        """Seconds until the end."""
        return self.ends_at - time.monotonic()

    def limit_s(self, step: Step, others: list[Step]) -> float:
        """Seconds for a step: its share of what is left for it and the others."""
        shares = step.share + sum(each.share for each in others)
        return self.left_s * step.share / shares

    def is_enough(self, step: Step, limit_s: float) -> bool:
        """Whether a step is worth beginning."""
        return limit_s > LEAST_SHARE * step.share * self.seconds


class Log:
    """The results so far: printed line by line, and written to a file after each of them."""

    def __init__(self, facts: Entry, out: Path | None) -> None:
        self._out = out
        self.results: dict[str, Any] = {**facts, "steps": []}
        print("; ".join(f"{name} {value}" for name, value in facts.items()), flush=True)

    def begin(self, name: str, step: Step) -> Entry:
        """Begin a step; returns what is recorded about it."""
        record: Entry = {"step": name, "title": step.title, "status": "begun", "entries": []}
        self.results["steps"].append(record)
        print(f"\n{name}: {step.title}", flush=True)
        return record

    def add(self, record: Entry, entry: Entry) -> None:
        """Record one line of a step."""
        entry = {name: _finite(value) for name, value in entry.items()}
        record["entries"].append(entry)
        print(f"  {line(entry)}", flush=True)
        self._write()

    def end(self, record: Entry, status: Status, seconds: float, error: str | None = None) -> None:
        """Record how a step ended."""
        record |= {"status": status, "seconds": round(seconds, 2)}
        if error is not None:
            record["error"] = error
        print(f"  {status} after {seconds:.1f} s{f': {error}' if error else ''}", flush=True)
        self._write()

    def _write(self) -> None:
        if self._out is None:
            return
        beside = self._out.with_name(f"{self._out.name}.part")
        beside.write_text(json.dumps(self.results, indent=1, default=str))
        beside.replace(self._out)


def import_pipelines() -> None:
    """Import what the models are made of, so that no step is blamed for it."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import diffusers
    import transformers

    for architecture in ARCHITECTURES.values():
        getattr(diffusers, architecture.pipeline)
        for network in architecture.networks.values():
            library = diffusers if network.library == "diffusers" else transformers
            getattr(library, network.class_name)


def _finite(value: Any) -> Any:
    """None for a figure that is none, such as a share of time that could not be recorded."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line(entry: Entry) -> str:
    """An entry as text: `model sdxl, batch 8, images_per_s 1.93`."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in entry.items())


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_night(
    night: Night, log: Log, clock: Clock, steps: list[str], known: dict[str, Step]
) -> int:
    """Run the steps; returns the exit code."""
    statuses: list[Status] = []
    for number, name in enumerate(steps):
        others = [known[each] for each in steps[number + 1 :]]
        statuses.append(run_step(night, log, clock, name, known[name], others))
    return 0 if set(statuses) <= {"done"} else 3


def run_step(
    night: Night, log: Log, clock: Clock, name: str, step: Step, others: list[Step]
) -> Status:
    """Run one step within its time; returns how it ended."""
    record, limit_s = log.begin(name, step), clock.limit_s(step, others)
    if not clock.is_enough(step, limit_s):
        log.end(record, "skipped", 0.0, f"{max(0.0, clock.left_s):.0f} s are left of the night")
        return "skipped"
    status: Status = "done"
    error = None
    began_at = time.monotonic()
    try:
        with time_limit(limit_s):
            for entry in step.run(night):
                log.add(record, entry)
    except TimeUp:
        status, error = "cut", f"its {limit_s:.0f} s were over"
    except Exception as problem:  # whatever it is, the night goes on
        status, error = "failed", f"{type(problem).__name__}: {one_line(problem, 300)}"
    fix_numerics()
    log.end(record, status, time.monotonic() - began_at, error)
    return status


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block once it has lasted so long; in the main thread only."""

    def up(_number: int, _frame: FrameType | None) -> None:
        raise TimeUp

    before: Any = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def facts_of(device: str, tiny: bool) -> Entry:
    """What the figures depend on."""
    facts: Entry = {"device": device, "torch": torch.__version__, "tiny": tiny, **SWITCHES}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": properties.name,
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=_positive, default=480.0, help="time for all steps")
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, for a rehearsal")
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; to rehearse: --device cpu --tiny")
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu needs --tiny: full-size models would take days")
    return options


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def main(arguments: list[str]) -> int:
    """Run the night; returns the exit code."""
    options = parse(arguments)
    silence_process()
    fix_numerics(1 if options.device == "cpu" else 0)
    import_pipelines()
    facts = facts_of(options.device, options.tiny)
    log = Log(facts | {"import_s": time.monotonic() - STARTED_AT}, options.out)
    night = Night(options.device, "tiny" if options.tiny else "full")
    chosen = [name for name in STEPS if options.only is None or name in options.only]
    clock = Clock(options.seconds, STARTED_AT + options.seconds)
    return run_night(night, log, clock, chosen, dict(STEPS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
