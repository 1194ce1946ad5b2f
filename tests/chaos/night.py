"""One night: a small run on a cluster of several nodes, with random faults, and its checks.

A seed decides which faults happen and when. Afterwards every planned image must exist exactly once,
with the bytes that it has in a run without faults.
"""

import hashlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Self

import psutil
import yaml
from environment import ACTORS_PER_NODE, NOTICE_S, NUM_ACTORS, Environment, actors_on, notify
from fault_tally import Tally
from support.fakes.faulty_proxy import LIST, Trouble

from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.verify import orphan_images, verify
from nightpress.pipelines.shards.image_source import PENDING_BATCHES, PENDING_S
from nightpress.pipelines.storage import Store

NUM_HEALTHY = 48
"""Rows of a night that are not poisonous."""

BATCH_SIZE = 2
SHARD_SIZE = 8
SHORTEST_BATCH_S = 0.5
"""How long sampling a batch takes at least."""

PENDING = 1 + max(PENDING_BATCHES, int(PENDING_S / SHORTEST_BATCH_S))
"""Batches that may wait for their upload."""

WINDOW = (1 + PENDING) * BATCH_SIZE
"""How many images an actor may have begun to sample and not stored: those of the current batch and
of the batches that wait for their upload."""

GIVE_UP_S = 600.0
"""How long a night may take, and any command in it that may make all images."""

MADE = "made"

POISON = {
    "SEGFAULT": "WorkerKilled",
    "KILLED": "WorkerKilled",
    "HANG": "Timeout",
    "RAISE": "SamplingError",
    "DECODE": "SamplingError",
    "MEMORY": "OutOfMemory",
    "CRAMPED": MADE,
    "NAN": "NonFinite",
    "BLANK": "Blank",
}
"""A word in a prompt -> the error type its row must fail with. A CRAMPED row only fits alone."""

SMALL = ("MEMORY", "CRAMPED")
"""Kinds whose images are smaller than those of healthy rows, whose batch size must not shrink."""

MAX_TROUBLES = 9
"""The most failures in a row for one request method: more than any client retries by itself."""


class Night:
    """A run with random faults. Leaving its context kills every command that it started."""

    def __init__(
        self,
        environment: Environment,
        seed: int,
        num_faults: int,
        poison: tuple[str, ...],
        num_healthy: int = NUM_HEALTHY,
    ) -> None:
        self.environment, self.seed, self.poison = environment, seed, poison
        self.num_healthy = num_healthy
        self.random = Random(seed)
        self.num_faults = num_faults
        self.tally = Tally()
        self.spec = self.spec_for(f"night-{seed}", environment.storage)
        self.driver: subprocess.Popen[str] | None = None
        self.commands: list[subprocess.Popen[str]] = []
        """All commands that were started."""
        self.is_stopping = False
        """Whether the driver was asked to stop."""
        self.may_resample = 0
        """How many images may be sampled again because of faults, besides those in the log."""
        self.said: list[str] = []
        self.grows = False
        """Whether the manifest has grown, so that every start extends the run."""
        self.damaged = False
        """Whether a stored image or the plan was damaged.

        `verify --repair` then repairs what no start has come across: images that were already
        committed, and parts of the plan whose images were all made.
        """

    def run_to_end(self) -> Tally:
        """Run the job to its end, with faults, and check that nothing is missing or wrong."""
        self.start()
        end = time.monotonic() + GIVE_UP_S
        while True:
            assert time.monotonic() < end, self.report()
            code = self.await_end(self.random.uniform(0.5, 4.0))
            if code in (0, 3):
                break
            if code is not None:
                assert code in (4, 5, -signal.SIGKILL), f"exit code {code}; {self.report()}"
                self.start()
            elif self.tally.faults.total() < self.num_faults:
                self.inject(self.random.choice(sorted(FAULTS | self._store_faults)))
        failing = any(POISON[kind] != MADE for kind in self.poison)
        assert code == (3 if failing else 0), self.report()
        if self.damaged:
            self._repair()
        self.check()
        return self.tally

    def spec_for(self, name: str, storage: dict[str, Any]) -> RunSpec:
        return RunSpec.from_dict(
            {
                "name": name,
                "manifest": str(self._manifest()),
                "output": f"{self.environment.bucket.url}/runs",
                "model": str(self.environment.model),
                "sampling": {"num_inference_steps": 30, "guidance_scale": 3.0},
                "batch": {"size": BATCH_SIZE, "shard_size": SHARD_SIZE},
                "cluster": {
                    "address": self.environment.cluster.address,
                    "ship_package": False,
                    "watchdog_s": 20.0,
                    "drain_s": 30.0,
                },
                "storage": storage,
            }
        )

    def _manifest(self, edition: str = "") -> Path:
        """Write a manifest of healthy rows, with the poisonous ones among them."""
        rows = [(f"picture-{number}", f"picture {number}") for number in range(self.num_healthy)]
        for kind in self.poison:
            rows.insert(self.random.randrange(len(rows)), (kind, f"this row says {kind}"))
        path = self.environment.folder / f"prompts-{self.seed}{edition}.csv"
        sides = {name: 32 if name in SMALL else 64 for name, _ in rows}
        lines = [f"{n},{seed_of(prompt)},{prompt},{sides[n]},{sides[n]}" for n, prompt in rows]
        path.write_text("\n".join(["id,seed,prompt,width,height", *lines]) + "\n")
        return path

    def command(self, verb: str, *arguments: str) -> "subprocess.Popen[str]":
        job = self.environment.folder / f"{self.spec.name}.yaml"
        job.write_text(yaml.safe_dump(self.spec.as_dict()))
        program = Path(sys.executable).parent / "nightpress"
        self.tally.starts += 1
        process = subprocess.Popen(
            [program, verb, job, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.commands.append(process)
        return process

    def start(self, *arguments: str) -> None:
        if not self.tally.starts:
            self.environment.log.write_text("")
        extend = ["--extend"] if self.grows else []
        self.driver, self.is_stopping = self.command("run", *arguments, *extend), False

    def grow(self, num_more: int, edition: str = "") -> None:
        """Append healthy rows to the manifest; for nights without poison.

        Args:
            edition: the end of the name of a new file; empty to write the old one again, after
                which a damaged part of the first plan cannot be written again.
        """
        assert not self.poison
        self.num_healthy += num_more
        self.grows = True
        path = self._manifest(edition)
        self.spec = self.spec.model_copy(update={"manifest": str(path)})

    def num_sampled(self, numbers: Iterable[int]) -> int:
        """How often the pictures with these numbers were sampled, by the log."""
        log = [line.split() for line in self.environment.log.read_text().splitlines()]
        seeds = {str(seed_of(f"picture {number}")) for number in numbers}
        return sum(words[0] == "sampled" and words[1] in seeds for words in log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Kill what still runs, so that a failed night does not disturb the next one."""
        for process in self.commands:
            process.kill()
            process.communicate()
        while any(map(actors_on, self.environment.cluster.worker_nodes)):
            time.sleep(0.1)

    def _repair(self) -> None:
        """Find and repair what was damaged after it was committed."""
        self.driver = self.command(
            "verify", "--repair", "--address", self.environment.cluster.address
        )
        assert self.await_end(GIVE_UP_S) == 0, self.report()

    def await_end(self, seconds: float) -> int | None:
        """Wait for the driver; returns its exit code, or None if it is still running."""
        assert self.driver is not None
        try:
            said, _ = self.driver.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        self.said.append(said)
        assert "Traceback" not in said, self.report()
        return self.driver.returncode

    def inject(self, kind: str) -> None:
        """Inject a fault, and note how many images may be sampled again because of it."""
        cost = {**FAULTS, **self._store_faults}[kind](self)
        if cost is not None:
            self.tally.faults[kind] += 1
            self.may_resample += cost

    @property
    def _store_faults(self) -> dict[str, "Fault"]:
        return DISK_FAULTS if self.environment.proxy is None else SERVER_FAULTS

    @property
    def _store_is_in_trouble(self) -> bool:
        proxy = self.environment.proxy
        return proxy is not None and (proxy.silent or proxy.is_in_trouble)

    @property
    def _all_in_flight(self) -> int:
        """How many images may be in flight in all actors."""
        return WINDOW * sum(map(len, map(actors_on, self.environment.cluster.worker_nodes)))

    @property
    def _lost_by_stopping(self) -> int:
        """How many images a silent store may cost a driver that is stopping, with limited time."""
        return self._all_in_flight if self.is_stopping else 0

    # The faults. Each returns how many images may be sampled again, or None if it did not happen.

    def actor_killed(self) -> int | None:
        """Kill an actor's process."""
        nodes = sorted(self.environment.cluster.worker_nodes, key=lambda node: node.node_id)
        actors = [actor for node in nodes for actor in actors_on(node)]
        if not actors:
            return None
        with suppress(psutil.NoSuchProcess):
            self.random.choice(actors).kill()
        return WINDOW

    def node_killed(self) -> int:
        """Remove a node and add another."""
        nodes = sorted(self.environment.cluster.worker_nodes, key=lambda node: node.node_id)
        return self._removed(self.random.choice(nodes))

    def node_drained(self) -> int:
        """Give a spot machine notice, and remove it when the notice is over."""
        nodes = sorted(self.environment.cluster.worker_nodes, key=lambda node: node.node_id)
        node = self.random.choice(nodes)
        notify(self.environment.cluster, node)
        time.sleep(NOTICE_S)
        return self._removed(node)

    def _removed(self, node: Any) -> int:
        num_actors = len(actors_on(node))
        self.environment.cluster.remove_node(node, allow_graceful=False)
        self.environment.cluster.add_node(num_cpus=ACTORS_PER_NODE)
        return WINDOW * num_actors

    def driver_killed(self) -> int:
        """Kill the driver."""
        assert self.driver is not None
        cost = self._all_in_flight
        self.driver.kill()
        return cost

    def driver_stopped(self) -> int:
        """Ask the driver to stop.

        It stores the current batches, so that this costs nothing, unless it was asked before or the
        store is in trouble.
        """
        assert self.driver is not None
        cost = self._all_in_flight if self.is_stopping or self._store_is_in_trouble else 0
        self.driver.terminate()
        self.is_stopping = True
        return cost

    def store_falters(self) -> int:
        """Make the store throttle requests, break connections or answer slowly."""
        assert self.environment.proxy is not None
        kinds = [kind for kind in Trouble if kind is not Trouble.STALL]
        for method in ("PUT", "GET", "HEAD", LIST):
            number = self.random.randrange(1, MAX_TROUBLES)
            self.environment.proxy.order(method, [self.random.choice(kinds) for _ in range(number)])
        return self._lost_by_stopping

    def store_silent(self) -> int:
        """Make the store answer nothing for a while; shards may be copied to idle actors."""
        assert self.environment.proxy is not None
        self.environment.proxy.fall_silent(self.random.uniform(2.0, 40.0))
        return self._lost_by_stopping + (NUM_ACTORS - 1) * SHARD_SIZE

    def disk_full(self) -> int:
        """Fill the disk for a while; the log says how many writes failed.

        Writes that still wait when their shard is given up may succeed later, and be repeated.
        """
        cost = self._all_in_flight
        self.environment.full.touch()
        time.sleep(self.random.uniform(1.0, 10.0))
        self.environment.full.unlink()
        return cost

    def image_damaged(self) -> int | None:
        """Flip a bit of a stored image, or truncate it."""
        store = Store(self.spec.url, self.environment.bucket.options)
        images = sorted(store.list("images"))
        if not images:
            return None
        image = self.random.choice(images)
        data = store.read(image)
        place = self.random.randrange(len(data)) if data else 0
        flipped = data[:place] + bytes(byte ^ 1 for byte in data[place : place + 1])
        store.put(image, self.random.choice((flipped + data[place + 1 :], data[:place])))
        self.damaged = True
        return 1

    def second_driver(self) -> int:
        """Start the same job again beside the driver."""
        troubled = self._store_is_in_trouble
        other = self.command("run")
        said, _ = other.communicate(timeout=GIVE_UP_S)
        assert "Traceback" not in said, said
        assert other.returncode in ((0, 3, 4, 5) if troubled else (0, 3, 5)), said
        if other.returncode == 5:
            assert "--take-over" in said, said
        return 0

    def taken_over(self) -> int:
        """Take the run over from the driver.

        A driver that has no lease yet may get it before the other does: then that one ends, and
        this one makes all images.
        """
        first = self.driver
        assert first is not None
        self.start("--take-over")
        said, _ = first.communicate(timeout=GIVE_UP_S)
        self.said.append(said)
        assert "Traceback" not in said, self.report()
        assert first.returncode in (0, 3, 4, 5), self.report()
        return NUM_ACTORS * WINDOW

    def plan_cut(self) -> int | None:
        """Truncate a part of the plan."""
        store = Store(self.spec.url, self.environment.bucket.options)
        parts = sorted(store.list("plan"))
        if not parts:
            return None
        part = self.random.choice(parts)
        store.put(part, store.read(part)[: self.random.randrange(200)])
        self.damaged = True
        return 0

    # The checks.

    def check(self) -> None:
        """Count lost, doubled and different images; check failed rows and repeated samples."""
        run = open_run(self.spec.url, self.environment.bucket.options)
        rows = run.metadata.to_table().to_pylist()
        ids = Counter(row["image_id"] for row in rows)
        planned = self.num_healthy + len(self.poison)
        healthy = [row for row in rows if "picture" in row["prompt"]]
        self.tally.images = planned
        self.tally.doubled = sum(count - 1 for count in ids.values()) + len(orphan_images(run))
        self.tally.lost = planned - len(ids) + sum(row["status"] != "ok" for row in healthy)
        undisturbed = self.undisturbed()
        for row in healthy:
            if row["status"] == "ok":
                data = run.store.read(row["file"])
                same = hashlib.sha256(data).hexdigest() == row["sha256"]
                self.tally.different += not same or undisturbed[row["image_id"]] != data
        self._check_failures(rows)
        self._check_resampled()
        findings = [str(finding) for shard in verify(run) for finding in shard.findings]
        assert findings == [], f"{findings}; {self.report()}"

    def undisturbed(self) -> dict[str, bytes]:
        """Image id -> bytes of every healthy image in a run of this job without faults."""
        return undisturbed_in(self.environment, self.num_healthy)

    def _check_failures(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            kind = next((kind for kind in self.poison if kind in row["prompt"]), None)
            if kind is not None:
                assert (row["error_type"] or MADE) == POISON[kind], row
            if kind == "CRAMPED":
                assert row["batch_size"] == 1, row

    def _check_resampled(self) -> None:
        """Check that no fault cost more samples than were in flight when it happened."""
        log = [line.split() for line in self.environment.log.read_text().splitlines()]
        healthy = {str(seed_of(f"picture {number}")) for number in range(self.num_healthy)}
        begun = [words[1] for words in log if words[0] == "sampled" and words[1] in healthy]
        assert len(set(begun)) == self.num_healthy, f"{len(set(begun))} begun; {self.report()}"
        self.tally.resampled = len(begun) - self.num_healthy
        most = self.may_resample + sum(cost_of(*words) for words in log)
        assert self.tally.resampled <= most, f"{self.tally.resampled} > {most}; {self.report()}"

    def report(self) -> str:
        faults = ", ".join(f"{count} {kind}" for kind, count in self.tally.faults.items())
        return f"seed {self.seed} after {faults}:\n" + "\n----\n".join(self.said)


Fault = Callable[[Night], int | None]

FAULTS: dict[str, Fault] = {
    name: getattr(Night, name)
    for name in (
        *("actor_killed", "node_killed", "node_drained", "driver_killed", "driver_stopped"),
        *("second_driver", "taken_over", "plan_cut", "image_damaged"),
    )
}
SERVER_FAULTS: dict[str, Fault] = {
    "store_falters": Night.store_falters,
    "store_silent": Night.store_silent,
}
DISK_FAULTS: dict[str, Fault] = {"disk_full": Night.disk_full}


def undisturbed_in(environment: Environment, num_healthy: int) -> dict[str, bytes]:
    """Image id -> bytes of every healthy image in a run without faults, which is made once."""
    if len(environment.undisturbed) < num_healthy:
        log = environment.log.read_text()
        with Night(environment, -num_healthy, 0, (), num_healthy) as quiet:
            quiet.spec = quiet.spec_for(f"undisturbed-{num_healthy}", environment.bucket.options)
            quiet.start()
            assert quiet.await_end(GIVE_UP_S) == 0, quiet.report()
        environment.log.write_text(log)
        run = open_run(quiet.spec.url, environment.bucket.options)
        rows = run.metadata.to_table(columns=["image_id", "file"]).to_pylist()
        environment.undisturbed.update(
            {row["image_id"]: run.store.read(row["file"]) for row in rows}
        )
    return environment.undisturbed


def cost_of(what: str, number: str = "0") -> int:
    """How many healthy images may be sampled again because of a line of the log."""
    match what:
        case "ended":
            return WINDOW
        case "again":
            return int(number)
        case "unstored":
            return 1
        case _:
            return 0


def seed_of(text: str) -> int:
    """A row's own seed, which identifies it in the log."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])
