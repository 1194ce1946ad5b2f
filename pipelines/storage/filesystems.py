"""URLs and the fsspec filesystems behind them, with time-outs that suit a batch run."""

import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from pipelines.errors import StoreDenied

StorageOptions = Mapping[str, Mapping[str, Any]]
"""fsspec options by protocol, as the job file's `storage` key holds them."""

S3_CONFIG = {
    "connect_timeout": 5,
    "read_timeout": 60,
    "max_pool_connections": 64,
    # One try: retries are ours, so that they neither multiply nor hide an unknown outcome.
    "retries": {"total_max_attempts": 1},
}

ALIASES = {"s3a": "s3", "gs": "gcs", "abfs": "az", "abfss": "az", "local": "file"}


MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".webp": "image/webp",
}
"""What a browser is told: an object without a type is downloaded where it should be shown."""


def is_url(source: str) -> bool:
    """Whether a source names its protocol; what does not is a local path or a hub id."""
    return "://" in source or "::" in source


def is_local(url: str) -> bool:
    """Whether a URL is of this machine's own disks."""
    return get_protocol(url) in ("file", "local")


def absolute(url: str) -> str:
    """The URL, a local one as an absolute path: a process elsewhere stands in another folder."""
    if not is_local(url):
        return url
    path: str = LocalFileSystem._strip_protocol(url)
    return os.path.abspath(os.path.expanduser(path))


def filesystem(url: str, options: StorageOptions) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the URL's path on it.

    Raises:
        StoreDenied: no such protocol, or its driver is not installed.
    """
    protocol = get_protocol(url)
    chosen = dict(options.get(protocol) or options.get(ALIASES.get(protocol, protocol)) or {})
    if protocol in ("s3", "s3a"):
        chosen["config_kwargs"] = {**S3_CONFIG, **chosen.get("config_kwargs", {})}
    chosen.setdefault("use_listings_cache", False)
    try:
        fs, path = fsspec.core.url_to_fs(url, **chosen)
    except ImportError as error:
        extra = " (pip install 'nightpress[s3]')" if protocol in ("s3", "s3a") else ""
        raise StoreDenied(f"{url}: the driver of {protocol}:// is missing{extra}") from error
    except ValueError as error:
        raise StoreDenied(f"{url}: {' '.join(str(error).split())}") from error
    if protocol in ("s3", "s3a"):
        fs.retries = 1  # as in S3_CONFIG
    return fs, path


def write_options(fs: Any, path: str) -> dict[str, str]:
    """What to hand to `pipe_file` besides the bytes: the media type, where the store keeps it."""
    media_type = MEDIA_TYPES.get(PurePosixPath(path).suffix.lower())
    return {"ContentType": media_type} if media_type and "s3" in fs.protocol else {}
