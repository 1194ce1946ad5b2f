"""Changing an object that is there, under a lease, so that a start that was taken over cannot.

Knows nothing of what the object is.
"""

from collections.abc import Callable

from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.storage import Store


def rewrite(
    store: Store,
    path: str,
    change: Callable[[bytes | None], bytes | None],
    fence: FencingToken | None = None,
) -> None:
    """Put what `change` makes of an object in its place.

    The order makes it safe: the object is read, then the lease is looked at, and then it is
    replaced only if it is still what was read. Whoever sleeps anywhere between, and is taken over
    meanwhile, undoes nothing that the next holder has done.

    Args:
        store: where.
        path: of the object.
        change: what is there, None for nothing -> what is to be there, None to leave it. Called
            again when somebody else was faster.
        fence: of the lease that is held.

    Raises:
        LeaseLost: another start has taken over.
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
