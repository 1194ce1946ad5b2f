"""The check before a run on a cluster: every node must reach its output."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nightpress.jobs.cluster.connection import (
    ClusterAddress,
    address_of,
    alive_nodes,
    on_every_node,
)
from nightpress.jobs.errors import ClusterError
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.storage import Store, is_local


def require_store_on_every_node(cluster: ClusterAddress, store: Store) -> None:
    """Check that every node can write the output: a shared folder, or a store with credentials.

    Raises:
        ClusterError: a node cannot; the message names it.
    """
    if address_of(cluster) is None and len(alive_nodes()) < 2:
        return
    if is_local(store.url):
        _require_shared_disk(store)
        return
    for node, reason in on_every_node(_store_fault, store):
        if reason is not None:
            raise ClusterError(f"node {node}: {reason}")


def require_readable_on_every_node(store: Store, path: str) -> None:
    """Check that every node reads an object of a run as this machine does; writes nothing.

    Raises:
        ClusterError: a node finds no such object, another one, or may not read it.
    """
    here = store.read(path)
    for node, seen in on_every_node(_read, (store, path)):
        if seen != here:
            reason = seen if isinstance(seen, str) else "it finds no such file, or another one"
            raise ClusterError(f"node {node} cannot read {store.url}/{path}: {reason}")


def _read(place: tuple[Store, str]) -> bytes | str | None:
    """What this node finds; a text says why it cannot look."""
    store, path = place
    try:
        return store.read_if_any(path)
    except StoreError as error:
        return str(error)


@contextmanager
def marker_near(store: Store) -> Iterator[str]:
    """A file in the nearest folder of a local output that exists; nodes look for it.

    Raises:
        ClusterError: it cannot be written.
    """
    folder = Path(store.url)
    while not folder.is_dir():
        folder = folder.parent
    marker = folder / f".nightpress-{uuid.uuid4().hex}"
    try:
        marker.touch()
    except OSError as error:
        raise ClusterError(f"output {store.url}: {folder}: {error.strerror or error}") from error
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


def _store_fault(store: Store) -> str | None:
    """Why this node cannot write the run; None if it can."""
    try:
        store.check()
    except StoreError as error:
        return str(error)
    return None
