"""A night on a cluster of two nodes and a store, from `nightpress submit` to `nightpress verify`.

Starts SeaweedFS, a Ray head and another node, all with a token, and then, with the README's job in
a run named by `{night}`:

1. asks `nightpress doctor`, three times;
2. submits the job, and times the first stored image;
3. starts the same night a second time meanwhile, which must find it in other hands (exit code 5);
4. sends SIGTERM to a node, which drains;
5. sends SIGTERM to `nightpress submit`, which must end with exit code 4;
6. submits it again, which must finish it (0), and once more, which must find nothing to do (0);
7. verifies the run, and counts images that were made twice.

    python tests/benchmarks/bench_night.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support import servers  # noqa: E402
from support.ray_head import RayHead, ray_head, ray_worker  # noqa: E402

PROGRAM = Path(sys.executable).parent / "nightpress"
JOB = "job.yaml"


@dataclass(frozen=True)
class Press:
    """The cluster, the store, and the commands against them."""

    head: RayHead
    store: servers.Server
    folder: Path
    """Holds the job file."""

    def write_job(self) -> None:
        """Write the README's job, for this store and in small shards."""
        shutil.copy(ROOT / "jobs/examples/prompts.txt", self.folder)
        job = {
            "name": "first-{night}",
            "manifest": "prompts.txt",
            "output": f"s3://{servers.BUCKET}/runs",
            "batch": {"size": 2, "shard_size": 4},
            "storage": self.store.options,
        }
        (self.folder / JOB).write_text(yaml.safe_dump(job))

    def command(self, name: str, *options: str) -> list[str]:
        """A command about the job, as arguments."""
        return [str(PROGRAM), name, JOB, *options]

    def start(self, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Start a command."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            arguments, cwd=self.folder, env=self.head.environment, stdout=quiet, stderr=quiet
        )

    def call(self, arguments: Sequence[str], code: int = 0) -> float:
        """Run a command to its end.

        Returns:
            Seconds.

        Raises:
            SystemExit: it ended with another exit code.
        """
        start = time.perf_counter()
        done = subprocess.run(
            arguments, cwd=self.folder, env=self.head.environment, capture_output=True, text=True
        )
        if done.returncode != code:
            raise SystemExit(f"{arguments[1]} ended with {done.returncode}, and not {code}: {done}")
        return time.perf_counter() - start

    def num_images(self) -> int:
        """Images that are stored."""
        found = self.store.driver().glob(f"{servers.BUCKET}/runs/*/images/*.png")
        return len(found)

    def wait_for_images(self, number: int, process: "subprocess.Popen[bytes]") -> None:
        """Wait until so many images are stored."""
        while self.num_images() < number:
            if process.poll() is not None:
                raise SystemExit(f"submit ended with {process.returncode} and too few images")
            time.sleep(0.1)

    def made(self) -> tuple[int, int]:
        """Starts of the run, and images that they made together, by its log."""
        driver = self.store.driver()
        logs = driver.glob(f"{servers.BUCKET}/runs/*/log/*.jsonl")
        lines = [json.loads(line) for each in logs for line in driver.cat(each).splitlines()]
        ends = [line for line in lines if line["event"] == "ended"]
        return len(ends), sum(line["num_made"] for line in ends)


def main() -> None:
    """Play the night and print what was measured."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        stack.enter_context(servers.environment())
        store = stack.enter_context(servers.seaweed(Path(scratch) / "store"))
        os.environ |= servers.CREDENTIALS
        head = stack.enter_context(ray_head(num_cpus=1))
        node = stack.enter_context(ray_worker(head))
        press = Press(head, store, Path(scratch))
        press.write_job()
        play(press, node)


def play(press: Press, node: "subprocess.Popen[bytes]") -> None:
    """One night, step by step."""
    address = ("--address", press.head.address)
    doctor = press.command("doctor", *address)
    print("doctor on two nodes:", ", ".join(f"{press.call(doctor):.1f} s" for _ in range(3)))
    submit = press.command("submit", "--to", press.head.dashboard)

    start = time.perf_counter()
    process = press.start(submit)
    press.wait_for_images(1, process)
    print(f"submit to the first stored image: {time.perf_counter() - start:.1f} s")
    second_s = press.call(press.command("run", *address), code=5)
    print(f"the same night a second time: exit code 5 after {second_s:.1f} s")

    press.wait_for_images(press.num_images() + 8, process)
    print(f"SIGTERM to a node, with {press.num_images()} images stored")
    ended_s = timed(lambda: end(node))
    press.wait_for_images(press.num_images() + 4, process)
    print(f"the node has drained and ended after {ended_s:.1f} s; the run went on without it")

    stopped_s = timed(lambda: end(process))
    if process.returncode != 4:
        raise SystemExit(f"the stopped submit ended with {process.returncode}, and not 4")
    print(f"SIGTERM to submit: exit code 4 after {stopped_s:.1f} s, {press.num_images()} images")
    print(f"the same command again: exit code 0 after {press.call(submit):.1f} s")
    print(f"and once more, nothing to do: exit code 0 after {press.call(submit):.1f} s")
    print(f"verify: exit code 0 after {press.call(press.command('verify')):.1f} s")
    num_starts, num_made = press.made()
    print(f"{press.num_images()} images, {num_made} made in {num_starts} starts")


def end(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGTERM and wait."""
    process.send_signal(signal.SIGTERM)
    process.wait()


def timed(action: Callable[[], None]) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
