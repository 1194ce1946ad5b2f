"""The pictures that the rows of a manifest name, as tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:  # it imports what decodes pictures
    from nightpress.pipelines.planning.picture_facts import PictureFacts


BYTES = "bytes:"
"""Before the hash of a picture that has no URL, as the manifest holds its bytes."""


NAMED_TYPE = pa.schema(
    [
        pa.field("picture", pa.string()),
        pa.field("kind", pa.int8()),
        pa.field("file", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("column", pa.string()),
    ]
)
"""One row for each picture and kind; `picture` is its URL, or names its bytes by their hash."""


PAIR_TYPE = pa.schema(
    [
        pa.field("init", pa.string()),
        pa.field("picture", pa.string()),
        pa.field("file", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("column", pa.string()),
    ]
)
"""One row for each mask, `picture`, beside an initial image."""


@dataclass(frozen=True)
class NamedInputs:
    """What the rows of a unit, or of a whole manifest, name."""

    pictures: pa.Table = field(default_factory=NAMED_TYPE.empty_table)
    pairs: pa.Table = field(default_factory=PAIR_TYPE.empty_table)
    facts: Mapping[tuple[str, int], "PictureFacts | str"] = field(default_factory=dict)
    """Picture and kind -> the facts, or what is wrong; of those whose bytes the manifest holds."""

    @property
    def num_pictures(self) -> int:
        """The number of distinct pictures."""
        return int(pc.count_distinct(self.pictures["picture"]).as_py())

    @staticmethod
    def is_bytes(picture: str) -> bool:
        """Whether this names bytes that the manifest holds."""
        return picture.startswith(BYTES)
