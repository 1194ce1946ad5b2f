"""Objects at any fsspec URL: create once, replace, read, list, find.

The only folder of the project that uses fsspec. It also holds the retries, the request rate at a
throttling store, and the messages for what a store refuses.
"""

from nightpress.pipelines.storage.first_contact import require_answers
from nightpress.pipelines.storage.remote import READ_THREADS
from nightpress.pipelines.storage.retries import QUICK, RetryPolicy
from nightpress.pipelines.storage.sources import (
    Partition,
    Source,
    contents,
    download_folder,
    find,
    hidden,
    require_readable,
)
from nightpress.pipelines.storage.store import Store
from nightpress.pipelines.storage.streams import open_source, parsing
from nightpress.pipelines.storage.urls import Options, is_known_protocol, is_local, is_url

__all__ = [
    "QUICK",
    "READ_THREADS",
    "Options",
    "Partition",
    "RetryPolicy",
    "Source",
    "Store",
    "contents",
    "download_folder",
    "find",
    "hidden",
    "is_known_protocol",
    "is_local",
    "is_url",
    "open_source",
    "parsing",
    "require_answers",
    "require_readable",
]
