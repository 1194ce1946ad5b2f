"""What happens while an export is written, as small values."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportPlanned:
    """It is known what is to be written."""

    num_shards: int
    """Shards of the runs."""
    num_done: int
    """Those that an earlier start has exported, and that have not changed since."""


@dataclass(frozen=True)
class ShardExported:
    """A shard is exported."""

    num_images: int
    num_bytes: int


@dataclass(frozen=True)
class ShardSurveyed:
    """The images of a shard are known, to be compared with those of other splits."""


@dataclass(frozen=True)
class ImagesCompared:
    """How far comparing the embeddings of images is."""

    num_images: int
    """Images that are compared with those before them, or with those of the other splits."""
    num_total: int


Event = ExportPlanned | ShardExported | ShardSurveyed | ImagesCompared
