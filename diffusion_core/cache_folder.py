"""The folder in which nightpress keeps caches on this machine between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/nightpress`, or `~/.cache/nightpress` if the variable is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nightpress"


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, with its folder; a file that is there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
