"""The media types sent to object stores."""

import pytest

from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.storage.drivers import StoreLocation


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("report.html", "text/html; charset=utf-8"),
        ("run.json", "application/json"),
        ("images/a.b/cat.JPG", "image/jpeg"),
        ("metadata/shard-00000.parquet", "application/vnd.apache.parquet"),
    ],
)
def test_objects_are_written_with_their_media_type(path: str, media_type: str) -> None:
    assert StoreLocation("s3://press/runs", {}).write_options(path) == {"ContentType": media_type}


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg", "mp4"])
def test_every_image_format_has_a_media_type(image_format: str) -> None:
    kind = "video" if image_format == "mp4" else "image"
    name = f"images/cat.{ImagesSpec.model_validate({'format': image_format}).suffix}"
    options = StoreLocation("s3a://press/runs", {}).write_options(name)
    assert options == {"ContentType": f"{kind}/{image_format}"}


@pytest.mark.parametrize(
    ("url", "path"), [("s3://press", "plan/part"), ("memory://press", "a.png")]
)
def test_no_media_type_is_sent_if_unknown_or_not_stored(url: str, path: str) -> None:
    assert StoreLocation(url, {}).write_options(path) == {}
