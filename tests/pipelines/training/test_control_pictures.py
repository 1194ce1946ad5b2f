"""Control pictures are found by the names of their images."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nightpress.pipelines.errors import DataError
from nightpress.pipelines.training.control_pictures import ControlPictures
from nightpress.pipelines.training.data import DataSpec, PackedImages, pack
from nightpress.pipelines.training.sections import ControlNetSettingsSpec

SIDE = 8


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def packed(data: DataSpec, cache: Path) -> PackedImages:
    return pack(data, SIDE, need_captions=False, cache=cache)


def given(data: DataSpec, images: PackedImages, **settings: str) -> ControlPictures:
    section = ControlNetSettingsSpec.model_validate({"control": "data", **settings})
    controls = ControlPictures(section, images, SIDE)
    controls.read(data, {})
    return controls


def values(controls: ControlPictures, num: int) -> list[int]:
    return [int(controls.pixels(i)[0, 0, 0]) for i in range(num)]


def test_in_parquet_a_column_has_them(tmp_path: Path) -> None:
    rows = {"image": [png(i) for i in range(3)], "edges": [png(100 + i) for i in range(3)]}
    pq.write_table(pa.table(rows), tmp_path / "data.parquet")
    data = DataSpec(source=str(tmp_path / "data.parquet"))
    controls = given(data, packed(data, tmp_path / "cache"), image="edges")
    assert values(controls, 3) == [100, 101, 102]


def test_in_tars_an_extension_has_them(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for i in range(3):
            for name, value in ((f"a.b/{i}.png", i), (f"a.b/{i}.edges.png", 100 + i)):
                info = tarfile.TarInfo(name)
                info.size = len(png(value))
                tar.addfile(info, io.BytesIO(png(value)))
    data = DataSpec(source=str(tmp_path / "data.tar"))
    controls = given(data, packed(data, tmp_path / "cache"), image="edges.png")
    assert values(controls, 3) == [100, 101, 102]


def test_in_a_folder_they_have_the_names_of_the_images(tmp_path: Path) -> None:
    for i, folder in enumerate(("pictures", "edges")):
        (tmp_path / folder / "cats").mkdir(parents=True)
        for name, value in (("0.v1", 0), ("0.v2", 1)):
            suffix = "bmp" if i else "png"
            Image.new("RGB", (SIDE, SIDE), (100 * i + value, 0, 0)).save(
                tmp_path / folder / "cats" / f"{name}.{suffix}"
            )
    data = DataSpec(source=str(tmp_path / "pictures"))
    controls = given(data, packed(data, tmp_path / "cache"), source=str(tmp_path / "edges"))
    assert values(controls, 2) == [100, 101]


def test_two_pictures_for_one_image_are_refused(tmp_path: Path) -> None:
    for folder, names in (("pictures", ["0.png"]), ("edges", ["0.bmp", "0.tif"])):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.new("RGB", (SIDE, SIDE)).save(tmp_path / folder / name)
    data = DataSpec(source=str(tmp_path / "pictures"))
    images = packed(data, tmp_path / "cache")
    with pytest.raises(DataError, match=r"0 .*two have the same name|1 of 1 images have no"):
        given(data, images, source=str(tmp_path / "edges"))


def test_patches_have_the_mean_colour_of_their_part(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    images = packed(DataSpec(source=str(tmp_path)), tmp_path / "cache")
    section = ControlNetSettingsSpec(control="patches", patches=2)
    patches = ControlPictures(section, images, SIDE).pixels(0)
    for row in (0, 4):
        for column in (0, 4):
            part = np.s_[row : row + 4, column : column + 4]
            assert (patches[part] == patches[row, column]).all()
            mean = pixels[part].reshape(-1, 3).mean(axis=0)
            np.testing.assert_allclose(patches[row, column], mean, atol=1)
