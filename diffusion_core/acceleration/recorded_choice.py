"""What was chosen in a section of a job, as text that is recorded with every image."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Section = TypeVar("Section", bound=BaseModel)


def as_text(chosen: Mapping[str, Any]) -> str | None:
    """Choices as JSON on one line with sorted keys; None if nothing is chosen."""
    return json.dumps(chosen, sort_keys=True, separators=(",", ":")) if chosen else None


def from_text(section: type[Section], key: str, text: str | None) -> Section:
    """The inverse of `as_text`.

    Args:
        section: the class of the section.
        key: its key in the job, as errors call it.

    Raises:
        ValueError: the text is not valid; the message is one line.
    """
    try:
        return section.model_validate_json(text) if text is not None else section()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{key}: {place}: {first['msg']}") from error
