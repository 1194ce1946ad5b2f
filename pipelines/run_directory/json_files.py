"""JSON files of a run directory, which programs and people read."""

import json
from collections.abc import Mapping
from typing import Any

from nightpress.diffusion_core.errors import one_line


def json_file(values: Mapping[str, Any]) -> bytes:
    """Values as an indented JSON file in UTF-8."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def what_is_wrong(error: Exception) -> str:
    """Why the values of a JSON file could not be used, from the error that reading them raised."""
    return f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
