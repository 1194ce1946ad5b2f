"""`nightpress reproduce` refuses unusable images in one line, before any work."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.cat_facts import CAT

from nightpress.jobs.cli import command
from nightpress.pipelines.image_files.embedded_metadata import facts_json
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.records import ImageFacts

FACTS = replace(CAT, num_inference_steps=2, guidance_scale=3.0, batch_size=1)


def reproduce(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["reproduce", *arguments])


def refusal(result: Result) -> str:
    """The one-line error of a command."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def image_file(folder: Path, facts: ImageFacts = FACTS) -> Path:
    path = folder / "image.png"
    path.write_bytes(encode(np.zeros((32, 48, 3), np.uint8), facts, ImagesSpec()))
    return path


def chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + zlib.crc32(body).to_bytes(4)


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    facts = b"nightpress\0\0\0\0\0" + facts_json(FACTS).encode()
    chunks = (b"IHDR", header), (b"iTXt", facts), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def text_bomb() -> bytes:
    file, text = BytesIO(), PngInfo()
    text.add_itxt("nightpress", " " * 80_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=text)
    return file.getvalue()


def of_another_size() -> bytes:
    pixels = np.zeros((32, 48, 3), np.uint8)
    return encode(pixels, replace(FACTS, width=4096, height=4096), ImagesSpec())


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (bomb, "more pixels than any image should have"),
        (text_bomb, "invalid image: Decompressed data too large"),
        (of_another_size, "48 x 32 pixels, but its embedded metadata says 4096 x 4096"),
        (lambda: b"GIF89a" + bytes(99), "not a PNG, WebP, JPEG or MP4 file"),
    ],
    ids=["bomb", "text bomb", "another size", "another format"],
)
def test_a_hostile_image_is_refused_in_one_line(
    tmp_path: Path, hostile: Callable[[], bytes], words: str
) -> None:
    path = tmp_path / "hostile.png"
    path.write_bytes(hostile())
    assert words in refusal(reproduce(str(path)))


def test_an_out_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    out = tmp_path / "missing" / "x.png"
    line = refusal(reproduce(str(tmp_path / "none.png"), "--out", str(out)))
    assert line == f"error: --out {out}: {out.parent} is not a folder"


def test_a_writable_out_is_accepted_before_the_image_is_read(tmp_path: Path) -> None:
    image = image_file(tmp_path)
    result = reproduce(str(image), "--out", str(tmp_path / "x.png"))
    assert result.exit_code == 2
    assert "builtin: its fingerprint is" in result.stderr
    assert not (tmp_path / "x.png").exists()
