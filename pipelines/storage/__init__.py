"""Where things lie: a run directory and its sources, at any URL that fsspec reaches.

The only room that touches fsspec. `Store` is a run directory; `find`, `open_source` and
`download_folder` read what others wrote: manifests and models.
"""

from pipelines.storage.filesystems import StorageOptions, is_local, is_url
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.sources import Source, download_folder, find, open_source
from pipelines.storage.store import Store

__all__ = [
    "RetryPolicy",
    "Source",
    "StorageOptions",
    "Store",
    "download_folder",
    "find",
    "is_local",
    "is_url",
    "open_source",
]
