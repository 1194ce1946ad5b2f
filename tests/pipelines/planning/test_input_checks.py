"""What is found out about the pictures of rows before a run begins."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.fakes.web_server import web_server
from support.plans import MODEL, images_by_id, job, write
from support.servers import Server

from nightpress.diffusion_core.models.modes import modes_of
from nightpress.pipelines.errors import InputMissing, ManifestError, StoreMissing
from nightpress.pipelines.inputs.references import RunImage
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import (
    PictureFacts,
    PlanLayout,
    check,
    check_inputs,
    input_checks,
    keep_hashes,
    read_shard,
    rewrite_plan_part,
    write_plan,
)
from nightpress.pipelines.storage import Store

SD = replace(MODEL, modes=modes_of("StableDiffusionPipeline"))

LEVELS = ("exists", "decode")


class FakeRuns:
    """Earlier runs with some images; every other image is unknown."""

    def __init__(self, **images: bytes) -> None:
        self.images = images
        self.asked: list[list[str]] = []

    def read(self, image: RunImage) -> bytes:
        """The bytes of an image."""
        if image.image_id not in self.images:
            raise InputMissing("no such image")
        return self.images[image.image_id]

    def recorded(self, images: Sequence[RunImage]) -> Mapping[RunImage, PictureFacts | str]:
        """Facts that go with the bytes; they are not decoded."""
        self.asked.append([image.image_id for image in images])
        return {
            each: PictureFacts(hashlib.sha256(self.images[each.image_id]).hexdigest(), 64, 48)
            if each.image_id in self.images
            else "no such image"
            for each in images
        }


def picture(size: tuple[int, int] = (64, 48), colour: Any = "red", mode: str = "RGB") -> bytes:
    """A PNG file of one colour."""
    sink = io.BytesIO()
    Image.new(mode, size, colour).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with pictures, masks, and what is neither."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, data in {
        "a.png": picture(),
        "mask.png": picture(colour=255, mode="L"),
        "black.png": picture(colour=127, mode="L"),
        "tall.png": picture((48, 64), 255, "L"),
        "half.png": picture((32, 24), 255, "L"),
        "page.png": b"<html>404</html>",
        "cut.png": picture((400, 300))[:300],
        "empty.png": b"",
    }.items():
        (folder / name).write_bytes(data)
    return folder


def spec_of(
    tmp_path: Path, rows: Sequence[Mapping[str, Any]], level: str, **inputs: Any
) -> RunSpec:
    """A job for rows whose pictures lie in `pictures`."""
    manifest = write(tmp_path / "m.csv", [{"prompt": "p", **row} for row in rows])
    values = {"root": str(tmp_path / "pictures"), "check": level, **inputs}
    return job(tmp_path, manifest, inputs=values)


def checked(spec: RunSpec) -> PlanLayout:
    """The layout of a job whose pictures can be used."""
    return check_inputs(spec, check(spec, SD), FakeRuns())


def problems(spec: RunSpec) -> list[str]:
    """What is wrong with a job's pictures, without the folder; nothing has been written."""
    with pytest.raises(ManifestError) as caught:
        checked(spec)
    assert not Path(spec.output).exists()
    folder = str(Path(spec.output).parent)
    return [str(each).replace(f"{folder}/", "") for each in caught.value.problems]


@pytest.mark.parametrize("level", LEVELS)
def test_pictures_that_can_be_used_are_counted_once_each(
    tmp_path: Path, pictures: Path, level: str
) -> None:
    rows = [
        {"init_image": "a.png", "mask_image": "mask.png"},
        {"init_image": f"{pictures}/a.png", "mask_image": None},
        {"init_image": "a.png", "mask_image": "half.png"},
    ]
    assert checked(spec_of(tmp_path, rows, level)).num_pictures == 4


@pytest.mark.parametrize("level", LEVELS)
def test_a_missing_picture_is_named_once_with_the_first_row_that_uses_it(
    tmp_path: Path, pictures: Path, level: str
) -> None:
    names = ["a.png", "none.png", "none.png", "sub/none.png", ".", "a.png/b.png"]
    assert problems(spec_of(tmp_path, [{"init_image": name} for name in names], level)) == [
        "m.csv, line 3, column init_image: pictures/none.png: not found",
        "m.csv, line 5, column init_image: pictures/sub/none.png: not found",
        "m.csv, line 6, column init_image: .: pictures: a folder, not a picture",
        "m.csv, line 7, column init_image: pictures/a.png/b.png: not found",
    ]


@pytest.mark.parametrize("level", LEVELS)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, pictures: Path, level: str) -> None:
    os.mkfifo(pictures / "pipe")
    (problem,) = problems(spec_of(tmp_path, [{"init_image": "pipe"}], level))
    assert problem.startswith("m.csv, line 2, column init_image: ")
    assert "pipe: a device, pipe or socket, not a" in problem


def test_whether_a_web_page_is_there_is_found_out_by_its_first_byte(tmp_path: Path) -> None:
    with web_server({"a.png": b"picture"}) as web:
        good = [{"init_image": f"{web.url}/{name}"} for name in ("a.png", "endless")]
        assert checked(spec_of(tmp_path, good, "exists")).num_pictures == 2
        found = problems(spec_of(tmp_path, [{"init_image": f"{web.url}/405/a.png"}], "exists"))
    assert found == [
        f"m.csv, line 2, column init_image: {web.url}/405/a.png: the server answers 405 Method Not "
        "Allowed"
    ]


@pytest.mark.parametrize("level", LEVELS)
def test_a_store_that_cannot_be_reached_is_named_once_with_a_row(
    tmp_path: Path, pictures: Path, level: str
) -> None:
    urls = ["a.png", "http://127.0.0.1:1/a.png", "http://127.0.0.1:1/b.png", "http://[::1]:1/c.png"]
    first, second = problems(spec_of(tmp_path, [{"init_image": url} for url in urls], level))
    head = "column init_image: http://127.0.0.1:1/a.png: cannot reach"
    assert first.startswith(f"m.csv, line 3, {head}")
    assert second.startswith("m.csv, line 5, column init_image: http://[::1]:1/c.png: cannot reach")


@pytest.mark.parametrize("url", ["s3:///a.png", "s3://no such bucket/a.png"])
def test_a_name_that_no_bucket_can_have_is_its_rows_fault(
    tmp_path: Path, seaweed: Server, url: str
) -> None:
    manifest = write(tmp_path / "m.csv", [{"prompt": "p", "init_image": url}])
    (problem,) = problems(job(tmp_path, manifest, storage=seaweed.options))
    assert problem.startswith(f"m.csv, line 2, column init_image: {url}: ")


def test_nothing_is_looked_at_where_the_job_says_so(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, [{"init_image": "none.png"}, {"init_image": "run://x/y"}], "none")
    assert checked(spec).num_pictures == 0


def test_a_picture_that_is_there_is_not_read_unless_it_is_to_be_decoded(
    tmp_path: Path, pictures: Path
) -> None:
    rows = [{"init_image": "page.png"}, {"init_image": "cut.png"}]
    assert checked(spec_of(tmp_path, rows, "exists")).input_hashes is None
    found = problems(spec_of(tmp_path, rows, "decode"))
    assert [each.partition(" column")[0] for each in found] == ["m.csv, line 2,", "m.csv, line 3,"]
    assert "page.png: not a picture (an HTML page)" in found[0]
    assert "cut.png: damaged" in found[1]


def test_a_mask_that_masks_nothing_or_is_of_another_shape_is_found_by_decoding(
    tmp_path: Path, pictures: Path
) -> None:
    rows = [
        {"init_image": "a.png", "mask_image": "mask.png", "canvas": None},
        {"init_image": "a.png", "mask_image": "black.png", "canvas": None},
        {"init_image": "a.png", "mask_image": "tall.png", "canvas": None},
        {"init_image": "a.png", "mask_image": "black.png", "canvas": "8,0,0,0"},
        {"init_image": "black.png", "mask_image": "half.png", "canvas": None},
    ]
    assert problems(spec_of(tmp_path, rows, "decode")) == [
        "m.csv, line 3, column mask_image: black.png: the mask has no white pixel, so that nothing "
        "would be made anew",
        "m.csv, line 4, column mask_image: tall.png: the mask has 48 x 64 pixels, another aspect "
        "ratio than its init_image with 64 x 48",
    ]
    assert len(problems(spec_of(tmp_path, rows, "decode", fit="stretch"))) == 2


@pytest.mark.parametrize("limit", ["max_bytes", "max_pixels"])
@pytest.mark.parametrize("held", [False, True])
def test_decoding_has_the_limits_of_the_job(
    tmp_path: Path, pictures: Path, limit: str, held: bool
) -> None:
    values: list[Any] = [(pictures / "a.png").read_bytes() if held else "a.png"]
    pq.write_table(pa.table({"prompt": ["p"], "init_image": values}), tmp_path / "m.parquet")
    inputs = {"root": str(pictures), "check": "decode", limit: 64}
    (found,) = problems(job(tmp_path, tmp_path / "m.parquet", inputs=inputs))
    assert f"inputs.{limit} allows" in found


def test_an_image_of_an_earlier_run_is_decoded_as_what_it_is_used_for(tmp_path: Path) -> None:
    runs = FakeRuns(
        a_00=picture(), black_00=picture(colour="black"), cut_00=picture((400, 300))[:300]
    )
    rows = [
        {"init_image": "run://hero/a_00", "mask_image": "run://hero/a_00"},
        {"init_image": "run://hero/a_00", "mask_image": "run://hero/black_00"},
        {"init_image": "run://hero/cut_00", "mask_image": None},
        {"init_image": "run://hero/none_00", "mask_image": None},
    ]
    spec = spec_of(tmp_path, rows, "decode")
    with pytest.raises(ManifestError) as caught:
        check_inputs(spec, check(spec, SD), runs)
    found = [str(each).partition("column ")[2] for each in caught.value.problems]
    nothing_white = "the mask has no white pixel, so that nothing would be made anew"
    assert found[:2] == [  # red is dark, as a mask
        f"mask_image: run://hero/a_00: {nothing_white}",
        f"mask_image: run://hero/black_00: {nothing_white}",
    ]
    assert found[2].startswith("init_image: run://hero/cut_00: damaged")
    assert found[3] == "init_image: run://hero/none_00: no such image"
    assert runs.asked == []


def test_twenty_problems_are_shown_and_all_are_counted(tmp_path: Path, pictures: Path) -> None:
    spec = spec_of(tmp_path, [{"init_image": f"{n}.png"} for n in range(50)], "exists")
    with pytest.raises(ManifestError) as caught:
        checked(spec)
    assert (len(caught.value.problems), caught.value.total) == (20, 50)
    assert str(caught.value).endswith("... and 30 more")


def test_bytes_in_the_manifest_are_decoded_too(tmp_path: Path, pictures: Path) -> None:
    table = pa.table(
        {
            "prompt": ["p"] * 4,
            "init_image": [picture(), b"no picture", picture(), picture((8, 8))],
            "mask_image": [None, None, picture(colour=0, mode="L"), picture((8, 16), 255, "L")],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    spec = job(tmp_path, tmp_path / "m.parquet", inputs={"check": "decode"})
    one, two, three = problems(spec)
    assert one.startswith("m.parquet, row 1 (counted from 0), column init_image: ")
    assert two.startswith("m.parquet, row 2 (counted from 0), column mask_image: the mask has no")
    assert three.startswith(
        "m.parquet, row 3 (counted from 0), column mask_image: the mask has 8 x"
    )
    unchecked = job(tmp_path, tmp_path / "m.parquet", inputs={"check": "exists"})
    assert checked(unchecked).num_pictures == 0


def test_images_of_earlier_runs_are_looked_up_together(tmp_path: Path) -> None:
    runs = FakeRuns(a_00=b"a", c_00=b"c")
    rows = [{"init_image": f"run://hero/{name}"} for name in ("a_00", "b_01", "a_00", "c_00")]
    spec = spec_of(tmp_path, rows, "exists")
    with pytest.raises(ManifestError, match=r"line 3.*run://hero/b_01: no such image"):
        check_inputs(spec, check(spec, SD), runs)
    assert runs.asked == [["a_00", "b_01", "c_00"]]
    spec = spec_of(tmp_path, [rows[0]], "exists")
    hashes = check_inputs(spec, check(spec, SD), runs).input_hashes
    assert hashes is not None
    sha256 = hashlib.sha256(b"a").hexdigest()
    assert hashes.to_pylist() == [{"url": "run://hero/a_00", "sha256": sha256}]


def test_what_was_read_is_hashed_in_the_plan_also_in_a_part_that_is_written_again(
    tmp_path: Path, pictures: Path
) -> None:
    rows = [
        {"init_image": "a.png", "mask_image": "mask.png"},
        {"init_image": None, "mask_image": None},
        {"init_image": "a.png", "mask_image": None},
    ]
    spec = spec_of(tmp_path, rows, "decode")
    store = Store(spec.url)
    layout = keep_hashes(store, checked(spec))
    list(write_plan(spec, SD, layout, store))
    a, mask = (
        hashlib.sha256((pictures / name).read_bytes()).hexdigest() for name in ("a.png", "mask.png")
    )
    images = images_by_id(read_shard(store, layout, 0))
    found = [images[name]["inputs"] for name in sorted(images)]
    assert [[each["sha256"] for each in one or ()] for one in found] == [[a, mask], [], [a]]
    layout = PlanLayout.from_dict(layout.as_dict())
    before = store.read("plan/part-00000.parquet")
    store.put("plan/part-00000.parquet", b"damaged")
    rewrite_plan_part(spec, SD, layout, store, 0)
    assert store.read("plan/part-00000.parquet") == before
    store.delete("manifest/inputs.parquet")
    with pytest.raises(StoreMissing):
        rewrite_plan_part(spec, SD, layout, store, 0)


def test_many_units_name_a_picture_once(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightpress.pipelines.planning import units

    monkeypatch.setattr(units, "MAX_PART_IMAGES", 2)
    looked: list[str] = []
    monkeypatch.setattr(
        input_checks, "missing_files", lambda urls, options: looked.extend(urls) or {}
    )
    write(tmp_path / "b.csv", [{"prompt": "p", "init_image": "a.png"}] * 5)
    first = spec_of(tmp_path, [{"init_image": "a.png"}] * 5, "exists")
    spec = first.model_copy(update={"manifest": [str(tmp_path / "m.csv"), str(tmp_path / "b.csv")]})
    assert checked(spec).num_pictures == 1
    assert looked == [str(pictures / "a.png")]


def test_a_bucket_is_listed_and_single_names_are_asked_for(tmp_path: Path, seaweed: Server) -> None:
    folder = seaweed.folder()
    store = Store(folder.url, folder.options)
    for n in range(30):
        store.create(f"in/{n:03d}.png", b"x")
    urls = [f"{folder.url}/in/{n:03d}.png" for n in range(32)]
    manifest = write(tmp_path / "m.csv", [{"prompt": "p", "init_image": url} for url in urls])
    spec = job(tmp_path, manifest, storage=folder.options)
    assert problems(spec) == [
        f"m.csv, line {n + 2}, column init_image: {urls[n]}: not found" for n in (30, 31)
    ]
    relative = write(tmp_path / "r.csv", [{"prompt": "p", "init_image": "000.png"}])
    inputs = {"root": f"{folder.url}/in"}
    assert checked(job(tmp_path, relative, storage=folder.options, inputs=inputs)).num_pictures == 1
