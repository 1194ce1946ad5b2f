"""Copies for clients: nothing of what made the image, the same pixels, and what was asked for."""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.cat_facts import CAT

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.client_copies import CopySpec, PixelSpec, Rating, require_room
from nightpress.pipelines.image_files.content_credentials.parts import split
from nightpress.pipelines.image_files.encoding import decoded, encode, read_embedded
from nightpress.pipelines.image_files.file_report import read_report
from nightpress.pipelines.image_files.stripping import stripped
from nightpress.pipelines.job.images_section import ImagesSpec

FORMS = [
    ImagesSpec(format="png"),
    ImagesSpec(format="jpeg"),
    ImagesSpec(format="jpeg", quality=40),
    ImagesSpec(format="webp"),
    ImagesSpec(format="webp", quality=60),
]


def masters(images: ImagesSpec) -> Iterator[bytes]:
    y, x = np.mgrid[0:72, 0:120]
    pixels = np.stack([x * 2, y * 3, x + y], axis=-1).astype(np.uint8)
    for embed in ("full", "minimal", "none"):
        yield encode(pixels, CAT, images, embed)  # type: ignore[arg-type]


def properties(data: bytes) -> bytes:
    with Image.open(BytesIO(data)) as image:
        return image.info.get("xmp", b"")


@pytest.mark.parametrize("images", FORMS, ids=str)
def test_a_copy_has_the_pixels_and_none_of_the_facts(images: ImagesSpec) -> None:
    spec = CopySpec(creator="Ada <&> Co", rights="© Studio", credit="Studio / Ada")
    for master in masters(images):
        copy = spec.copy_of(master, images)
        assert np.array_equal(decoded(copy), decoded(master))
        assert read_embedded(copy) is None
        for word in (b"cat", b"nightpress", b"seed", CAT.model.encode(), b"Exif"):
            assert word not in copy
        report = read_report(copy)
        assert report.digital_source_type is not None
        assert report.digital_source_type.endswith("/trainedAlgorithmicMedia")
        for text in ("Ada &lt;&amp;&gt; Co", "© Studio", "Studio / Ada"):
            assert text.encode() in properties(copy)
        assert spec.copy_of(master, images) == copy
        assert spec.copy_of(copy, images) == copy


@pytest.mark.parametrize("images", FORMS, ids=str)
def test_a_copy_without_metadata_has_pixels_only(images: ImagesSpec) -> None:
    copies = {CopySpec(embed="none").copy_of(master, images) for master in masters(images)}
    for copy in copies:
        assert properties(copy) == b""
        assert split(copy) is None
        assert b"xmp" not in copy.lower()
        assert decoded(copy).size == (120, 72)


@pytest.mark.parametrize("images", FORMS, ids=str)
def test_a_label_is_drawn_into_its_corner_and_nowhere_else(images: ImagesSpec) -> None:
    for master in masters(images):
        copy = CopySpec(label="AI-generated").copy_of(master, images)
        before, after = (np.asarray(decoded(data).convert("RGB"), int) for data in (master, copy))
        difference = np.abs(before - after).max(axis=-1)
        assert difference[-12:, :60].max() > 100
        if images.quality is None and images.format != "jpeg":
            assert not difference[:40].any()
            assert not difference[:, 110:].any()


@settings(max_examples=30, deadline=None)
@given(packet=st.none() | st.binary(min_size=1, max_size=300))
def test_stripping_twice_is_stripping_once(packet: bytes | None) -> None:
    for images in (FORMS[0], FORMS[1], FORMS[3]):
        for master in masters(images):
            once = stripped(master, packet)
            assert stripped(once, packet) == once
            assert np.array_equal(decoded(once), decoded(master))


@pytest.mark.parametrize("images", FORMS[::2], ids=str)
def test_files_that_end_early_are_refused_or_stay_cut(images: ImagesSpec) -> None:
    for master in masters(images):
        for length in range(0, len(master), 41):
            try:
                stripped(master[:length])
            except ValueError:
                continue
    with pytest.raises(ValueError, match="not a PNG, WebP or JPEG file"):
        stripped(b"hello")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (CopySpec(embed="none", rights="x"), "rights: embed none leaves out all metadata"),
        (CopySpec(creator=" "), "creator: must have 1 to 1,000 characters"),
        (CopySpec(credit="x" * 1001), "credit: must have 1 to 1,000 characters"),
        (CopySpec(rights="a\x00b"), "rights: 'a\\x00b' has characters that XML cannot hold"),
        (CopySpec(label="KI-erzeugt: Bär"), "label: "),
        (CopySpec(label=""), "label: "),
    ],
)
def test_texts_that_cannot_be_embedded_or_drawn_are_refused(spec: CopySpec, reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.check()
    assert str(caught.value).startswith(reason)


def test_a_label_that_does_not_fit_is_refused() -> None:
    require_room("AI", (120, 72))
    with pytest.raises(SpecError, match="there are images of 120 x 72"):
        require_room("made by an AI model, " * 3, (120, 72))


@pytest.mark.parametrize("images", FORMS, ids=str)
@pytest.mark.parametrize("pixels", [PixelSpec(), PixelSpec(60), PixelSpec(None, "webp", 70)])
def test_other_programs_read_the_rating_of_a_copy(images: ImagesSpec, pixels: PixelSpec) -> None:
    for master in masters(images):
        copy = pixels.copy_of(master, images, Rating(3, "pick", "blue"))
        packet = properties(copy)
        for text in (b"<xmp:Rating>3<", b"<xmp:Label>Blue<", b"<xmpDM:pick>1<"):
            assert text in packet
        assert b"trainedAlgorithmicMedia" in packet
        assert read_embedded(copy) is None
        with decoded(copy) as image:
            assert image.size == ((60, 36) if pixels.resize else (120, 72))
            assert str(image.format).lower() == (pixels.format or images.format)
        if pixels == PixelSpec():
            assert decoded(copy).tobytes() == decoded(master).tobytes()


def test_a_rejected_copy_is_rated_as_xmp_says() -> None:
    assert Rating(4, "reject").properties == [("xmp:Rating", "-1"), ("xmpDM:pick", "-1")]
    assert Rating().properties == []


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (PixelSpec(0), "resize: 0 is not 1 pixel"),
        (PixelSpec(quality=0), "quality: 0 is not a number"),
        (PixelSpec(quality=80), "a PNG file has none"),
        (PixelSpec(format="png", quality=80), "a PNG file has none"),
    ],
)
def test_copies_that_cannot_be_made_are_refused(pixels: PixelSpec, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        pixels.check(ImagesSpec())
