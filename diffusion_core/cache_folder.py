"""The folder in which nightpress keeps caches on this machine between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/nightpress`, or `~/.cache/nightpress` if the variable is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nightpress"
