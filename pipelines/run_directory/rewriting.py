"""Replacing an object under a lease, so that a process that lost the lease cannot do it."""

from collections.abc import Callable

from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.storage import Store


def rewrite(
    store: Store,
    path: str,
    change: Callable[[bytes | None], bytes | None],
    fence: FencingToken | None = None,
) -> None:
    """Replace an object with the result of `change`.

    The order makes this safe: read the object, check the lease, then replace the object only if it
    is still what was read. A process that is delayed anywhere in between and loses the lease
    meanwhile cannot undo anything that the next holder has done.

    Args:
        store: the run directory.
        path: path of the object.
        change: maps the current bytes, or None if there is no object, to the new bytes, or None to
            leave the object alone. It is called again if another writer was faster.
        fence: the token of the lease.

    Raises:
        LeaseLost: another process has taken over the run.
        StoreError: the store failed.
    """
    while True:
        seen = store.read_if_any(path)
        data = change(seen)
        if data is None or data == seen:
            return
        if fence is not None:
            fence.require(store)
        if store.create(path, data) if seen is None else store.replace(path, data, seen):
            return
