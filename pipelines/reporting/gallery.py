"""The images of the report: thumbnails inside the page, captions, and what its filter searches."""

import json
from base64 import b64encode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, Literal
from urllib.parse import quote

from PIL import Image

from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.image_files.atlas import CELL_PX, COLUMNS, fitted_size
from nightpress.pipelines.image_files.embedded_metadata import readable
from nightpress.pipelines.image_files.encoding import decoded
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.records import DRAW_KEY, METADATA_SCHEMA
from nightpress.pipelines.reporting.conditions import condition_facts
from nightpress.pipelines.reporting.scores import scores_text
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import ThumbPlace, places_of
from nightpress.pipelines.storage import READ_THREADS

MAX_TEXT = 2_000
"""Characters of one value on the page; the metadata has the full text."""

MAX_CAPTION = 400
MAX_TAG = 60
MAX_TAGS = 4
"""Carried columns whose values are in a caption."""

THUMB_PX = 256
"""Pixels of the longer side of a thumbnail that is made of the image; atlases have smaller ones."""

THUMB_QUALITY = 78

EMPTY_GIF = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
"""Shown for an image that cannot be read; the page counts these, and `verify` names them."""

IMAGE_FACTS = {
    "prompt": "prompt",
    "prompt_cut": "cut from the prompt",
    "negative_prompt": "negative prompt",
    "negative_prompt_cut": "cut from the negative prompt",
    "image_id": "image id",
    "seed": "seed",
    "to_prompt": "to prompt",
    "to_seed": "to seed",
    "num_frames": "frames",
    "fps": "frames a second",
    "scheduler": "sampler",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "file": "file",
    "member": "member",
    "sha256": "sha256",
    "frames_sha256": "sha256 of the frames",
}
"""Metadata column -> its label on the page; carried columns follow under their own names."""

MONOSPACE = ("file", "member", "sha256", "frames_sha256", "image_id")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Fact:
    """A name and a value."""

    name: str
    value: str
    mono: bool = False


@dataclass(frozen=True)
class GalleryImage:
    """An image in the gallery."""

    thumb: str
    """Data URL of a thumbnail, so that the page shows something where only it is."""
    url: str
    """URL of the image relative to the page, percent-encoded; of a packed one, its thumbnail."""
    caption: str
    image_id: str
    tags: str
    """Values of carried columns by which the images differ."""
    found_by: str
    """What the filter searches: the prompt and the ids."""
    width: int
    height: int
    facts: tuple[Fact, ...]
    clip: Literal["", "image", "video"] = ""
    """How a clip plays on the page: as an animated image or as a video; empty for a still image."""


def gallery(run: Run, images: Sequence[tuple[int, Row]]) -> list[GalleryImage]:
    """Images in order, given the shard and the metadata row of each.

    Thumbnails come from the run's atlases where it has any; the others are made of the images.
    """
    rows = [row for _, row in images]
    telling = _telling_columns(rows)
    thumbs = _thumbs(run, rows, _places(run, images))
    return [_image(row, thumb, telling) for row, thumb in zip(rows, thumbs, strict=True)]


def _image(row: Row, thumb: str, telling: Sequence[str]) -> GalleryImage:
    """An image in the gallery: its own facts, then the carried columns."""
    carried = [name for name in row if name not in METADATA_SCHEMA.names]
    facts = [
        Fact(label, text(row.get(name)), mono=name in MONOSPACE)
        for name, label in IMAGE_FACTS.items()
    ]
    loras = (f"{lora['name']} at {lora['scale']:g}" for lora in row["loras"])
    facts.append(Fact("LoRAs", text(", ".join(loras))))
    facts.append(Fact("scores", text(scores_text(dict(row)))))
    facts += [Fact(label, text(value)) for label, value in condition_facts(dict(row))]
    facts += [Fact(readable(name), text(row[name])) for name in carried]
    tags = [text(row.get(name), MAX_TAG) for name in telling]
    return GalleryImage(
        thumb=thumb,
        url=quote(row["file"]) if row["member"] is None else thumb,
        caption=text(row["prompt"], MAX_CAPTION),
        image_id=text(row["image_id"]),
        tags=" · ".join(filter(None, tags)),
        found_by=text(f"{row['image_id']} {row['id']} {row['prompt']}"),
        width=row["width"],
        height=row["height"],
        facts=tuple(fact for fact in facts if fact.value),
        clip=_clip(row),
    )


def _clip(row: Row) -> Literal["", "image", "video"]:
    if row.get("num_frames") is None or row["member"] is not None:
        return ""
    return "video" if row["file"].endswith(".mp4") else "image"


def _telling_columns(rows: Sequence[Row]) -> list[str]:
    """The first carried columns in which the images differ; all of them if there is one image."""
    values = defaultdict[str, set[str]](set)
    for row in rows:
        for name in row:
            if name not in METADATA_SCHEMA.names and name != DRAW_KEY:
                values[name].add(str(row[name]))
    telling = [name for name, each in values.items() if len(each) > 1 or len(rows) == 1]
    return telling[:MAX_TAGS]


def _places(run: Run, images: Sequence[tuple[int, Row]]) -> Mapping[tuple[str, str], ThumbPlace]:
    """Where thumbnails of these images are; none if the store fails."""
    wanted = defaultdict[int, set[tuple[str, str]]](set)
    for shard, row in images:
        wanted[shard].add((row["image_id"], row["sha256"]))
    try:
        return places_of(run.store, wanted) if images else {}
    except StoreError:
        return {}


def _thumbs(
    run: Run, rows: Sequence[Row], places: Mapping[tuple[str, str], ThumbPlace]
) -> list[str]:
    """The data URL of each thumbnail."""
    by_atlas = defaultdict[str, list[int]](list)
    for number, row in enumerate(rows):
        if place := places.get((row["image_id"], row["sha256"])):
            by_atlas[place.path].append(number)
    cut = partial(_cut_of_atlas, run, rows, places)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = dict[int, str]()
        for some in pool.map(cut, by_atlas, by_atlas.values()):
            found |= some
        missing = [number for number in range(len(rows)) if number not in found]
        made = pool.map(partial(_made, run), (rows[number] for number in missing))
        found |= zip(missing, made, strict=True)
    return [found[number] for number in range(len(rows))]


def _cut_of_atlas(
    run: Run,
    rows: Sequence[Row],
    places: Mapping[tuple[str, str], ThumbPlace],
    path: str,
    numbers: Sequence[int],
) -> dict[int, str]:
    """Thumbnails that one atlas has, by the numbers of their rows; none if it is damaged."""
    try:
        atlas = decoded(run.store.read(path)).convert("RGB")
    except (StoreError, ValueError):
        return {}
    found = dict[int, str]()
    for number in numbers:
        row = rows[number]
        y, x = divmod(places[row["image_id"], row["sha256"]].cell, COLUMNS)
        width, height = fitted_size(row["width"], row["height"])
        left = x * CELL_PX + (CELL_PX - width) // 2
        top = y * CELL_PX + (CELL_PX - height) // 2
        found[number] = _data_url(atlas.crop((left, top, left + width, top + height)))
    return found


def _made(run: Run, row: Row) -> str:
    """The thumbnail of an image that no atlas has."""
    try:
        image = decoded(image_bytes(run.store, dict(row))).convert("RGB")
    except (StoreError, ValueError):
        return EMPTY_GIF
    image.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _data_url(image)


def _data_url(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, "WEBP", quality=THUMB_QUALITY, method=4)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"


def text(value: object, most: int = MAX_TEXT) -> str:
    """A value of a metadata row as text for the page; empty for None."""
    match value:
        case None:
            return ""
        case bytes():
            return f"{len(value):,} bytes"
        case str():
            shown = value
        case list() | dict():
            shown = json.dumps(value, ensure_ascii=False, default=str)
        case _:
            shown = str(value)
    return readable(shown if len(shown) <= most else shown[: most - 1] + "…")
