"""What `doctor` says of one thing that it looked at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from nightpress.diffusion_core.errors import NightpressError, one_line
from nightpress.jobs.cluster.node_facts import NodeFacts
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.formatting import duration, size
from nightpress.pipelines.image_files.content_credentials.setup import (
    signing_key_of,
    with_certificate,
)
from nightpress.pipelines.job.spec import RunSpec

State = Literal["ok", "warning", "fault", "not checked"]

HERE = "this machine"

SKEW_WARNING_S, SKEW_FAULT_S = 2.0, 300.0
"""How far a clock may be off; stores refuse requests that are 15 minutes off."""

LITTLE_DISK_BYTES, TOO_LITTLE_DISK_BYTES = 10 * 10**9, 10**9


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    where: str
    """A node, a URL, or this machine."""
    state: State
    text: str
    """What was found, and what to do about it."""


def difference(where: str, name: str, ours: str | None, theirs: str | None) -> Check:
    """A package, or Python, that is not the same on a node as on this machine."""
    if theirs is None:
        text = f"{name} is not installed; install {name}=={ours} there"
        return Check("versions", where, "fault", text)
    text = f"{name} {theirs}, but {ours or 'from source'} on {HERE}; install the same"
    is_fault = name in ("Python", "ray", "nightpress")
    return Check("versions", where, "fault" if is_fault else "warning", text)


def space(where: str, path: str, free: int, needed: int = 0) -> Check:
    """Free bytes on a disk, of which a copy of the model needs some."""
    text = f"{size(free)} free at {path}"
    if free < needed:
        text = f"{text}, and the model's {size(needed)} are kept there; make room"
    state: State = "ok" if free > LITTLE_DISK_BYTES + needed else "warning"
    if free < max(needed, TOO_LITTLE_DISK_BYTES):
        state = "fault"
    return Check("disk", where, state, text)


def fit(where: str, name: str, num_bytes: int, part: float, weights: int | None) -> Check:
    """Weights against the memory of a device or machine."""
    text = f"{name}: {size(num_bytes)}"
    if weights is None:
        return Check("memory", where, "not checked", f"{text}; the model's size is not known")
    has = num_bytes * part
    text += f", {part:g} of it for an actor" if part < 1 else ""
    text += f"; weights {size(weights)}"
    if weights / 2 > has:  # float32 files are read as bfloat16 on a GPU, which halves them
        advice = "use larger nodes, or model.memory.offload (`nightpress plan` says what it needs)"
        return Check("memory", where, "fault", f"{text}: they do not fit; {advice}")
    if weights > 0.8 * has:
        return Check("memory", where, "warning", f"{text}: little is left for batches")
    return Check("memory", where, "ok", text)


def condition(url: str, name: str, honours: Callable[[], bool]) -> Check:
    """Whether a store honours a condition of a write; a store that fails on it is of no use."""
    try:
        if honours():
            return Check(name, url, "ok", "the store refuses what it should")
    except StoreError as error:
        return Check(name, url, "fault", str(error))
    text = (
        "the store ignores the condition, so runs look before and after they write, which is safe "
        "for one driver at a time; prefer a store that honours If-None-Match and If-Match"
    )
    return Check(name, url, "warning", text)


def home(where: str, facts: NodeFacts) -> Iterator[Check]:
    """Whether the home folder of a machine can be written."""
    if facts.home_fault is None:
        yield Check("home", where, "ok", f"{facts.home} can be written")
        return
    text = (
        f"{facts.home} cannot be written: {facts.home_fault}; set HOME to a folder that can: Ray's "
        "token and copies of models are kept there"
    )
    yield Check("home", where, "fault", text)


def clock(where: str, ahead_s: float) -> Check:
    """How far a clock is ahead of this machine's."""
    off = abs(ahead_s)
    if off < SKEW_WARNING_S:
        return Check("clock", where, "ok", f"within {SKEW_WARNING_S:.0f} s of {HERE}")
    side = "ahead" if ahead_s > 0 else "behind"
    text = f"{duration(off)} {side} of {HERE}; set both by the same time server (NTP)"
    return Check("clock", where, "fault" if off > SKEW_FAULT_S else "warning", text)


def signing(job: RunSpec | None) -> Iterator[Check]:
    """Whether the certificate and the key are here and fit, of a job that signs its images."""
    if job is None or job.provenance.sign is None:
        return
    try:
        signing_key_of(with_certificate(job))
    except NightpressError as error:
        yield Check("signing", HERE, "fault", one_line(error))
        return
    yield Check("signing", HERE, "ok", "the certificate is valid, and the key belongs to it")
