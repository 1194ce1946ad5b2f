"""`doctor`: whether this machine, the cluster and a job's places are fit for the night."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ray._private.authentication.authentication_token_setup import (
    AuthenticationMode,
    get_authentication_mode,
)

from nightpress.diffusion_core.errors import ModelError, NightpressError, one_line
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.jobs.cluster.address import asks_for_a_token, has_token
from nightpress.jobs.cluster.capacity import resources
from nightpress.jobs.cluster.connection import address_of, cluster, resolved_gpus, room
from nightpress.jobs.cluster.node_facts import (
    Node,
    NodeFacts,
    Questions,
    facts_here,
    facts_of_nodes,
    free_bytes,
    num_gone,
)
from nightpress.jobs.cluster.preflight import marker_near
from nightpress.jobs.errors import ClusterError
from nightpress.jobs.runs.doctor_checks import (
    HERE,
    Check,
    clock,
    condition,
    difference,
    fit,
    home,
    signing,
    space,
)
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.formatting import plural, size
from nightpress.pipelines.job.sections import ClusterSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.location import absolute_source
from nightpress.pipelines.models.weight_size import weight_bytes
from nightpress.pipelines.planning import manifest_sources
from nightpress.pipelines.storage import Options, Store, is_local, require_answers, require_readable
from nightpress.pipelines.storage.urls import local_path


@dataclass(frozen=True)
class Diagnosis:
    """All that was looked at."""

    checks: tuple[Check, ...]

    @property
    def num_faults(self) -> int:
        """Checks that found something to be mended before the night."""
        return sum(check.state == "fault" for check in self.checks)

    @property
    def is_healthy(self) -> bool:
        """Whether there is no fault."""
        return not self.num_faults


def doctor(job: RunSpec | None = None, *, address: str | None = None) -> Diagnosis:
    """Look for what would make a nightly run fail: on this machine, on nodes, in a job's places.

    A job's output is written to with scratch objects, which are deleted again. Nothing else is
    changed, and no model is downloaded.

    Args:
        job: whose places are looked at; without it only machines are.
        address: Ray cluster to join; by default the job's, or that of RAY_ADDRESS. Without any,
            only this machine is looked at.

    Returns:
        What was looked at, with what to do about each fault.

    Raises:
        SpecError: the job is not valid.
    """
    spec = ClusterSpec() if job is None else job.cluster
    if address is not None:
        spec = spec.model_copy(update={"address": address})
    return Diagnosis(tuple(_Doctor(job, spec).checks()))


class _Doctor:
    """Goes through the checks; each turns what it finds into lines."""

    def __init__(self, job: RunSpec | None, spec: ClusterSpec) -> None:
        self._job = job
        self._spec = spec
        self._address = address_of(spec)
        self._here = facts_here(Questions())
        self._weights: int | None = None
        """Bytes of the weights of the largest model; None if that is not known."""
        self._mirrored_bytes = 0
        self._writes_here = True
        """Whether this machine can write the output."""

    def checks(self) -> Iterator[Check]:
        """All checks."""
        yield self._token()
        yield from self._output()
        yield self._inputs()
        yield from self._model()
        yield from signing(self._job)
        if self._address is None:
            text = "no --address, cluster.address or RAY_ADDRESS"
            yield Check("cluster", HERE, "not checked", text)
            yield from self._of_node(Node(HERE, self._here, "", 0.0))
            return
        try:
            with cluster(self._spec.model_copy(update={"address": self._address})):
                gone, nodes, rooms = num_gone(), self._asked_nodes(), tuple(self._room())
        except (ClusterError, StoreError) as error:
            yield Check("cluster", self._address, "fault", str(error))
            yield Check("nodes", self._address, "not checked", "the cluster was not joined")
            yield from home(HERE, self._here)
            return
        text = f"{plural(len(nodes), 'node')} alive"
        text += f", {gone:,} gone since the cluster started" if gone else ""
        yield Check("cluster", self._address, "ok", text)
        yield from rooms
        yield from home(HERE, self._here)
        for node in nodes:
            yield from self._of_node(node)

    def _token(self) -> Check:
        sends = get_authentication_mode() == AuthenticationMode.TOKEN
        try:
            missing = sends and not has_token()
            text = "RAY_AUTH_MODE is token, but there is none: set RAY_AUTH_TOKEN"
        except ClusterError as error:
            missing, text = True, str(error)
        if missing:
            return Check("token", HERE, "warning" if self._address is None else "fault", text)
        if self._address is None:
            text = "is sent to a cluster" if sends else "none is sent: RAY_AUTH_MODE is not token"
            return Check("token", HERE, "not checked", text)
        match asks_for_a_token(self._address):
            case None:
                return Check("token", self._address, "not checked", "the head does not answer")
            case True:
                text = "the cluster asks for a token"
                return Check("token", self._address, "ok", text)
        text = (
            "the cluster asks for none, so whoever reaches its ports can run code there; start its "
            "nodes with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        )
        return Check("token", self._address, "warning", text)

    def _output(self) -> Iterator[Check]:
        """Whether this machine can write the output, under the conditions that a run needs."""
        if self._job is None:
            yield Check("output", HERE, "not checked", "no JOB is given")
            return
        store = Store(self._job.url, self._job.storage)
        try:
            store.check()
            yield Check("output", store.url, "ok", "objects can be listed, created and deleted")
        except StoreError as error:
            self._writes_here = False
            yield Check("output", store.url, "fault", str(error))
            return
        yield condition(store.url, "create-only", store.honours_create_only)
        yield condition(store.url, "replace-if-same", store.honours_if_match)
        for path, free in free_bytes([store.url] if is_local(store.url) else []):
            yield space(HERE, path, free)

    def _inputs(self) -> Check:
        """Whether this machine can read the manifest, as each start does first."""
        if self._job is None:
            return Check("inputs", HERE, "not checked", "no JOB is given")
        if not self._job.manifest:
            return Check("inputs", HERE, "not checked", "the job names no manifest")
        root = self._job.inputs.root
        try:
            require_answers(self._job.manifests, self._job.storage)
            files = manifest_sources(self._job)
            require_readable([files[0].url], self._job.storage)
        except NightpressError as error:
            return Check("inputs", HERE, "fault", one_line(error))
        if root is not None and is_local(root) and not local_path(root).is_dir():
            return Check("inputs", HERE, "fault", f"inputs.root: {root} is not a folder")
        text = f"{plural(len(files), 'file')} of the manifest can be read"
        return Check("inputs", HERE, "ok", text)

    def _model(self) -> Iterator[Check]:
        if self._job is None:
            yield Check("model", HERE, "not checked", "no JOB is given")
            return
        for model in self._job.every_model:
            yield self._check_model(model, self._job.storage)

    def _check_model(self, model: ModelSpec, options: Options) -> Check:
        try:
            found = weight_bytes(model, options)
        except (ModelError, StoreError) as error:
            return Check("model", model.source, "fault", str(error))
        if found is None:
            text = "this machine does not have it yet, so the size of its weights is not known"
            return Check("model", model.source, "not checked", text)
        self._weights = max(self._weights or 0, found)
        self._mirrored_bytes += found if _is_mirrored(model) else 0
        text = f"{size(found)} of weights, without LoRAs and adapters"
        return Check("model", model.source, "ok", text)

    def _room(self) -> Iterator[Check]:
        """Whether a node is large enough for an actor of the job."""
        if self._job is None or self._address is None:
            return
        cpus, gpus = self._spec.cpus_per_actor, resolved_gpus(self._spec.gpus_per_actor)
        number, text = room(cpus, gpus), f"an actor needs {resources(cpus, gpus)} on one node"
        if number:
            text += f"; without other work there is room for {number:,}, memory aside"
        else:
            text += ", and none is large enough, so a run waits for one to join"
        yield Check("room", self._address, "ok" if number else "warning", text)

    def _asked_nodes(self) -> list[Node]:
        if self._job is None:
            return facts_of_nodes(Questions())
        questions, store = what_nodes_read(self._job), Store(self._job.url, self._job.storage)
        if not is_local(store.url):
            return facts_of_nodes(replace(questions, store=store))
        if not self._writes_here:
            return facts_of_nodes(questions)
        with marker_near(store) as marker:
            return facts_of_nodes(replace(questions, marker=marker))

    def _of_node(self, node: Node) -> Iterator[Check]:
        facts, where = node.facts, node.address
        if facts is None:
            text = f"{node.silence}; look at this node, or remove it from the cluster"
            yield Check("node", where, "fault", text)
            return
        yield from self._versions(where, facts)
        if where != HERE:
            yield clock(where, node.ahead_s)
            yield self._grace(where, facts)
            yield from self._places(where, facts)
        yield from home(where, facts)
        yield from self._disk(where, facts)
        yield from self._memory(where, facts)

    def _versions(self, where: str, facts: NodeFacts) -> Iterator[Check]:
        ships = self._spec.ship_package and where != HERE
        ours = {"Python": self._here.python} | self._here.versions
        theirs = {"Python": facts.python} | facts.versions
        differences = [
            difference(where, name, ours[name], theirs[name])
            for name in ours
            if theirs[name] != ours[name] and not (name == "nightpress" and ships)
        ]
        yield from differences
        if not differences:
            own = f"nightpress {facts.versions['nightpress'] or 'from source'}"
            text = f"Python {facts.python}, Ray {facts.versions['ray']}, "
            text += "nightpress is sent along" if ships else own
            yield Check("versions", where, "ok", text)

    def _grace(self, where: str, facts: NodeFacts) -> Check:
        drain_s, ray_s = self._spec.drain_s, facts.ray_drains_s
        text = f"Ray waits {ray_s:g} s for a node to drain, cluster.drain_s is {drain_s:g} s"
        if ray_s > drain_s:
            return Check("grace", where, "ok", f"{text}; what ends the node must wait longer still")
        advice = (
            "batches are lost when the node goes away: start it with "
            f"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S={drain_s + 30:.0f}, or set a smaller drain_s"
        )
        return Check("grace", where, "warning", f"{text}; {advice}")

    def _places(self, where: str, facts: NodeFacts) -> Iterator[Check]:
        if self._job is None:
            yield Check("places", where, "not checked", "no JOB is given")
            return
        for name, fault in (("output", facts.output_fault), ("inputs", facts.input_fault)):
            if name == "output" and is_local(self._job.url) and not self._writes_here:
                yield Check(name, where, "not checked", f"{HERE} cannot write it")
                continue
            text = "can be reached from here" if fault is None else fault
            yield Check(name, where, "ok" if fault is None else "fault", text)

    def _disk(self, where: str, facts: NodeFacts) -> Iterator[Check]:
        for path, free in facts.free_bytes.items():
            if facts.home_fault is not None and Path(path).is_relative_to(facts.home):
                continue
            needed = 0 if path != facts.cache else self._mirrored_bytes
            yield space(where, path, free, needed)

    def _memory(self, where: str, facts: NodeFacts) -> Iterator[Check]:
        """One copy of the weights against each GPU; without any, against the machine's memory."""
        gpus = [("memory", facts.memory_bytes)] if not facts.gpus else list(facts.gpus)
        share = self._spec.gpus_per_actor
        part = share if facts.gpus and isinstance(share, float) and 0 < share < 1 else 1.0
        for name, num_bytes in gpus:
            yield fit(where, name, num_bytes, part, self._weights)


def _is_mirrored(model: ModelSpec) -> bool:
    """Whether nodes keep a copy of a model in their cache."""
    source = model.source
    return source != "builtin" and not (is_local(source) and Path(source).exists())


def what_nodes_read(job: RunSpec) -> Questions:
    """What every node must be able to read; the driver alone reads a manifest on a disk."""
    root = job.inputs.root
    paths = [absolute_source(source) for source in job.model_sources]
    if root is not None and is_local(root):
        paths.append(str(local_path(root)))
    manifests = [job.manifest] if isinstance(job.manifest, str) else job.manifest
    return Questions(
        urls=(*job.sources, *([] if root is None else [root])),
        manifests=tuple(url for url in manifests if not is_local(url)),
        paths=tuple(path for path in paths if Path(path).is_absolute()),
        options=job.storage,
    )
