"""How fast the rows of a large campaign are made, in how much memory, and how fast it is counted.

    python tests/benchmarks/bench_campaign.py --rows 10000000

The campaign draws its rows from 10^12 combinations under two rules, with a list of 500 styles. The
rows are made once from the first to the last and thrown away; counting is the whole command.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nightpress.pipelines.manifest.campaigns import campaign_rows, load_campaign, read_campaign
from nightpress.pipelines.manifest.files import load_table

AXES, VALUES, STYLES = 6, 100, 500


def write_campaign(folder: Path, num_rows: int) -> str:
    """Write the campaign and its list; returns its path."""
    (folder / "lists").mkdir()
    styles = "\n".join(f"style {number}" for number in range(STYLES))
    (folder / "lists" / "style.txt").write_text(styles)
    names = " ".join(f"${{a{axis}}}" for axis in range(AXES))
    axes = "\n".join(
        f"  a{axis}: [{', '.join(f'v{axis}x{value}' for value in range(VALUES))}]"
        for axis in range(AXES)
    )
    path = folder / "large.campaign.yaml"
    path.write_text(
        f'prompt: "__style__ of {names}, {{soft|2::golden}} light"\n'
        f"lists: lists\naxes:\n{axes}\ndraw: {{rows: {num_rows}}}\nduplicates: keep\n"
        "rules:\n- forbid: {a1: v1x3, a4: [v4x1, v4x2]}\n- forbid: {a0: v0x1, a5: v5x5}\n"
    )
    return str(path)


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    num_rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        path = write_campaign(Path(folder), num_rows)
        started = time.perf_counter()
        command = [sys.executable, "-m", "nightpress", "expand", path, "--count"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"expand --count: {time.perf_counter() - started:.2f} s")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        loaded = load_campaign(path, {}, load_table)
        rows = campaign_rows(path, loaded.sha256, {}, load_table)
        started = time.perf_counter()
        made = sum(table.num_rows for table in read_campaign(rows, 0, rows.num_rows))
        took = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{made:,} rows of {loaded.campaign.combinations.size:,} in {took:.1f} s")
        print(f"{made / took:,.0f} rows/s; at most {after:,.0f} MB, {before:,.0f} MB before")


if __name__ == "__main__":
    main()
