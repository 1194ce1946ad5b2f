"""Pairs of runs with one difference, for benchmarks: images/s of both, and their ratios."""

import argparse
import statistics
import tempfile
from collections.abc import Mapping

from bench_run import job, run_rate

from nightpress.pipelines.formatting import plural


def add_run_options(parser: argparse.ArgumentParser, pairs: int) -> None:
    """Add the options of the runs that are compared.

    Args:
        parser: of the benchmark.
        pairs: how many pairs are timed by default.
    """
    parser.add_argument("--run-images", type=int, default=64, help="of each run")
    parser.add_argument("--pairs", type=int, default=pairs, help="of runs")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--output", help="URL of a folder for the runs; default: a temporary one")


def compare_runs(
    options: argparse.Namespace, names: tuple[str, str], changes: Mapping[str, object]
) -> None:
    """Time pairs of a run of the example prompts as it is and one with changes, by turns.

    Args:
        options: those of `add_run_options`.
        names: of the run as it is, and of the other.
        changes: sections of the job -> their value in the other run.
    """
    pairs = list[tuple[float, float]]()
    runs = argparse.Namespace(**vars(options) | {"images": options.run_images})
    with tempfile.TemporaryDirectory() as scratch:
        for pair in range(options.pairs):
            plain, other = (job(runs, scratch, 2 * pair + each) for each in range(2))
            other = other.model_copy(update=dict(changes))
            order = (plain, other) if pair % 2 == 0 else (other, plain)
            rates = {spec.name: run_rate(spec, options.actors)[0] for spec in order}
            pairs.append((rates[plain.name], rates[other.name]))
            print(f"pair {pair}: {_in_words(names, *pairs[-1])}", flush=True)
    ratios = sorted(second / first for first, second in pairs)
    medians = [statistics.median(rates) for rates in zip(*pairs, strict=True)]
    print(
        f"medians of {plural(options.pairs, 'pair')}, {options.run_images} images a run: "
        f"{names[0]} {medians[0]:.2f}, {names[1]} {medians[1]:.2f} images/s, ratio "
        f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    )


def _in_words(names: tuple[str, str], first: float, second: float) -> str:
    rates = f"{names[0]} {first:.2f} images/s, {names[1]} {second:.2f} images/s"
    return f"{rates}, ratio {second / first:.3f}"
