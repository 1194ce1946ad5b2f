"""The images of a pack: what goes in, and where each of them ends up."""

from dataclasses import dataclass

from nightpress.pipelines.records import ImageFacts


@dataclass(frozen=True)
class Member:
    """One image to be packed."""

    name: str
    """The name that its file would have below `images/`."""
    data: bytes
    facts: ImageFacts


@dataclass(frozen=True)
class MemberLocation:
    """Where an image lies in its pack."""

    member: str
    offset: int
    """Offset of the image's bytes, which are contiguous."""


@dataclass(frozen=True)
class Pack:
    """The bytes of a pack, and where its images lie in them."""

    data: bytes
    locations: tuple[MemberLocation, ...]
    """One for each member, in order."""
