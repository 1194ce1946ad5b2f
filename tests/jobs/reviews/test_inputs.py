"""The pictures that an image was made from are shown as they were used, or not at all."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from support import pictured_runs
from support.picture_files import encoded, smooth_picture
from support.review_client import Client, review_client

from nightpress.pipelines.run_directory.reader import Run

ROWS = [
    {"prompt": "a cat", "init_image": "cat.bmp", "strength": 0.5},
    {"prompt": "a dog", "init_image": None, "strength": None},
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "cat.bmp").write_bytes(encoded(smooth_picture(48, 32), "BMP"))
    (tmp_path / "secret.png").write_bytes(encoded(smooth_picture(8, 8)))
    store, record = pictured_runs.begin(tmp_path, ROWS)
    pictured_runs.make(store, record, sampler=pictured_runs.PictureSampler())
    return Run(store, record)


def test_rows_say_which_images_have_pictures(run: Run) -> None:
    with review_client(run) as client:
        client.open()
        rows = client.get("/api/rows").json
        assert rows["run"]["has_inputs"]
        [inputs] = rows["inputs"]
        assert (inputs["column"], inputs["label"]) == ("init_image", "init image")
        assert [rows["image_id"][n] for n in inputs["rows"]] == ["00000000_00"]


def test_a_picture_is_sent_as_png_whatever_it_is(client: Client) -> None:
    answer = client.get("/input/00000000_00/init_image")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(answer.body)).size == (48, 32)


@pytest.mark.parametrize(
    "path",
    [
        *("00000001_00/init_image", "00000000_00/mask_image", "99_00/init_image"),
        *("00000000_00/secret.png", "00000000_00/..%2fsecret.png"),
    ],
)
def test_what_an_image_was_not_made_from_is_not_there(client: Client, path: str) -> None:
    answer = client.get(f"/input/{path}")
    assert answer.status == 404
    assert answer.error


def test_a_picture_that_has_changed_or_gone_is_not_shown(client: Client, tmp_path: Path) -> None:
    picture = tmp_path / "cat.bmp"
    picture.write_bytes(encoded(smooth_picture(48, 32, seed=9), "BMP"))
    changed = client.get("/input/00000000_00/init_image")
    assert (changed.status, changed.error) == (410, "00000000_00: 'init_image' has changed since")
    picture.unlink()
    gone = client.get("/input/00000000_00/init_image")
    assert gone.status == 410
    assert "init_image" in gone.error
