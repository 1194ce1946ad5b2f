"""Objects, wherever they lie: the only room of the project that touches fsspec.

Owns how bytes are created once, replaced, read, listed and found at any fsspec URL, what is tried
again and how fast, and what a person reads when the store refuses. Knows nothing of runs, shards
or images.
"""

from nightpress.pipelines.storage.retries import QUICK, RetryPolicy
from nightpress.pipelines.storage.sources import Source, contents, download_folder, find
from nightpress.pipelines.storage.store import Store
from nightpress.pipelines.storage.streams import open_source
from nightpress.pipelines.storage.urls import Options, is_local, is_url

__all__ = [
    "QUICK",
    "Options",
    "RetryPolicy",
    "Source",
    "Store",
    "contents",
    "download_folder",
    "find",
    "is_local",
    "is_url",
    "open_source",
]
