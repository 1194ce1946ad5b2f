"""One night: a small run on a cluster of several nodes, everything that can befall it, and proof.

A seed decides what happens and when. Afterwards every planned image must exist once, with the
bytes that an undisturbed run gives it.
"""

import hashlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Self

import psutil
import yaml
from fault_tally import Tally
from place import ACTORS_PER_NODE, NOTICE_S, NUM_ACTORS, Place, actors_on, notify
from support.fakes.faulty_proxy import LIST, Trouble

from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.verify import orphan_images, verify
from nightpress.pipelines.shards.runner import PENDING_BATCHES
from nightpress.pipelines.storage import Store

NUM_HEALTHY = 48
"""Rows of a whole night that are no poison."""

BATCH_SIZE = 2
SHARD_SIZE = 8
WINDOW = (1 + PENDING_BATCHES) * BATCH_SIZE
"""Images that an actor may have begun to sample and not stored: the batch in hand, and those that
wait for their upload."""

GIVE_UP_S = 600.0

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
"""What a prompt says -> the reason that its row must fail with; one that is cramped fits alone."""

SMALL = ("MEMORY", "CRAMPED")
"""Kinds of another size than healthy rows, whose batches must stay as large as they are."""

MOST_TROUBLES = 9
"""In a row, for the requests of one method: more than any client tries by itself."""


class Night:
    """A run, what befalls it, and what it must come to; with it end all of its commands."""

    def __init__(
        self,
        place: Place,
        seed: int,
        num_faults: int,
        poison: tuple[str, ...],
        num_healthy: int = NUM_HEALTHY,
    ) -> None:
        self.place, self.seed, self.poison = place, seed, poison
        self.num_healthy = num_healthy
        self.random = Random(seed)
        self.num_faults = num_faults
        self.tally = Tally()
        self.spec = self.spec_for(f"night-{seed}", place.storage)
        self.driver: subprocess.Popen[str] | None = None
        self.commands: list[subprocess.Popen[str]] = []
        """All that were started, whoever waits for them."""
        self.is_stopping = False
        """Whether the driver was asked to stop."""
        self.at_stake = 0
        """Images that may be sampled again for what has happened, but for what the log tells."""
        self.said: list[str] = []
        self.damaged = False
        """Whether a stored image was, or the plan.

        `verify --repair` is for what no start came upon: an image that was committed by then, a
        part of the plan of which nothing was left to make.
        """

    def pass_by(self) -> Tally:
        """Run it to its end, whatever happens, and prove that nothing is missing or wrong."""
        self.start()
        end = time.monotonic() + GIVE_UP_S
        while True:
            assert time.monotonic() < end, self.story()
            code = self.await_end(self.random.uniform(0.5, 4.0))
            if code in (0, 3):
                break
            if code is not None:
                assert code in (4, 5, -signal.SIGKILL), f"exit code {code}; {self.story()}"
                self.start()
            elif self.tally.faults.total() < self.num_faults:
                self.befall(self.random.choice(sorted(FAULTS | self._store_faults)))
        failing = any(POISON[kind] != MADE for kind in self.poison)
        assert code == (3 if failing else 0), self.story()
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
        rows = [(f"picture-{number}", f"picture {number}") for number in range(self.num_healthy)]
        for kind in self.poison:
            rows.insert(self.random.randrange(len(rows)), (kind, f"this row says {kind}"))
        path = self.place.folder / f"prompts-{self.seed}.csv"
        sides = {name: 32 if name in SMALL else 64 for name, _ in rows}
        lines = [f"{n},{seed_of(prompt)},{prompt},{sides[n]},{sides[n]}" for n, prompt in rows]
        path.write_text("\n".join(["id,seed,prompt,width,height", *lines]) + "\n")
        return path

    def command(self, verb: str, *arguments: str) -> "subprocess.Popen[str]":
        job = self.place.folder / f"{self.spec.name}.yaml"
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
            self.place.log.write_text("")
        self.driver, self.is_stopping = self.command("run", *arguments), False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End what still runs, so that a night that went wrong does not disturb the next one."""
        for process in self.commands:
            process.kill()
            process.communicate()
        while any(map(actors_on, self.place.cluster.worker_nodes)):
            time.sleep(0.1)

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

    def befall(self, kind: str) -> None:
        """Have it happen, and note what it may cost."""
        at_stake = {**FAULTS, **self._store_faults}[kind](self)
        if at_stake is not None:
            self.tally.faults[kind] += 1
            self.at_stake += at_stake

    @property
    def _store_faults(self) -> dict[str, "Fault"]:
        return DISK_FAULTS if self.place.proxy is None else SERVER_FAULTS

    @property
    def _store_is_in_trouble(self) -> bool:
        proxy = self.place.proxy
        return proxy is not None and (proxy.silent or proxy.is_in_trouble)

    @property
    def _all_actors(self) -> int:
        """What is in flight in all of them."""
        return WINDOW * sum(map(len, map(actors_on, self.place.cluster.worker_nodes)))

    @property
    def _hasty(self) -> int:
        """What a store that does not answer may cost a driver whose time to stop is limited."""
        return self._all_actors if self.is_stopping else 0

    # What can happen; each says how many images it may cost, None if it did not happen.

    def actor_killed(self) -> int | None:
        """An actor's process is gone between two instructions."""
        nodes = sorted(self.place.cluster.worker_nodes, key=lambda node: node.node_id)
        actors = [actor for node in nodes for actor in actors_on(node)]
        if not actors:
            return None
        with suppress(psutil.NoSuchProcess):
            self.random.choice(actors).kill()
        return WINDOW

    def node_killed(self) -> int:
        """A machine is gone, and another one comes."""
        nodes = sorted(self.place.cluster.worker_nodes, key=lambda node: node.node_id)
        return self._removed(self.random.choice(nodes))

    def node_drained(self) -> int:
        """A spot machine is told that it will be gone in a moment, and then it is."""
        nodes = sorted(self.place.cluster.worker_nodes, key=lambda node: node.node_id)
        node = self.random.choice(nodes)
        notify(self.place.cluster, node)
        time.sleep(NOTICE_S)
        return self._removed(node)

    def _removed(self, node: Any) -> int:
        num_actors = len(actors_on(node))
        self.place.cluster.remove_node(node, allow_graceful=False)
        self.place.cluster.add_node(num_cpus=ACTORS_PER_NODE)
        return WINDOW * num_actors

    def driver_killed(self) -> int:
        """The driver is gone."""
        assert self.driver is not None
        at_stake = self._all_actors
        self.driver.kill()
        return at_stake

    def driver_stopped(self) -> int:
        """The driver is asked to stop; asked again, or before a silent store, it loses what it has.

        Else it stores what is in hand, so that it costs nothing.
        """
        assert self.driver is not None
        at_stake = self._all_actors if self.is_stopping or self._store_is_in_trouble else 0
        self.driver.terminate()
        self.is_stopping = True
        return at_stake

    def store_falters(self) -> int:
        """The store throttles, breaks connections, or answers slowly."""
        assert self.place.proxy is not None
        kinds = [kind for kind in Trouble if kind is not Trouble.STALL]
        for method in ("PUT", "GET", "HEAD", LIST):
            number = self.random.randrange(1, MOST_TROUBLES)
            self.place.proxy.order(method, [self.random.choice(kinds) for _ in range(number)])
        return self._hasty

    def store_silent(self) -> int:
        """The store takes requests and answers none; shards may be copied to idle actors."""
        assert self.place.proxy is not None
        self.place.proxy.fall_silent(self.random.uniform(2.0, 40.0))
        return self._hasty + (NUM_ACTORS - 1) * SHARD_SIZE

    def disk_full(self) -> int:
        """The disk takes no more for a while; the log tells how many writes failed.

        Writes that still wait when their shard is given up may yet end well, and be done again.
        """
        at_stake = self._all_actors
        self.place.full.touch()
        time.sleep(self.random.uniform(1.0, 10.0))
        self.place.full.unlink()
        return at_stake

    def image_damaged(self) -> int | None:
        """A stored image has another bit, or is cut short."""
        store = Store(self.spec.url, self.place.bucket.options)
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
        """Somebody starts the same job again."""
        troubled = self._store_is_in_trouble
        other = self.command("run")
        said, _ = other.communicate(timeout=180)
        assert "Traceback" not in said, said
        assert other.returncode in ((0, 3, 4, 5) if troubled else (0, 3, 5)), said
        if other.returncode == 5:
            assert "--take-over" in said, said
        return 0

    def taken_over(self) -> int:
        """Somebody else takes the job over."""
        first = self.driver
        assert first is not None
        self.start("--take-over")
        said, _ = first.communicate(timeout=180)
        self.said.append(said)
        assert "Traceback" not in said, self.story()
        assert first.returncode in (0, 3, 4, 5), self.story()
        return NUM_ACTORS * WINDOW

    def plan_cut(self) -> int | None:
        """A part of the plan is cut short."""
        store = Store(self.spec.url, self.place.bucket.options)
        parts = sorted(store.list("plan"))
        if not parts:
            return None
        part = self.random.choice(parts)
        store.put(part, store.read(part)[: self.random.randrange(200)])
        self.damaged = True
        return 0

    # What must be true afterwards.

    def prove(self) -> None:
        """Count what is lost, doubled or different, and refuse a wrong failure."""
        run = open_run(self.spec.url, self.place.bucket.options)
        rows = run.metadata.to_table().to_pylist()
        ids = Counter(row["image_id"] for row in rows)
        planned = self.num_healthy + len(self.poison)
        healthy = [row for row in rows if "picture" in row["prompt"]]
        self.tally.images = planned
        self.tally.doubled = sum(count - 1 for count in ids.values()) + len(orphan_images(run))
        self.tally.lost = planned - len(ids) + sum(row["status"] != "ok" for row in healthy)
        undisturbed = undisturbed_at(self.place, self.num_healthy)
        for row in healthy:
            if row["status"] == "ok":
                data = run.store.read(row["file"])
                same = hashlib.sha256(data).hexdigest() == row["sha256"]
                self.tally.different += not same or undisturbed[row["image_id"]] != data
        self._prove_failures(rows)
        self._prove_window()
        findings = [str(finding) for shard in verify(run) for finding in shard.findings]
        assert findings == [], f"{findings}; {self.story()}"

    def _prove_failures(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            kind = next((kind for kind in self.poison if kind in row["prompt"]), None)
            if kind is not None:
                assert (row["error_type"] or MADE) == POISON[kind], row
            if kind == "CRAMPED":
                assert row["batch_size"] == 1, row

    def _prove_window(self) -> None:
        """No fault costs more samples than what was in flight when it came."""
        log = [line.split() for line in self.place.log.read_text().splitlines()]
        healthy = {str(seed_of(f"picture {number}")) for number in range(self.num_healthy)}
        begun = [words[1] for words in log if words[0] == "sampled" and words[1] in healthy]
        assert len(set(begun)) == self.num_healthy, f"{len(set(begun))} begun; {self.story()}"
        self.tally.resampled = len(begun) - self.num_healthy
        most = self.at_stake + sum(told_by(*words) for words in log)
        assert self.tally.resampled <= most, f"{self.tally.resampled} > {most}; {self.story()}"

    def story(self) -> str:
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


def undisturbed_at(place: Place, num_healthy: int) -> dict[str, bytes]:
    """The bytes of every healthy image when nothing happens, by image id; made once."""
    if len(place.undisturbed) < num_healthy:
        log = place.log.read_text()
        with Night(place, -num_healthy, 0, (), num_healthy) as quiet:
            quiet.spec = quiet.spec_for(f"undisturbed-{num_healthy}", place.bucket.options)
            quiet.start()
            assert quiet.await_end(GIVE_UP_S) == 0, quiet.story()
        place.log.write_text(log)
        run = open_run(quiet.spec.url, place.bucket.options)
        rows = run.metadata.to_table(columns=["image_id", "file"]).to_pylist()
        place.undisturbed.update({row["image_id"]: run.store.read(row["file"]) for row in rows})
    return place.undisturbed


def told_by(what: str, number: str = "0") -> int:
    """How many healthy images may be sampled again for a line of the log."""
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
    """A row's own seed, by which the log of samples knows it."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])
