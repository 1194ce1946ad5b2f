"""Build the picture set of the built-in model: two npm packages in, a captioned image folder out.

::

    python -m diffusion_core.builtin.dataset --out build/pictures

`--out` receives one PNG a concept and `captions.jsonl` with a row for each: file, label, tags,
hexcode. Packages are named with their versions, so the set is the same wherever it is built.
"""

import argparse
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from diffusion_core.builtin.concepts import LEFT_OUT, SINGLES, SUBGROUPS

PICTURES_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
"""Microsoft's Fluent emoji, 3D style, 256 x 256 with transparency; MIT."""
LABELS_PACKAGE = "emojibase-data@17.0.0"
"""Unicode labels, tags and subgroups in English; MIT."""


@dataclass(frozen=True)
class Concept:
    """One thing with a picture: what Unicode calls it and the words people look for it with."""

    file: str
    label: str
    tags: tuple[str, ...]
    hexcode: str


def download(package: str, cache: Path) -> Path:
    """Fetch `name@version` from the npm registry; returns the tarball, kept in `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    stem, version = package.removeprefix("@").replace("/", "-").rsplit("@", 1)
    tarball = cache / f"{stem}-{version}.tgz"
    if not tarball.exists():
        subprocess.run(["npm", "pack", "--silent", package], cwd=cache, check=True)
    return tarball


def plain_hexcode(name: str) -> str:
    """`2764-FE0F` -> `2764`: the code without variation selectors, the key both packages share."""
    return "-".join(part for part in name.lower().split("-") if part != "fe0f")


def is_taught(label: str, subgroup: str) -> bool:
    """Whether `concepts` chooses this thing."""
    return label in SINGLES or (subgroup in SUBGROUPS and label not in LEFT_OUT)


def read_labels(tarball: Path) -> list[dict[str, Any]]:
    """Every emoji of the labels package, with `subgroup` turned from a number into its name."""
    with tarfile.open(tarball) as tar:
        emojis = json.loads(_member(tar, "package/en/data.json"))
        messages = json.loads(_member(tar, "package/en/messages.json"))
    names = {group["order"]: group["key"] for group in messages["subgroups"]}
    return [{**emoji, "subgroup": names.get(emoji.get("subgroup"), "")} for emoji in emojis]


def concepts(pictures: Path, labels: Path) -> Iterator[tuple[Concept, Image.Image]]:
    """Each chosen concept with its picture, RGBA and as large as the package has it."""
    with tarfile.open(pictures) as tar:
        files = {
            plain_hexcode(Path(name).stem): name
            for name in tar.getnames()
            if name.endswith(".webp")
        }
        for emoji in read_labels(labels):
            code = plain_hexcode(emoji["hexcode"])
            if code in files and is_taught(emoji["label"], emoji["subgroup"]):
                image = Image.open(io.BytesIO(_member(tar, files[code]))).convert("RGBA")
                label, tags = emoji["label"], tuple(emoji.get("tags", ()))
                yield Concept(f"{code}.png", label, tags, code), image


def on_background(image: Image.Image, size: int, colour: str = "white") -> Image.Image:
    """Lay an RGBA picture on a plain colour and bring it to `size` x `size` pixels."""
    backed = Image.new("RGBA", image.size, colour)
    backed.alpha_composite(image)
    return backed.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def build(out: Path, cache: Path, size: int = 128) -> int:
    """Write the image folder; returns how many pictures it holds."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for concept, image in concepts(
        download(PICTURES_PACKAGE, cache), download(LABELS_PACKAGE, cache)
    ):
        on_background(image, size).save(out / concept.file)
        rows.append(json.dumps(asdict(concept), ensure_ascii=False))
    (out / "captions.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return len(rows)


def read_concepts(folder: Path) -> list[Concept]:
    """The rows of a built folder's `captions.jsonl`."""
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Concept(row["file"], row["label"], tuple(row["tags"]), row["hexcode"]) for row in rows]


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    handle = tar.extractfile(name)
    if handle is None:
        raise FileNotFoundError(f"{name} is no file in {tar.name!r}")
    with handle:
        return handle.read()


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and captions")
    parser.add_argument("--cache", type=Path, default=Path("build/npm"), help="where tarballs stay")
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    arguments = parser.parse_args()
    count = build(arguments.out, arguments.cache, arguments.size)
    print(f"{count} pictures of {arguments.size} x {arguments.size} in {arguments.out}")


if __name__ == "__main__":
    main()
