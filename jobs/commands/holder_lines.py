"""What status and plan say about who holds a run, and about images that its manifest has lost."""

from nightpress.pipelines.formatting import plural
from nightpress.pipelines.run_directory.lease import Holder


def holder_values(holder: Holder) -> dict[str, object]:
    """The process that may be working on the run as JSON-ready values."""
    return {name: getattr(holder, name) for name in ("host", "user", "pid", "since", "beats")}


def holder_line(holder: Holder | None) -> str:
    """Which process may be working on the run, by its last heartbeat in the store."""
    return "nobody" if holder is None else f"{holder}, heartbeat {holder.beats:,}"


def not_in_manifest(num_gone: int) -> str:
    """`3 images are not in the manifest any more`."""
    are = "is" if num_gone == 1 else "are"
    return f"{plural(num_gone, 'image')} {are} not in the manifest any more"
