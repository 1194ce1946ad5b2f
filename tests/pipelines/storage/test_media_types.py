"""The media types that object stores are told."""

import pytest

from nightpress.pipelines.job.sections import ImagesSpec
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
def test_a_browser_is_told_what_an_object_is(path: str, media_type: str) -> None:
    assert StoreLocation("s3://press/runs", {}).write_options(path) == {"ContentType": media_type}


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_every_image_format_has_a_media_type(image_format: str) -> None:
    name = f"images/cat.{ImagesSpec.model_validate({'format': image_format}).suffix}"
    options = StoreLocation("s3a://press/runs", {}).write_options(name)
    assert options == {"ContentType": f"image/{image_format}"}


@pytest.mark.parametrize(
    ("url", "path"), [("s3://press", "plan/part"), ("memory://press", "a.png")]
)
def test_nothing_is_said_where_nothing_is_known_or_kept(url: str, path: str) -> None:
    assert StoreLocation(url, {}).write_options(path) == {}
