"""What goes into a pack, and what comes out of packing."""

from dataclasses import dataclass

from nightpress.pipelines.records import ImageFacts


@dataclass(frozen=True)
class Member:
    """One image on its way into a pack."""

    name: str
    """Of the file that it would have been, below `images/`."""
    data: bytes
    facts: ImageFacts


@dataclass(frozen=True)
class Place:
    """Where an image lies in its pack."""

    member: str
    offset: int
    """Of the first of its bytes, which follow each other."""


@dataclass(frozen=True)
class Pack:
    """The bytes of a pack, and where its images are in them."""

    data: bytes
    places: tuple[Place, ...]
    """Of each member, in order."""
