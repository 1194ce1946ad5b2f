"""Objects, wherever they lie: the only room of the project that touches fsspec.

Owns how bytes are created once, replaced, read, listed and found at any fsspec URL, what is tried
again and how fast, and what a person reads when the store refuses. Knows nothing of runs, shards
or images.
"""

from pipelines.storage.retries import QUICK, RetryPolicy
from pipelines.storage.sources import Source, contents, download_folder, find
from pipelines.storage.store import Store
from pipelines.storage.streams import open_source
from pipelines.storage.urls import Options, is_local, is_url

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
