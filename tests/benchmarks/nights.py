"""Run many nights of faults and print their totals.

::

    python tests/benchmarks/nights.py --nights 25 --faults 8 --seed 0
    python tests/benchmarks/nights.py --nights 5 --store folder

Exit code 1 if an image was lost, doubled or different, if too much was sampled again, or if
any other check failed; the remaining nights run all the same.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import TimeoutExpired

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "chaos")]

from environment import STORES, Environment, environment_in  # noqa: E402
from fault_tally import Tally  # noqa: E402
from night import POISON, Night  # noqa: E402
from support import servers  # noqa: E402


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nights", type=int, default=25)
    parser.add_argument("--faults", type=int, default=8, help="faults in each night")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first night")
    parser.add_argument("--store", choices=(*STORES, "folder"), default="seaweed")
    arguments = parser.parse_args()
    total, wrong = Tally(), []
    kinds = sorted(POISON)
    with place(arguments.store) as here:
        for seed in range(arguments.seed, arguments.seed + arguments.nights):
            began = time.monotonic()
            poison = (kinds[seed // 2 % len(kinds)],) if seed % 2 else ()
            night = Night(here, seed, arguments.faults, poison)
            try:
                with night:
                    night.run_to_end()
            except (AssertionError, TimeoutExpired) as error:
                wrong.append(seed)
                print(f"night {seed} went wrong: {error}", flush=True)
            total += night.tally
            print(f"night {seed}, {time.monotonic() - began:.0f} s: {night.tally}", flush=True)
    sys.exit(conclude(f"all {arguments.nights} nights on {arguments.store}", total, wrong))


def conclude(what: str, total: Tally, wrong: Sequence[int] = ()) -> int:
    """Print the totals; returns exit code 1 if an image or a night went wrong, else 0."""
    print(f"\n{what}: {total}")
    errors = [] if total.is_whole else ["images were lost, doubled or different"]
    errors += [f"night {seed} went wrong; see above" for seed in wrong]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


@contextmanager
def place(store: str) -> Iterator[Environment]:
    """An environment with its own store and cluster."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(servers.environment())
        server = stack.enter_context(STORES[store](root / "store")) if store in STORES else None
        yield stack.enter_context(environment_in(root, server))


if __name__ == "__main__":
    main()
