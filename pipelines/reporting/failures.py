"""What the report says about each kind of failure: how many, and what a person can do."""

from collections.abc import Mapping
from dataclasses import dataclass

from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.embedded_metadata import readable
from nightpress.pipelines.records import FailureType

MAX_KINDS = 20
"""Kinds of failure that are listed, however many another program may have written."""

RETRY = "then nightpress retry makes the image"

EXPLANATIONS: dict[str, str] = {
    FailureType.NON_FINITE: "the model's output was not finite, also in float32",
    FailureType.BLANK: "every pixel has the same colour",
    FailureType.STILL: "all frames of the clip are equal",
    FailureType.FLAGGED: "the model's safety checker refused the image",
    FailureType.SAMPLING: "the model raised an error for this image, also alone",
    FailureType.OUT_OF_MEMORY: "the image does not fit into memory, even alone",
    FailureType.TIMEOUT: "the image was not finished when the watchdog ended its process",
    FailureType.WORKER_KILLED: "its process died each time the image was tried alone",
    FailureType.ENCODING: "the pixels could not be encoded as a file",
    FailureType.NAME_TAKEN: "another file has the image's name",
    FailureType.INPUT_MISSING: f"a picture that it is made from is not there; put it back, {RETRY}",
    FailureType.INPUT_UNDECODABLE: (
        f"a picture that it is made from cannot be decoded, or is too large; replace it, {RETRY}"
    ),
    FailureType.INPUT_CHANGED: (
        "a picture that it is made from is not the one that this run first used; put that one "
        f"back, {RETRY}, or begin another run with the new one"
    ),
    FailureType.REJECTED: (
        "none of its draws passed the gates; other thresholds or more draws need another run"
    ),
}


@dataclass(frozen=True)
class FailureCount:
    """Images that failed in the same way."""

    error_type: str
    text: str
    """`3 images: a picture that it is made from is not there; ...`."""


def failure_counts(counts: Mapping[str, int]) -> list[FailureCount]:
    """The kinds of failure, those with the most images first.

    Args:
        counts: error type -> images.
    """
    most_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        FailureCount(readable(name), _text(name, number)) for name, number in most_first[:MAX_KINDS]
    ]


def _text(name: str, number: int) -> str:
    explanation = EXPLANATIONS.get(name)
    return plural(number, "image") + (f": {explanation}" if explanation else "")
