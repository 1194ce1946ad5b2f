"""JSON files of a run directory, which programs and people read."""

import json
from collections.abc import Mapping
from typing import Any


def json_file(values: Mapping[str, Any]) -> bytes:
    """Values as an indented JSON file in UTF-8."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
