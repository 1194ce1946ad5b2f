"""One night: a small run on a cluster of several nodes, everything that can befall it, and proof.

A seed decides what happens and when. Afterwards every planned image must exist once, with the
bytes that an undisturbed run gives it.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import psutil
import servers
import tiny_models
import yaml
from faulty_proxy import FaultyProxy, Trouble, proxy
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from servers import Folder

from pipelines import open_run
from pipelines.spec import RunSpec
from pipelines.storage import Store
from pipelines.verify import stray_images, verify

NUM_HEALTHY = 48
BATCH_SIZE = 2
SHARD_SIZE = 8
NUM_NODES = 2
ACTORS_PER_NODE = 1
WINDOW = 4 * BATCH_SIZE
"""Images that an actor may have sampled and not stored: the batch in hand, three behind it."""

NOTICE_S = 5.0
"""Between a spot machine's notice and its end."""

PREEMPTION = 2
"""Ray's number for that reason."""

GIVE_UP_S = 600.0

POISON = {
    "SEGFAULT": "WorkerKilled",
    "KILLED": "WorkerKilled",
    "HANG": "Timeout",
    "RAISE": "SamplingError",
    "NAN": "NonFinite",
}
"""What a prompt says -> the reason that its row must fail with."""


@dataclass
class Tally:
    """What a night, or many of them, came to."""

    faults: Counter[str] = field(default_factory=Counter)
    images: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    resampled: int = 0
    starts: int = 0

    def __iadd__(self, other: "Tally") -> "Tally":
        self.faults += other.faults
        for name in ("images", "lost", "doubled", "different", "resampled", "starts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.faults.total()} faults ({kinds}) in {self.starts} starts: {self.images} images,"
            f" {self.lost} lost, {self.doubled} doubled, {self.different} different, "
            f"{self.resampled} sampled again"
        )


@dataclass
class Place:
    """Where a night happens."""

    folder: Path
    """Of this machine, for job files and logs."""
    bucket: Folder
    """The store itself."""
    proxy: FaultyProxy | None
    """In front of it; a local folder has none."""
    cluster: Cluster
    model: Path
    log: Path
    """Seeds of what is sampled."""

    @property
    def full(self) -> Path:
        """While this file is there, the disk takes no more."""
        return self.log.with_suffix(".full")

    @property
    def storage(self) -> dict[str, Any]:
        """As in a job file, with the proxy before the store."""
        return self.bucket.options if self.proxy is None else self.proxy.options

    @cached_property
    def undisturbed(self) -> dict[str, bytes]:
        """The bytes of every healthy image when nothing happens, by image id."""
        log = self.log.read_text()
        quiet = Night(self, seed=-1, num_faults=0, poison=())
        quiet.spec = quiet.spec_for("undisturbed", self.bucket.options)
        quiet.start()
        assert quiet.await_end(GIVE_UP_S) == 0, quiet.story()
        self.log.write_text(log)
        run = open_run(quiet.spec.url, self.bucket.options)
        rows = run.metadata.to_table(columns=["image_id", "file"]).to_pylist()
        return {row["image_id"]: run.store.read(row["file"]) for row in rows}


STORES = {"seaweed": servers.seaweed, "rclone": servers.rclone}


@contextmanager
def place_at(folder: Path, server: servers.Server | None) -> Iterator[Place]:
    """A place with a model, a log and a cluster.

    Args:
        folder: of this machine; without a server, the runs lie there too.
        server: the store; trouble stands before it.
    """
    model = tiny_models.save("sd", folder / "model")
    log = folder / "sampled"
    log.touch()
    with ExitStack() as stack:
        faulty = None if server is None else stack.enter_context(proxy(server.endpoint))
        bucket = Folder(f"{folder}/out", {}) if server is None else server.folder()
        cluster = stack.enter_context(cluster_of_nodes(log))
        yield Place(folder, bucket, faulty, cluster, model, log)


@contextmanager
def cluster_of_nodes(log: Path) -> Iterator[Cluster]:
    """A head that runs no actors, and nodes that do, with trouble in their workers."""
    tests = Path(__file__).parents[1]
    path = [str(tests / "chaos/trouble"), str(tests), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "NIGHTPRESS_CHAOS_LOG": str(log),
        # Dead nodes are seen in seconds, as in a cluster that is set up for spot machines.
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    kept = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(NUM_NODES):
            cluster.add_node(num_cpus=ACTORS_PER_NODE)
        yield cluster
        cluster.shutdown()
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Night:
    """A run, what befalls it, and what it must come to."""

    def __init__(self, place: Place, seed: int, num_faults: int, poison: tuple[str, ...]) -> None:
        self.place, self.seed, self.poison = place, seed, poison
        self.random = Random(seed)
        self.num_faults = num_faults
        self.tally = Tally()
        self.spec = self.spec_for(f"night-{seed}", place.storage)
        self.driver: subprocess.Popen[str] | None = None
        self.said: list[str] = []
        self.damaged = False
        """Whether a stored image was; `verify --repair` is for those that are committed by then."""

    def pass_by(self) -> Tally:
        """Run it to its end, whatever happens, and prove that nothing is missing or wrong."""
        self.place.log.write_text("")
        self.start()
        end = time.monotonic() + GIVE_UP_S
        while True:
            assert time.monotonic() < end, self.story()
            code = self.await_end(self.random.uniform(0.5, 4.0))
            if code in (0, 3):
                break
            if code is not None:
                assert code in (4, 5, -signal.SIGKILL), self.story()
                self.start()
            elif self.tally.faults.total() < self.num_faults:
                self._befall()
        assert code == (3 if self.poison else 0), self.story()
        if self.damaged:
            self._repair()
        self.prove()
        return self.tally

    def spec_for(self, name: str, storage: dict[str, Any]) -> RunSpec:
        return RunSpec.from_dict(
            {
                "name": name,
                "manifest": str(self._manifest()),
                "output": f"{self.place.bucket.url}/runs",
                "model": str(self.place.model),
                "sampling": {"num_inference_steps": 30, "guidance_scale": 3.0},
                "batch": {"size": BATCH_SIZE, "shard_size": SHARD_SIZE},
                "cluster": {
                    "address": self.place.cluster.address,
                    "ship_package": False,
                    "watchdog_s": 20.0,
                    "drain_s": 30.0,
                },
                "storage": storage,
            }
        )

    def _manifest(self) -> Path:
        """Healthy rows, and among them those that are poison."""
        rows = [(f"picture-{number}", f"picture {number}") for number in range(NUM_HEALTHY)]
        for kind in self.poison:
            rows.insert(self.random.randrange(len(rows)), (kind, f"this row says {kind}"))
        path = self.place.folder / f"prompts-{self.seed}.csv"
        lines = [f"{name},{seed_of(prompt)},{prompt},64,64" for name, prompt in rows]
        path.write_text("\n".join(["id,seed,prompt,width,height", *lines]) + "\n")
        return path

    def command(self, verb: str, *arguments: str) -> "subprocess.Popen[str]":
        job = self.place.folder / f"{self.spec.name}.yaml"
        job.write_text(yaml.safe_dump(self.spec.as_dict()))
        program = Path(sys.executable).parent / "nightpress"
        self.tally.starts += 1
        return subprocess.Popen(
            [program, verb, job, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def start(self, *arguments: str) -> None:
        self.driver = self.command("run", *arguments)

    def _repair(self) -> None:
        """What was damaged after its commit is found and made again."""
        self.driver = self.command("verify", "--repair", "--address", self.place.cluster.address)
        assert self.await_end(GIVE_UP_S) == 0, self.story()

    def await_end(self, seconds: float) -> int | None:
        """The driver's exit code; None if it still runs after so long."""
        assert self.driver is not None
        try:
            said, _ = self.driver.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        self.said.append(said)
        assert "Traceback" not in said, self.story()
        return self.driver.returncode

    def _befall(self) -> None:
        kind = self.random.choice(sorted({**FAULTS, **self._store_faults}))
        if {**FAULTS, **self._store_faults}[kind](self):
            self.tally.faults[kind] += 1

    @property
    def _store_faults(self) -> dict[str, Callable[["Night"], bool]]:
        return DISK_FAULTS if self.place.proxy is None else SERVER_FAULTS

    # What can happen; each says whether it did.

    def actor_killed(self) -> bool:
        """An actor's process is gone between two instructions."""
        actors = [
            process
            for process in psutil.process_iter(["cmdline"])
            if "ray::SamplerActor" in " ".join(process.info["cmdline"] or ())
        ]
        if not actors:
            return False
        self.random.choice(actors).kill()
        return True

    def node_killed(self) -> bool:
        """A machine is gone, and another one comes."""
        nodes = sorted(self.place.cluster.worker_nodes, key=lambda node: node.node_id)
        self.place.cluster.remove_node(self.random.choice(nodes), allow_graceful=False)
        self.place.cluster.add_node(num_cpus=ACTORS_PER_NODE)
        return True

    def node_drained(self) -> bool:
        """A spot machine is told that it will be gone in a moment, and then it is."""
        nodes = sorted(self.place.cluster.worker_nodes, key=lambda node: node.node_id)
        node = self.random.choice(nodes)
        client = GcsClient(address=self.place.cluster.address)
        soon_ms = int((time.time() + NOTICE_S) * 1000)
        accepted, why = client.drain_node(node.node_id, PREEMPTION, "spot", soon_ms)
        assert accepted, why
        time.sleep(NOTICE_S)
        self.place.cluster.remove_node(node, allow_graceful=False)
        self.place.cluster.add_node(num_cpus=ACTORS_PER_NODE)
        return True

    def driver_killed(self) -> bool:
        """The driver is gone."""
        assert self.driver is not None
        self.driver.kill()
        return True

    def driver_stopped(self) -> bool:
        """The driver is asked to stop."""
        assert self.driver is not None
        self.driver.terminate()
        return True

    def store_falters(self) -> bool:
        """The store throttles, breaks connections, or does not answer."""
        assert self.place.proxy is not None
        kinds = [kind for kind in Trouble if kind is not Trouble.STALL]
        for method in ("PUT", "GET", "HEAD"):
            number = self.random.randrange(1, 6)
            self.place.proxy.order(method, [self.random.choice(kinds) for _ in range(number)])
        return True

    def store_silent(self) -> bool:
        """The store takes requests and answers none."""
        assert self.place.proxy is not None
        self.place.proxy.fall_silent(self.random.uniform(2.0, 40.0))
        return True

    def disk_full(self) -> bool:
        """The disk takes no more for a while."""
        self.place.full.touch()
        time.sleep(self.random.uniform(1.0, 10.0))
        self.place.full.unlink()
        return True

    def image_damaged(self) -> bool:
        """A stored image has another bit, or is cut short."""
        store = Store(self.spec.url, self.place.bucket.options)
        images = sorted(store.list("images"))
        if not images:
            return False
        image = self.random.choice(images)
        data = store.read(image)
        place = self.random.randrange(len(data))
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        store.put(image, self.random.choice((flipped, data[:place])))
        self.damaged = True
        return True

    def second_driver(self) -> bool:
        """Somebody starts the same job again."""
        other = self.command("run")
        said, _ = other.communicate(timeout=180)
        assert "Traceback" not in said, said
        assert other.returncode in (0, 3, 5), said
        if other.returncode == 5:
            assert "--take-over" in said, said
        return True

    def taken_over(self) -> bool:
        """Somebody else takes the job over."""
        first = self.driver
        assert first is not None
        self.start("--take-over")
        said, _ = first.communicate(timeout=180)
        self.said.append(said)
        assert "Traceback" not in said, self.story()
        assert first.returncode in (0, 3, 4, 5), self.story()
        return True

    def plan_cut(self) -> bool:
        """A part of the plan is cut short."""
        store = Store(self.spec.url, self.place.bucket.options)
        parts = sorted(store.list("plan"))
        if not parts:
            return False
        part = self.random.choice(parts)
        store.put(part, store.read(part)[: self.random.randrange(200)])
        return True

    # What must be true afterwards.

    def prove(self) -> None:
        """Count what is lost, doubled or different, and refuse a wrong failure."""
        run = open_run(self.spec.url, self.place.bucket.options)
        rows = run.metadata.to_table().to_pylist()
        ids = Counter(row["image_id"] for row in rows)
        planned = NUM_HEALTHY + len(self.poison)
        healthy = [row for row in rows if "picture" in row["prompt"]]
        self.tally.images = planned
        self.tally.doubled = sum(count - 1 for count in ids.values()) + len(stray_images(run))
        self.tally.lost = planned - len(ids) + sum(row["status"] != "ok" for row in healthy)
        undisturbed = self.place.undisturbed
        for row in healthy:
            if row["status"] == "ok":
                data = run.store.read(row["file"])
                same = hashlib.sha256(data).hexdigest() == row["sha256"]
                self.tally.different += not same or undisturbed[row["image_id"]] != data
        self._prove_failures(rows)
        self._prove_window()
        assert [f for shard in verify(run) for f in shard.findings] == [], self.story()

    def _prove_failures(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            kind = next((kind for kind in self.poison if kind in row["prompt"]), None)
            if kind is not None:
                assert (row["status"], row["error_type"]) == ("failed", POISON[kind]), row

    def _prove_window(self) -> None:
        """No fault costs more samples than what was in flight when it came."""
        sampled = self.place.log.read_text().split()
        self.tally.resampled = len(sampled) - len(set(sampled))
        actors = NUM_NODES * ACTORS_PER_NODE
        crashes = sum(2 + 3 for kind in self.poison if POISON[kind] in ("WorkerKilled", "Timeout"))
        faults = self.tally.faults.total() + crashes
        assert self.tally.resampled <= faults * actors * WINDOW, self.story()

    def story(self) -> str:
        faults = ", ".join(f"{count} {kind}" for kind, count in self.tally.faults.items())
        return f"seed {self.seed} after {faults}:\n" + "\n----\n".join(self.said)


FAULTS: dict[str, Callable[[Night], bool]] = {
    name: getattr(Night, name)
    for name in (
        *("actor_killed", "node_killed", "node_drained", "driver_killed", "driver_stopped"),
        *("second_driver", "taken_over", "plan_cut", "image_damaged"),
    )
}
SERVER_FAULTS = {name: getattr(Night, name) for name in ("store_falters", "store_silent")}
DISK_FAULTS = {"disk_full": Night.disk_full}


def seed_of(text: str) -> int:
    """A row's own seed, by which the log of samples knows it."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])
