"""A page on ways of sampling: their figures, and pairs of pictures side by side.

Owns its looks; static, self-contained, safe for any prompt. Knows nothing of how anything was
measured: words and pictures come in.
"""

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from nightpress.pipelines.image_files.embedded_metadata import readable

Pixels = npt.NDArray[np.uint8]

LOSSLESS_SIDE = 256
"""Pictures up to so many pixels a side are shown to the bit."""

QUALITY, METHOD = 92, 4
"""Of WebP for larger ones, which would make the page very heavy."""


@dataclass(frozen=True)
class ShownPair:
    """A picture and its counterpart among the references."""

    place: int
    """Of both, among all images."""
    caption: str
    pixels: Pixels
    """(H, W, 3)."""


@dataclass(frozen=True)
class Row:
    """A way: its cells in the table, and some of its pictures."""

    cells: tuple[str, ...]
    tone: str = ""
    """`good`, `bad` or nothing."""
    pairs: tuple[ShownPair, ...] = ()


@dataclass(frozen=True)
class Page:
    """All that is shown."""

    title: str
    subtitle: str
    outcome: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    refused: tuple[str, ...]
    prompts: tuple[str, ...]
    """Of every image."""
    references: Pixels
    """(n, H, W, 3)."""


@dataclass(frozen=True)
class Picture:
    """A reference that is on the page once, and shown wherever it is needed."""

    id: str
    url: str


def render(page: Page) -> str:
    """The page as HTML."""
    places = sorted({pair.place for row in page.rows for pair in row.pairs})
    height, width = page.references.shape[1:3]
    loader = jinja2.PackageLoader("nightpress.pipelines.reporting")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("tuning.html.j2")
    return template.render(
        page=page,
        prompts=[readable(prompt) for prompt in page.prompts],
        width=width,
        height=height,
        references=[Picture(f"reference-{n}", data_url(page.references[n])) for n in places],
        data_url=data_url,
    )


def data_url(pixels: Pixels) -> str:
    """A picture as a URL that holds it."""
    image, file = Image.fromarray(pixels), BytesIO()
    if max(image.size) <= LOSSLESS_SIDE:
        image.save(file, "WEBP", lossless=True, method=METHOD)
    else:
        image.save(file, "WEBP", quality=QUALITY, method=METHOD)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"
