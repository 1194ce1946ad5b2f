"""Reads how an image was made from a file: an image, a text of parameters, or a graph."""

import contextlib
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import ExifTags, Image

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.embedded_metadata import SealedFacts
from nightpress.pipelines.image_files.encoding import BROKEN, decoded, opened, read_embedded
from nightpress.pipelines.image_files.importing.a1111 import made_by_a1111
from nightpress.pipelines.image_files.importing.comfyui import made_by_comfyui
from nightpress.pipelines.image_files.importing.made_image import (
    MadeImage,
    UnreadableImage,
    shortened,
)
from nightpress.pipelines.image_files.importing.own_images import made_by_nightpress
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.records import ImageFacts

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TEXT_SUFFIXES = (".txt",)
GRAPH_SUFFIXES = (".json",)
SUFFIXES = (*IMAGE_SUFFIXES, *TEXT_SUFFIXES, *GRAPH_SUFFIXES)
"""The files that can say how an image was made."""

MAX_FILE_BYTES = 256 * 2**20
MAX_TEXT_BYTES = 16 * 2**20
"""The largest image, and the largest text or graph, that is read."""

NOTHING = "it has no metadata of A1111, ComfyUI or nightpress"


@dataclass(frozen=True)
class _Texts:
    """The texts in an image file that programs write."""

    parameters: str | None = None
    graph: str | None = None
    editor_graph: str | None = None
    others: tuple[str, ...] = ()
    """Names of other texts."""


def max_bytes(url: str) -> int:
    """The most bytes that a file may have, by its suffix."""
    return MAX_FILE_BYTES if url.lower().endswith(IMAGE_SUFFIXES) else MAX_TEXT_BYTES


def read_made_image(url: str, data: bytes) -> MadeImage:
    """How an image was made, by its own file or by a text.

    Args:
        url: URL of the file; its suffix is one of `SUFFIXES`.
        data: its bytes.

    Raises:
        UnreadableImage: it does not say so.
    """
    name = url.lower()
    if name.endswith(TEXT_SUFFIXES):
        made = made_by_a1111(url, _decoded(data))
    elif name.endswith(GRAPH_SUFFIXES):
        made = made_by_comfyui(url, _decoded(data))
    else:
        made = _of_image(url, data)
    made.drop_unsound()
    _drop_bad_model(made)
    return made


def _drop_bad_model(made: MadeImage) -> None:
    """Leave out the name of a model that no job can have, such as one of 10,000 letters."""
    if made.model is None:
        known = f"; its hash is {shortened(made.model_hash)}" if made.model_hash else ""
        made.leave_out("model", f"the image does not name it; set model in the job{known}")
        return
    try:
        RunSpec.from_dict({"name": "a", "manifest": "a", "output": "a", "model": made.model})
    except SpecError:
        made.leave_out("model", f"no job can have the name {shortened(made.model)[:60]!r}")
        made.model = None


def _of_image(url: str, data: bytes) -> MadeImage:
    embedded = read_embedded(data)
    if isinstance(embedded, ImageFacts):
        try:
            return made_by_nightpress(url, embedded)
        except (SpecError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"its facts of nightpress are damaged: {one_line(error, 200)}"
            raise UnreadableImage(reason) from error
    try:
        with opened(data) as image:
            size, texts = image.size, _texts(image)
            if texts.parameters is texts.graph is texts.editor_graph is None:
                texts = _texts_behind_pixels(data)
    except ValueError as error:
        raise UnreadableImage(one_line(error)) from error
    if isinstance(embedded, SealedFacts):
        raise UnreadableImage(
            "its facts are sealed (provenance.embed: minimal); nightpress inspect --run finds it"
        )
    return _checked(_of_texts(url, texts), size)


def _of_texts(url: str, texts: _Texts) -> MadeImage:
    graph = texts.graph or texts.editor_graph
    if texts.parameters is not None:
        try:
            made = made_by_a1111(url, texts.parameters)
        except UnreadableImage:
            if graph is None:
                raise
        else:
            if graph is not None:
                made.differs("source", "its parameters are read, not its graph of ComfyUI")
            return made
    if graph is not None:
        return made_by_comfyui(url, graph)
    others = f"; it has: {', '.join(texts.others)}" if texts.others else ""
    raise UnreadableImage(f"{NOTHING}{others}")


def _checked(made: MadeImage, size: tuple[int, int]) -> MadeImage:
    """The image, after a comparison of its size with that of the row."""
    width, height = made.settings.get("width"), made.settings.get("height")
    if not width or not height:
        if not made.passes:
            made.settings |= {"width": size[0], "height": size[1]}
        return made
    for each in made.passes:
        width, height = width * each.scale, height * each.scale
    row = math.floor(width + 0.5), math.floor(height + 0.5)
    if any(abs(a - b) > 8 for a, b in zip(row, size, strict=True)):
        detail = f"the image has {size[0]} x {size[1]} pixels, that of the row {row[0]} x {row[1]}"
        made.differs("size", detail)
    return made


def _texts(image: Image.Image) -> _Texts:
    """The texts of an opened image: PNG's chunks, and EXIF."""
    chunks = {str(name): text for name, text in image.info.items() if isinstance(text, str)}
    chunks |= dict(_exif_texts(image))
    known = ("parameters", "prompt", "workflow")
    return _Texts(
        parameters=chunks.get("parameters"),
        graph=chunks.get("prompt"),
        editor_graph=chunks.get("workflow"),
        others=tuple(sorted(name for name in chunks if name not in known)),
    )


def _texts_behind_pixels(data: bytes) -> _Texts:
    """The texts of an image, with those that a PNG file has behind its pixels."""
    with decoded(data) as image:
        return _texts(image)


def _exif_texts(image: Image.Image) -> Iterator[tuple[str, str]]:
    """A1111's user comment, and the fields in which ComfyUI stores graphs in WebP files."""
    with contextlib.suppress(*BROKEN, ValueError, KeyError, struct.error):
        exif = image.getexif()
        comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        text = _comment(comment) if comment else ""
        if text.strip():
            yield "parameters", text
        for value in exif.values():
            if isinstance(value, str):
                name, colon, graph = value.partition(":")
                if colon and name.strip().lower() in ("prompt", "workflow"):
                    yield name.strip().lower(), graph.strip().rstrip("\0")


def _comment(comment: bytes | str) -> str:
    """An EXIF user comment: 8 bytes that name its encoding, then the text."""
    if isinstance(comment, str):
        return comment
    text = comment[8:]
    if not comment.startswith(b"UNICODE"):
        body = text if comment[:8] in (b"ASCII\0\0\0", bytes(8)) else comment
        return body.decode("utf-8", "replace").strip("\0")
    order = "utf-16-le" if text[1::2].count(0) > text[::2].count(0) else "utf-16-be"
    return text.decode(order, "replace").strip("\0\ufeff")


def _decoded(data: bytes) -> str:
    """A text in UTF-8 or, with a mark, UTF-16.

    Raises:
        UnreadableImage: it is in neither.
    """
    is_utf16 = re.match(rb"\xff\xfe|\xfe\xff", data) is not None
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableImage(f"it is not a text in UTF-8: {one_line(error)}") from error
