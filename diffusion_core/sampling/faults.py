"""What can be wrong with a sampled image or clip."""

from enum import StrEnum


class Fault(StrEnum):
    """What can be wrong with a sampled image or clip; the values are written to the metadata."""

    NON_FINITE = "its values are not finite"
    BLANK = "every pixel has the same colour"
    STILL = "all frames are equal"
    FLAGGED = "flagged by the model's safety checker"
