"""Ids of images in a file, as some commands take them."""

import sys
from pathlib import Path

from nightpress.pipelines.errors import SpecError


def ids_in(path: Path) -> list[str]:
    """The lines of a file, without empty ones and blanks around them; `-` is stdin.

    Raises:
        SpecError: the file cannot be read, or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SpecError(f"--ids {path}: {reason}") from error
    return [line.strip() for line in lines if line.strip()]
