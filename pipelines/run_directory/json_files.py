"""JSON files of a run directory, which programs and people read."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from nightpress.diffusion_core.errors import one_line


def json_file(values: Mapping[str, Any]) -> bytes:
    """Values as an indented JSON file in UTF-8."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def what_is_wrong(error: Exception) -> str:
    """Why the values of a JSON file could not be used, from the error that reading them raised."""
    return f"it has no {error}" if isinstance(error, KeyError) else one_line(error)


def checked_time(text: str) -> str:
    """A time of such a file as it is, if it is ISO 8601 with a time zone.

    Raises:
        ValueError, TypeError: it is not.
    """
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return text
