"""The sources of the built-in model's drawings and their names: npm packages, by name and version.

There are two drawings of every thing: Microsoft's Fluent 3D (MIT, WebP) and Google's Noto
(Apache-2.0, SVG), joined by Unicode code points with the labels and tags of emojibase (MIT).
"""

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

FLUENT_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
NOTO_PACKAGE = "@iconify-json/noto@1.2.9"
LABELS_PACKAGE = "emojibase-data@17.0.0"
NUM_PIXELS = 256
"""Side of a source drawing: that of the Fluent files; Noto is rendered at the same size."""
EXCLUDED_GROUPS = ("component", "flags")

Style = Literal["fluent-3d", "noto"]


@dataclass(frozen=True)
class Concept:
    """One thing: its code, its Unicode label, and the words that people search for it with."""

    hexcode: str
    label: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """One thing in one style; `render` returns it as RGBA, `NUM_PIXELS` a side."""

    concept: Concept
    style: Style
    render: Callable[[], Image.Image]


def download(package: str, cache: Path) -> Path:
    """Download `name@version` from the npm registry into `cache`, once; returns the tarball."""
    cache.mkdir(parents=True, exist_ok=True)
    stem, version = package.removeprefix("@").replace("/", "-").rsplit("@", 1)
    tarball = cache / f"{stem}-{version}.tgz"
    if not tarball.exists():
        subprocess.run(["npm", "pack", "--silent", package], cwd=cache, check=True)
    return tarball


def plain_hexcode(name: str) -> str:
    """`2764-FE0F` -> `2764`: the code without variation selectors, which all packages share."""
    return "-".join(part for part in name.lower().split("-") if part != "fe0f")


def read_concepts(labels: Path) -> list[Concept]:
    """The concepts of the labels package, without flags, skin tones and pictograms of families.

    Noto draws all families as the same black figures on a tile; Fluent draws people.
    """
    with tarfile.open(labels) as tar:
        emojis = _json(tar, "package/en/data.json")
        groups = _json(tar, "package/en/messages.json")["groups"]
    excluded = {group["order"] for group in groups if group["key"] in EXCLUDED_GROUPS}
    return [
        Concept(plain_hexcode(emoji["hexcode"]), emoji["label"], tuple(emoji.get("tags", ())))
        for emoji in emojis
        if emoji.get("group") not in excluded | {None} and not emoji["label"].startswith("family")
    ]


def read_fluent(tarball: Path) -> dict[str, bytes]:
    """The WebP files of the Fluent package, by code."""
    with tarfile.open(tarball) as tar:
        files = [name for name in tar.getnames() if name.endswith(".webp")]
        return {plain_hexcode(Path(name).stem): read_member(tar, name) for name in files}


def read_noto(tarball: Path) -> dict[str, str]:
    """The drawings of the Noto package as SVG documents, by code."""
    with tarfile.open(tarball) as tar:
        names = _json(tar, "package/chars.json")
        icons = _json(tar, "package/icons.json")
    bodies = {plain_hexcode(code): icons["icons"][name]["body"] for code, name in names.items()}
    width, height = icons["width"], icons["height"]
    return {
        code: '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{body}</svg>'
        for code, body in bodies.items()
    }


def read_drawings(cache: Path) -> list[Drawing]:
    """Every thing that both packages contain, in both styles, in Unicode's order."""
    fluent = read_fluent(download(FLUENT_PACKAGE, cache))
    noto = read_noto(download(NOTO_PACKAGE, cache))
    concepts = read_concepts(download(LABELS_PACKAGE, cache))
    drawings = []
    for concept in concepts:
        code = concept.hexcode
        if code in fluent and code in noto:
            drawings += [
                Drawing(concept, "fluent-3d", partial(decode_webp, fluent[code])),
                Drawing(concept, "noto", partial(render_svg, noto[code])),
            ]
    return drawings


def decode_webp(data: bytes) -> Image.Image:
    """Decode a WebP file to RGBA."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGBA")


def render_svg(svg: str) -> Image.Image:
    """Render to RGBA, `NUM_PIXELS` a side; equal on every machine, as no system fonts are used."""
    import resvg_py  # from the extra `recipe`; nothing else needs it

    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=NUM_PIXELS, height=NUM_PIXELS, skip_system_fonts=True
    )
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGBA")


def _json(tar: tarfile.TarFile, name: str) -> Any:
    return json.loads(read_member(tar, name))


def read_member(tar: tarfile.TarFile, name: str) -> bytes:
    """Read a file of a tar.

    Raises:
        FileNotFoundError: the member is a folder.
    """
    handle = tar.extractfile(name)
    if handle is None:
        raise FileNotFoundError(f"{name} is not a file in {tar.name!r}")
    with handle:
        return handle.read()
