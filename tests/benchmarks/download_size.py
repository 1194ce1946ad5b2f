"""What a first run downloads: every package that pip would install, by size.

::

    python tests/benchmarks/download_size.py
    python tests/benchmarks/download_size.py --extras test

The built-in model is inside the package, so nothing else is downloaded.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 12


def main() -> None:
    """Print the largest packages and the total."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--extras", default="", help="extras to include, for example lora,train")
    arguments = parser.parse_args()
    sizes = {name: size_of(url) for name, url in packages_to_install(arguments.extras).items()}
    own = wheel_size()
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:SHOWN]:
        print(f"{size / 1e6:8.1f} MB  {name}")
    total = sum(sizes.values()) + own
    print(f"{own / 1e6:8.1f} MB  nightpress, its model included")
    print(f"{total / 1e6:8.1f} MB  in total, {len(sizes) + 1} packages")


def packages_to_install(extras: str) -> dict[str, str]:
    """Name and version -> URL of each package that pip would install from nothing."""
    what = f"{ROOT}[{extras}]" if extras else str(ROOT)
    report = pip("install", "--dry-run", "--ignore-installed", "--report", "-", what)
    packages: list[dict[str, Any]] = json.loads(report)["install"]
    return {
        f"{each['metadata']['name']} {each['metadata']['version']}": each["download_info"]["url"]
        for each in packages
        if each["metadata"]["name"] != "nightpress"
    }


def size_of(url: str) -> int:
    """Size of the file at a URL, in bytes."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        return Path(urllib.parse.unquote(parts.path)).stat().st_size
    request = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(request) as answer:
        return int(answer.headers["Content-Length"])


def wheel_size() -> int:
    """Size of this project's own wheel, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        pip("wheel", "--no-deps", "--wheel-dir", folder, str(ROOT))
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.stat().st_size


def pip(*arguments: str) -> str:
    """Run pip and return its output; exit with its errors if it fails."""
    constraints = ("-c", str(ROOT / "infra" / "constraints.txt"))
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", *constraints, *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
