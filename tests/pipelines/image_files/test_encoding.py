"""Image files: facts and pixels come back, in every format and for every prompt."""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import ExifTags, Image
from support.cat_facts import CAT as FACTS

from nightpress.pipelines.image_files.embedded_metadata import (
    AI_GENERATED,
    DIGEST_MARK,
    parameters_text,
)
from nightpress.pipelines.image_files.encoding import decoded, encode, is_whole, opened, read_facts
from nightpress.pipelines.job.images_section import ImagesSpec

FORMATS = ("png", "webp", "jpeg")


PROMPTS = {
    "latin-1": "café, naïve façade",
    "unicode": "猫 und 🐈‍⬛ в шляпе \u202eright to left",
    "newlines": "first\nsecond\r\nthird\rfourth\u2028fifth\x85",
    "control": "nul \x00 bell \x07 escape \x1b del \x7f not a character \uffff",
    "markup": '</rdf:li>]]><?xpacket end="w"?><!-- & "quoted" -->',
    "blank": "  spaces at both ends  ",
    "10,000 letters": "a" * 10_000,
    "10,000 emoji": "🐈" * 10_000,
    "300,000 letters": "ab " * 100_000,
}


def picture(height: int = 32, width: int = 48) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 5 % 256, y * 7 % 256, (x + y) * 3 % 256], axis=-1).astype(np.uint8)


def chunks(png: bytes) -> Iterator[tuple[str, bytes]]:
    place = 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        yield png[place + 4 : place + 8].decode(), png[place + 8 : place + 8 + length]
        place += length + 12


def app1_segments(jpeg: bytes) -> list[bytes]:
    image = Image.open(BytesIO(jpeg))
    return [content for name, content in image.applist if name == "APP1"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", PROMPTS)
def test_the_facts_come_back_from_every_format_whatever_the_prompt(kind: str, name: str) -> None:
    facts = replace(FACTS, prompt=PROMPTS[name], negative_prompt=PROMPTS[name][::-1])
    data = encode(picture(), facts, ImagesSpec(format=kind))
    assert read_facts(data) == facts
    Image.open(BytesIO(data)).load()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_image_is_the_same_bytes(kind: str) -> None:
    spec = ImagesSpec(format=kind)
    assert encode(picture(), FACTS, spec) == encode(picture().copy(), replace(FACTS), spec)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_png_and_webp_are_lossless(kind: str) -> None:
    data = encode(picture(), FACTS, ImagesSpec(format=kind))
    assert np.array_equal(np.asarray(Image.open(BytesIO(data)).convert("RGB")), picture())


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_a_lower_quality_makes_a_smaller_file(kind: str) -> None:
    large, small = (
        encode(picture(256, 256), FACTS, ImagesSpec(format=kind, quality=quality))
        for quality in (95, 30)
    )
    assert len(small) < len(large)


def test_jpeg_has_quality_95_and_full_colour_resolution_by_default() -> None:
    unset = encode(picture(), FACTS, ImagesSpec(format="jpeg"))
    assert unset == encode(picture(), FACTS, ImagesSpec(format="jpeg", quality=95))
    assert all(layer[1:3] == (1, 1) for layer in Image.open(BytesIO(unset)).layer)


def test_webp_with_a_quality_is_lossy() -> None:
    data = encode(picture(), FACTS, ImagesSpec(format="webp", quality=100))
    assert b"VP8L" not in data
    assert b"VP8L" in encode(picture(), FACTS, ImagesSpec(format="webp"))


def test_a_png_has_the_three_texts_before_its_pixels() -> None:
    names = []
    for name, content in chunks(encode(picture(), FACTS, ImagesSpec())):
        if name == "IDAT":
            break
        if name in ("tEXt", "iTXt"):
            names.append(content.partition(b"\0")[0].decode())
    assert names == ["parameters", "nightpress", "XML:com.adobe.xmp"]


def test_no_text_of_a_png_holds_a_zero_byte() -> None:
    facts = replace(FACTS, prompt=PROMPTS["control"])
    for name, content in chunks(encode(picture(), facts, ImagesSpec())):
        if name == "iTXt":
            assert content.split(b"\0", 5)[1:3] == [b"", b""]
            assert b"\0" not in content.split(b"\0", 5)[5]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_xmp_of_every_format_says_that_a_model_made_it(kind: str) -> None:
    image = Image.open(BytesIO(encode(picture(), FACTS, ImagesSpec(format=kind))))
    root = ElementTree.fromstring(image.info["xmp"])
    place = ".//{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert root.findtext(place) == AI_GENERATED


@pytest.mark.parametrize("prompt", ["a cat", "ein Kätzchen, 猫 🐈"])
def test_the_parameters_are_where_readers_look(prompt: str) -> None:
    facts = replace(FACTS, prompt=prompt)
    png = Image.open(BytesIO(encode(picture(), facts, ImagesSpec())))
    assert png.info["parameters"] == parameters_text(facts)
    for kind in ("webp", "jpeg"):
        image = Image.open(BytesIO(encode(picture(), facts, ImagesSpec(format=kind))))
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert comment[:8] == b"UNICODE\0"
        assert comment[8:].decode("utf-16-be") == parameters_text(facts)


def test_a_short_prompt_is_one_xmp_segment_and_a_long_one_is_extended() -> None:
    short = app1_segments(encode(picture(), FACTS, ImagesSpec(format="jpeg")))
    assert [b"xap/1.0" in segment[:40] for segment in short] == [False, True]

    facts = replace(FACTS, prompt=PROMPTS["300,000 letters"])
    main, *pieces = app1_segments(encode(picture(), facts, ImagesSpec(format="jpeg")))
    guids = {piece.split(b"\0", 1)[1][:32] for piece in pieces}
    assert len(pieces) > 10
    assert len(guids) == 1
    assert b"<xmpNote:HasExtendedXMP>" + guids.pop() in main


def test_long_extensions_are_read_in_the_order_of_their_offsets() -> None:
    facts = replace(FACTS, prompt=PROMPTS["300,000 letters"])
    data = encode(picture(), facts, ImagesSpec(format="jpeg"))
    segments = [s for s in app1_segments(data) if s.startswith(b"http://ns.adobe.com/xmp/ext")]
    framed = [struct.pack(">HH", 0xFFE1, len(s) + 2) + s for s in segments]
    assert b"".join(framed) in data
    shuffled = data.replace(b"".join(framed), b"".join(reversed(framed)))
    assert read_facts(shuffled) == facts


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_of_another_program_has_no_facts(kind: str) -> None:
    file = BytesIO()
    Image.fromarray(picture()).save(file, kind, xmp=b"<x/>")
    assert read_facts(file.getvalue()) is None


@pytest.mark.parametrize(
    "data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\0" * 99]
)
def test_other_files_have_no_facts(data: bytes) -> None:
    assert read_facts(data) is None


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_short_anywhere_never_raises(kind: str) -> None:
    data = encode(picture(), FACTS, ImagesSpec(format=kind))
    for length in range(0, len(data), 37):
        assert read_facts(data[:length]) in (None, FACTS)


WRITTEN = [("png", None), ("webp", None), ("webp", 80), ("jpeg", None)]


@pytest.mark.parametrize(("kind", "quality"), WRITTEN)
def test_a_flipped_bit_anywhere_in_a_file_is_noticed(kind: str, quality: int | None) -> None:
    data = encode(picture(), FACTS, ImagesSpec(format=kind, quality=quality))
    assert is_whole(data)
    flipped = bytearray(data)
    for place in range(len(data)):
        for bit in range(8):
            flipped[place] ^= 1 << bit
            assert not is_whole(bytes(flipped)), (place, bit)
            flipped[place] ^= 1 << bit


@pytest.mark.parametrize(("kind", "quality"), WRITTEN)
def test_a_file_that_was_cut_or_extended_is_noticed(kind: str, quality: int | None) -> None:
    data = encode(picture(), FACTS, ImagesSpec(format=kind, quality=quality))
    assert not any(is_whole(data[:length]) for length in range(len(data)))
    assert not is_whole(data + b"\0")
    assert not is_whole(b"")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", PROMPTS)
def test_every_file_is_whole_as_it_is_written(kind: str, name: str) -> None:
    facts = replace(FACTS, prompt=PROMPTS[name])
    assert is_whole(encode(picture(), facts, ImagesSpec(format=kind)))


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_a_prompt_that_looks_like_a_digest_is_not_taken_for_one(kind: str) -> None:
    """In EXIF, as UTF-16, a prompt can hold the very bytes."""
    mark = DIGEST_MARK if len(DIGEST_MARK) % 2 == 0 else DIGEST_MARK + b"0"
    prompt = (mark + b"0" * 64).decode("utf-16-be") + DIGEST_MARK.decode() + "0" * 64
    facts = replace(FACTS, prompt=prompt)
    data = encode(picture(), facts, ImagesSpec(format=kind))
    assert data.count(DIGEST_MARK) == 2
    assert is_whole(data)
    assert read_facts(data) == facts


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_the_digest_of_a_file_is_an_attribute_of_its_xmp(kind: str) -> None:
    data = encode(picture(), FACTS, ImagesSpec(format=kind))
    (description,) = ElementTree.fromstring(Image.open(BytesIO(data)).info["xmp"]).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    digest = description.get("{urn:nightpress:1.0#}sha256")
    assert digest is not None
    blank = data.replace(digest.encode(), b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == digest


def test_a_file_of_another_program_is_not_known_to_be_whole() -> None:
    for kind in ("webp", "jpeg"):
        file = BytesIO()
        Image.fromarray(picture()).save(file, kind)
        assert not is_whole(file.getvalue())


def huge_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A few bytes that say they are more pixels than memory holds."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(b"\0")
    framed = [
        struct.pack(">I", len(chunk) - 4) + chunk + zlib.crc32(chunk).to_bytes(4)
        for chunk in (header, pixels, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_an_image_that_would_fill_memory_is_not_opened() -> None:
    assert read_facts(huge_png()) is None
    with pytest.raises(ValueError, match="more pixels than any image should"):
        opened(huge_png())


@pytest.mark.parametrize("size", [(16_384, 5_456), (9_456, 9_456)])
def test_images_at_the_limit_open_without_a_warning(size: tuple[int, int]) -> None:
    file = BytesIO()
    Image.new("1", size).save(file, "PNG")  # a bit for each pixel, so that this is quick
    assert decoded(file.getvalue()).size == size
