"""Nights of trouble by the dozen, and what they came to.

::

    python tests/benchmarks/nights.py --nights 25 --faults 8 --seed 0
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "chaos")]

import servers  # noqa: E402
import tiny_models  # noqa: E402
from faulty_proxy import proxy  # noqa: E402
from night import POISON, Night, Place, Tally, cluster_of_nodes  # noqa: E402


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nights", type=int, default=25)
    parser.add_argument("--faults", type=int, default=8, help="in each night")
    parser.add_argument("--seed", type=int, default=0, help="of the first night")
    arguments = parser.parse_args()
    total = Tally()
    kinds = sorted(POISON)
    with tempfile.TemporaryDirectory() as folder, servers.environment():
        root = Path(folder)
        model = tiny_models.save("sd", root / "model")
        (root / "sampled").touch()
        with (
            servers.seaweed(root / "seaweed") as seaweed,
            proxy(seaweed.endpoint) as faulty,
            cluster_of_nodes(root / "sampled") as cluster,
        ):
            place = Place(root, seaweed.folder(), faulty, cluster, model, root / "sampled")
            for seed in range(arguments.seed, arguments.seed + arguments.nights):
                began = time.monotonic()
                poison = (kinds[seed % len(kinds)],) if seed % 2 else ()
                night = Night(place, seed, arguments.faults, poison).pass_by()
                total += night
                print(f"night {seed}, {time.monotonic() - began:.0f} s: {night}", flush=True)
    print(f"\nall {arguments.nights} nights: {total}")


if __name__ == "__main__":
    main()
