"""The check before a run on a cluster: every node must reach its output."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nightpress.jobs.cluster.connection import (
    ClusterAddress,
    address_of,
    alive_nodes,
    on_every_node,
)
from nightpress.jobs.errors import STOPPED, ClusterError, exit_code
from nightpress.pipelines.errors import StoreError, StoreMissing
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.storage import Store, is_local
from nightpress.pipelines.storage.local import MAY_PASS


def require_store_on_every_node(cluster: ClusterAddress, store: Store) -> None:
    """Check that every node can write the output: a shared folder, or a store with credentials.

    Raises:
        ClusterError: a node cannot; the message names it.
        StoreError: the store keeps failing for a node, which the message names; a later try may
            get past that.
    """
    if address_of(cluster) is None and len(alive_nodes()) < 2:
        return
    if is_local(store.url):
        _require_shared_disk(store)
        return
    faults = [
        _NodeFault(f"node {node}", error)
        for node, error in on_every_node(_store_fault, store)
        if error is not None
    ]
    _raise_worst(faults)


def require_readable_on_every_node(store: Store, path: str) -> None:
    """Check that every node reads an object of a run as this machine does; writes nothing.

    Raises:
        ClusterError: a node finds no such object, another one, or may not read it.
        StoreError: the store keeps failing for a node, which the message names.
    """
    here = store.read(path)
    place = f"{store.url}/{path}"
    faults = []
    for node, seen in on_every_node(_read, (store, path)):
        where = f"node {node} cannot read {place}"
        if isinstance(seen, StoreError):
            faults.append(_NodeFault(where, seen))
        elif seen != here:
            other = StoreMissing("it finds no such file, or another one")
            faults.append(_NodeFault(where, other))
    _raise_worst(faults)


@dataclass(frozen=True)
class _NodeFault:
    """Why one node cannot use a store."""

    where: str
    """The node, as the message begins."""
    error: StoreError

    @property
    def passes(self) -> bool:
        """Whether a later try may get past it."""
        return exit_code(self.error) == STOPPED


def _raise_worst(faults: Sequence[_NodeFault]) -> None:
    """Raise the first fault that someone must mend, or else the first of those that may pass.

    A job that is repeated until the store is less busy would only then meet what must be mended.
    """
    if not faults:
        return
    worst = next((fault for fault in faults if not fault.passes), faults[0])
    others = len(faults) - 1
    more = f" ({plural(others, 'other node')} cannot use it either)" if others else ""
    text = f"{worst.where}: {worst.error}{more}"
    raise (StoreError if worst.passes else ClusterError)(text) from worst.error


def _read(place: tuple[Store, str]) -> bytes | StoreError | None:
    """What this node finds, or why it cannot look."""
    store, path = place
    try:
        return store.read_if_any(path)
    except StoreError as error:
        return error


@contextmanager
def marker_near(store: Store) -> Iterator[str]:
    """A file in the nearest folder of a local output that exists; nodes look for it.

    Raises:
        ClusterError: it cannot be written.
        StoreError: likewise, for a reason that may pass, such as a full disk.
    """
    folder = Path(store.url)
    while not folder.is_dir():
        folder = folder.parent
    marker = folder / f".nightpress-{uuid.uuid4().hex}"
    try:
        marker.touch()
    except OSError as error:
        kind = StoreError if error.errno in MAY_PASS else ClusterError
        raise kind(f"output {store.url}: {folder}: {error.strerror or error}") from error
    try:
        yield str(marker)
    finally:
        marker.unlink(missing_ok=True)


def _require_shared_disk(store: Store) -> None:
    with marker_near(store) as marker:
        seen = on_every_node(_exists, marker)
    without = sorted(node for node, sees in seen if not sees)
    if without:
        raise ClusterError(
            f"output {store.url} is a local folder that is not shared by {', '.join(without)}; "
            "use a URL that every node reaches, such as s3://bucket/runs"
        )


def _exists(path: str) -> bool:
    return Path(path).exists()


def _store_fault(store: Store) -> StoreError | None:
    """Why this node cannot write the run; None if it can."""
    try:
        store.check()
    except StoreError as error:
        return error
    return None
