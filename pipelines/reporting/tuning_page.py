"""The HTML page of a tuning: a table of configurations, and pairs of images side by side.

The page is static and self-contained, and prompts are escaped.
"""

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from nightpress.pipelines.image_files.embedded_metadata import readable

ImageArray = npt.NDArray[np.uint8]
"""(H, W, 3)."""

LOSSLESS_SIDE = 256
"""Images up to this side, in pixels, are embedded losslessly."""

QUALITY, METHOD = 92, 4
"""WebP settings; lossless files of larger images would make the page too large."""


@dataclass(frozen=True)
class PairView:
    """An image, shown beside the reference image at the same index."""

    index: int
    """Position among `Page.references` and `Page.prompts`."""
    caption: str
    pixels: ImageArray


@dataclass(frozen=True)
class Row:
    """One configuration: its cells in the table, and some of its images."""

    cells: tuple[str, ...]
    tone: str = ""
    """`good`, `bad` or empty."""
    pairs: tuple[PairView, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything that the page shows."""

    title: str
    subtitle: str
    outcome: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    refused: tuple[str, ...]
    prompts: tuple[str, ...]
    """One for each reference."""
    references: ImageArray
    """(n, H, W, 3)."""


@dataclass(frozen=True)
class ReferenceImage:
    """A reference that is embedded once and shown in several places."""

    id: str
    url: str


def render(page: Page) -> str:
    """The page as HTML."""
    indices = sorted({pair.index for row in page.rows for pair in row.pairs})
    height, width = page.references.shape[1:3]
    loader = jinja2.PackageLoader("nightpress.pipelines.reporting")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("tuning.html.j2")
    return template.render(
        page=page,
        prompts=[readable(prompt) for prompt in page.prompts],
        width=width,
        height=height,
        references=[
            ReferenceImage(f"reference-{index}", data_url(page.references[index]))
            for index in indices
        ],
        data_url=data_url,
    )


def data_url(pixels: ImageArray) -> str:
    """An image as a `data:` URL."""
    image, file = Image.fromarray(pixels), BytesIO()
    if max(image.size) <= LOSSLESS_SIDE:
        image.save(file, "WEBP", lossless=True, method=METHOD)
    else:
        image.save(file, "WEBP", quality=QUALITY, method=METHOD)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"
