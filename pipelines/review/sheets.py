"""The facts of all images for the page without a server: packed, a few hundred images at a time."""

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from nightpress.pipelines.review.facts import ImageFactSheet

SHEETS_IN_A_CHUNK = 256


@dataclass(frozen=True)
class SheetChunk:
    """The facts of images that follow each other on the page."""

    first: int
    """Number of its first image."""
    data: str
    """Base64 of a gzip file of JSON: for each image `[[[name, value], ...], job]`, or null."""

    def as_dict(self) -> dict[str, object]:
        """As the page reads it."""
        return {"first": self.first, "data": self.data}


def sheet_chunks(
    image_ids: Sequence[str], sheets: Iterable[tuple[str, ImageFactSheet]]
) -> Iterator[SheetChunk]:
    """Pack the facts of images.

    Args:
        image_ids: the images of the page, in its order.
        sheets: image id and facts, in the same order; others may be among them.
    """
    wanted, left = set(image_ids), iter(sheets)
    found = ((image_id, sheet) for image_id, sheet in left if image_id in wanted)
    for first in range(0, len(image_ids), SHEETS_IN_A_CHUNK):
        ids = image_ids[first : first + SHEETS_IN_A_CHUNK]
        yield SheetChunk(first, _packed(ids, dict(islice(found, len(ids)))))


def _packed(image_ids: Sequence[str], sheets: Mapping[str, ImageFactSheet]) -> str:
    values = [
        [sheet.facts, sheet.job] if (sheet := sheets.get(image_id)) else None
        for image_id in image_ids
    ]
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
