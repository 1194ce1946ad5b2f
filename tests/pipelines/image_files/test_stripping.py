"""Files without what their metadata tells: the same pixels, and the marking as made by a model."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.made_runs import FACTS

from nightpress.pipelines.image_files.embedded_metadata import AI_GENERATED
from nightpress.pipelines.image_files.encoding import decoded, encode, read_facts
from nightpress.pipelines.image_files.stripping import MARKING, stripped, without_facts
from nightpress.pipelines.job.images_section import ImagesSpec

FORMATS = [
    ImagesSpec(format="png"),
    ImagesSpec(format="jpeg", file_name="{image_id}.jpg"),
    ImagesSpec(format="webp", file_name="{image_id}.webp"),
    ImagesSpec(format="webp", quality=80, file_name="{image_id}.webp"),
]
SECRET = "a secret campaign prompt"
PIXELS = np.random.default_rng(3).integers(0, 256, (24, 40, 3), np.uint8)


def file_of(images: ImagesSpec, prompt: str = SECRET) -> bytes:
    facts = replace(FACTS, prompt=prompt, model="s3://secret/model", image_id="1_00")
    return encode(PIXELS, facts, images)


@pytest.mark.parametrize("images", FORMATS, ids=str)
def test_nothing_stays_but_the_pixels_and_the_marking(images: ImagesSpec) -> None:
    data = file_of(images)
    assert read_facts(data) is not None
    bare = without_facts(data)
    assert read_facts(bare) is None
    for secret in (SECRET, "s3://secret", "euler", FACTS.model_fingerprint):
        assert secret.encode() not in bare
        assert secret.encode("utf-16-be") not in bare
    assert np.array_equal(np.asarray(decoded(bare)), np.asarray(decoded(data)))
    with Image.open(io.BytesIO(bare)) as image:
        image.load()
        xmp = image.info["XML:com.adobe.xmp" if images.format == "png" else "xmp"]
        assert AI_GENERATED in str(xmp)
        assert not image.getexif()


@pytest.mark.parametrize("images", FORMATS, ids=str)
def test_stripping_again_changes_nothing(images: ImagesSpec) -> None:
    once = stripped(file_of(images), MARKING)
    assert stripped(once, MARKING) == once
    assert without_facts(once) == once


@settings(max_examples=25)
@given(st.text(max_size=300), st.sampled_from(FORMATS))
def test_files_of_other_prompts_become_the_same_file(prompt: str, images: ImagesSpec) -> None:
    assert without_facts(file_of(images, prompt)) == without_facts(file_of(images))


@pytest.mark.parametrize("images", FORMATS[1:2], ids=str)
def test_a_long_prompt_in_several_segments_goes_too(images: ImagesSpec) -> None:
    bare = without_facts(file_of(images, SECRET * 5_000))
    assert SECRET.encode() not in bare
    assert bare == without_facts(file_of(images))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_colour_profile_stays(kind: str) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    options: dict[str, Any] = {"comment": b"secret"} if kind == "JPEG" else {"exif": b"Exif\0\0"}
    Image.fromarray(PIXELS).save(file, kind, icc_profile=profile, **options)
    with Image.open(io.BytesIO(stripped(file.getvalue()))) as image:
        image.load()
        assert image.info["icc_profile"] == profile
        assert "comment" not in image.info


@pytest.mark.parametrize("images", FORMATS, ids=str)
def test_a_file_that_is_cut_is_refused(images: ImagesSpec) -> None:
    data = file_of(images)
    for length in (4, 30, len(data) // 3):
        with pytest.raises(ValueError, match=r"ends early|not a PNG|not a JPEG"):
            stripped(data[:length])
    with pytest.raises(ValueError, match="not a PNG, WebP or JPEG file"):
        stripped(b"GIF89a")
