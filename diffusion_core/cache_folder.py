"""The folder for what nightpress keeps on this machine between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder for what can be made again: `$XDG_CACHE_HOME` or `~/.cache`, `/nightpress`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nightpress"
