"""The pictures that images were made from, inside the page without a server."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image

from nightpress.jobs.reviews.access import Refused
from nightpress.jobs.reviews.inputs import InputPictures
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.review.rows import ReviewRows

LONGEST_SIDE_PX = 1024
QUALITY = 80

MOST_PICTURE_BYTES = 32 << 20
"""Of all pictures in a page, as data URLs; further ones are left out."""


@dataclass
class StaticInputs:
    """Pictures as data URLs, and which image was made from which of them."""

    urls: list[str] = field(default_factory=list)
    of: dict[str, list[int]] = field(default_factory=dict)
    """Role -> for each image that was made from such a picture, its place in `urls`; -1 if it is
    not in the page."""
    left_out: dict[str, str] = field(default_factory=dict)
    """SHA-256 of a picture that is not in the page -> why."""

    num_bytes: int = 0

    def add(self, digest: str, pictures: InputPictures, image_id: str, role: str) -> int:
        """Read a picture; returns its place in `urls`, -1 if it is left out."""
        try:
            url = _data_url(pictures.png(image_id, role))
        except Refused as refused:
            self.left_out[digest] = refused.message
            return -1
        if self.num_bytes + len(url) > MOST_PICTURE_BYTES:
            self.left_out[digest] = "they would make the page too large"
            return -1
        self.num_bytes += len(url)
        self.urls.append(url)
        return len(self.urls) - 1

    @property
    def notes(self) -> Sequence[str]:
        """What the page says about pictures that it does not have."""
        if not self.left_out:
            return ()
        why = next(iter(self.left_out.values()))
        pictures = plural(len(self.left_out), "picture")
        return (f"No before and after for {pictures} that images were made from: {why}.",)


def static_inputs(rows: ReviewRows) -> StaticInputs:
    """Read each picture once, as its images recorded it, and make it small enough for a page.

    Raises:
        StoreError: the plan or a commit cannot be read.
    """
    found, pictures, places = StaticInputs(), InputPictures(rows.run), dict[str, int]()
    columns = (rows.table.column(name).to_pylist() for name in ("image_id", "inputs"))
    for image_id, inputs in zip(*columns, strict=True):
        for role, each in _by_role(inputs).items():
            digest = str(each["sha256"])
            if digest not in places:
                places[digest] = found.add(digest, pictures, image_id, role)
            found.of.setdefault(role, []).append(places[digest])
    return found


def _by_role(inputs: Sequence[Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]]:
    """The first picture of each role, which is the one that the page shows."""
    found: dict[str, Mapping[str, Any]] = {}
    for each in inputs or ():
        found.setdefault(each["role"], each)
    return found


def _data_url(png: bytes) -> str:
    with Image.open(BytesIO(png)) as picture:
        picture.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
        file = BytesIO()
        picture.convert("RGB").save(file, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
