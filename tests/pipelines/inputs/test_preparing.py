"""From the pictures that a row names to arrays: sizes, places, hashes, and what goes wrong."""

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.fakes.web_server import web_server
from support.picture_files import encoded, png, random_picture

from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.pipelines.errors import (
    InputChanged,
    InputError,
    InputMissing,
    InputUndecodable,
    StoreError,
)
from nightpress.pipelines.inputs.preparing import (
    Expected,
    InputPreparer,
    PreparedInputs,
    input_info,
    nothing_expected,
    prepare,
)
from nightpress.pipelines.inputs.reading import InputReader
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.records import InputInfo, PlannedInput
from nightpress.pipelines.storage import RetryPolicy

LANCZOS = Image.Resampling.LANCZOS
SIZE = (64, 48)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def held(role: str, data: bytes) -> PlannedInput:
    """A picture whose bytes the manifest holds."""
    return PlannedInput(role, None, data)


def prepared(
    inputs: Sequence[PlannedInput], conditioning: Conditioning | None = None, **spec: Any
) -> PreparedInputs:
    return prepare(inputs, conditioning or Conditioning("image"), SIZE, InputsSpec(**spec), {})


def problem_of(inputs: Sequence[PlannedInput], **spec: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        prepared(inputs, **spec)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_picture_is_fitted_to_its_own_row_and_recorded(tmp_path: Path) -> None:
    data = png(120, 100)
    (tmp_path / "a.png").write_bytes(data)
    found = prepared([PlannedInput("init_image", "a.png")], root=str(tmp_path))
    expected = ImageOps.fit(random_picture(120, 100), SIZE, LANCZOS)
    assert np.array_equal(found.images.init_image, np.asarray(expected))
    assert found.infos == (InputInfo("init_image", "a.png", sha256(data), "cover"),)


def test_pictures_of_a_row_come_in_the_order_of_the_plan() -> None:
    inputs = [
        held("init_image", png(*SIZE, seed=0)),
        held("control_image.edges", png(*SIZE, seed=1)),
        held("control_image.depth", png(*SIZE, seed=2)),
        held("reference_image.face", png(30, 20, seed=3)),
        held("reference_image.face", png(31, 20, seed=4)),
        held("reference_image.style", png(32, 20, seed=5)),
    ]
    conditioning = Conditioning("image+control+reference", num_references=(2, 1))
    images = prepared(inputs, conditioning).images
    controls = [np.asarray(random_picture(*SIZE, seed=seed)) for seed in (1, 2)]
    assert all(map(np.array_equal, images.control_images, controls))
    assert [[each.shape for each in group] for group in images.reference_images] == [
        [(20, 30, 3), (20, 31, 3)],
        [(20, 32, 3)],
    ]


def test_a_reference_is_not_fitted_and_is_recorded_so() -> None:
    found = prepared(
        [held("reference_image", png(4_100, 41))],
        Conditioning("text+reference", num_references=(1,)),
    )
    assert found.images.reference_images[0][0].shape == (20, 2_048, 3)
    assert found.infos[0].fit == "none"
    assert input_info(PlannedInput("control_image.depth", "a"), "contain").fit == "contain"


def test_a_mask_at_another_scale_lies_on_its_picture() -> None:
    white = np.zeros((80, 200), np.uint8)
    white[:, :100] = 255
    mask = Image.fromarray(white)
    for fit in ("cover", "contain", "stretch"):
        inputs = [
            held("init_image", encoded(Image.fromarray(np.repeat(white[..., None], 3, axis=2)))),
            held("mask_image", encoded(mask.resize((100, 40)))),
        ]
        images = prepared(inputs, Conditioning("inpaint"), fit=fit).images
        assert images.init_image is not None
        assert images.mask_image is not None
        middle = images.mask_image[SIZE[1] // 2]
        assert middle.tolist() == [255] * 32 + [0] * 32
        shown = images.init_image[SIZE[1] // 2, :, 0] > 127
        assert shown.tolist() == [True] * 32 + [False] * 32


def test_a_mask_of_another_shape_is_refused_with_both_sizes() -> None:
    inputs = [held("init_image", png(64, 48)), held("mask_image", png(64, 64))]
    error = problem_of(inputs)
    assert isinstance(error, InputUndecodable)
    assert str(error) == (
        "mask_image (bytes in the manifest): 64 x 64 pixels, but its init_image has 64 x 48; "
        "a mask must have the aspect ratio of its picture"
    )


def test_a_picture_that_lies_on_its_side_and_its_upright_mask_have_one_shape() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = encoded(random_picture(48, 64), exif=exif.tobytes())
    images = prepared(
        [held("init_image", sideways), held("mask_image", png(64, 48))], Conditioning("inpaint")
    ).images
    upright = random_picture(48, 64).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(images.init_image, np.asarray(upright))


def test_a_canvas_puts_the_picture_where_it_leaves_room_and_masks_the_rest() -> None:
    conditioning = Conditioning("outpaint", canvas=(8, 0, 16, 24))
    inner = png(40, 24)
    images = prepared([held("init_image", inner)], conditioning).images
    assert images.init_image is not None
    assert images.mask_image is not None
    assert np.array_equal(images.init_image[:24, 8:48], np.asarray(random_picture(40, 24)))
    assert np.array_equal(images.init_image[30, 20], images.init_image[23, 20])
    assert np.unique(images.mask_image[:24, 8:48]).tolist() == [0]
    assert (images.mask_image == 255).sum() == 64 * 48 - 40 * 24
    mask = np.zeros((24, 40), np.uint8)
    mask[5, 7] = 255
    inputs = [held("init_image", inner), held("mask_image", encoded(Image.fromarray(mask)))]
    images = prepared(inputs, conditioning).images
    assert images.mask_image is not None
    assert images.mask_image[5, 15] == 255
    assert (images.mask_image == 255).sum() == 64 * 48 - 40 * 24 + 1


def test_a_canvas_that_leaves_nothing_is_refused() -> None:
    conditioning = Conditioning("outpaint", canvas=(32, 0, 32, 0))
    with pytest.raises(InputUndecodable, match="the canvas leaves nothing of 64 x 48 pixels"):
        prepared([held("init_image", png(8, 8))], conditioning)


def test_what_is_wrong_is_said_in_one_line_with_the_role_and_the_place(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(b"<html>404</html>")
    (tmp_path / "folder.png").mkdir()
    root = str(tmp_path)
    for url, kind, words in [
        ("page.png", InputUndecodable, "not a picture (an HTML page); it must be PNG, JPEG, WebP"),
        ("none.png", InputMissing, f"{root}/none.png: not found"),
        ("folder.png", InputMissing, f"{root}/folder.png: a folder, not a file"),
        ("../a.png", InputMissing, f"leaves inputs.root, {root}; use an absolute path"),
        ("s3://me:secret@b/a.png", InputMissing, "the URL contains credentials; they come from"),
        ("run://hero/a_00", InputMissing, "images of earlier runs cannot be read here"),
    ]:
        error = problem_of([PlannedInput("init_image", url)], root=root)
        assert type(error) is kind
        shown = url.replace("me:secret@", "")
        assert str(error).startswith(f"init_image {shown}: {words}")


def test_a_failed_row_records_the_hashes_that_are_known(tmp_path: Path) -> None:
    page = b"<html></html>"
    (tmp_path / "a.png").write_bytes(page)
    spec = InputsSpec(root=str(tmp_path), max_bytes=10_000)
    preparer = InputPreparer(spec, InputReader(spec, {}))
    inputs = [
        PlannedInput("init_image", "a.png"),
        PlannedInput("control_image", "b.png"),
        held("reference_image", png(200, 200)),
        PlannedInput("reference_image", "https://me:secret@host/a.png"),
    ]
    found = preparer.prepare(inputs, Conditioning("image"), SIZE)
    assert isinstance(found.problem, InputUndecodable)
    assert [each.sha256 for each in found.infos] == [sha256(page), None, None, None]
    assert [each.url for each in found.infos] == ["a.png", "b.png", None, "https://host/a.png"]


def changed(*sets: Sequence[str]) -> Expected:
    return lambda url: [frozenset(each) for each in sets]


@pytest.mark.parametrize(
    ("expected", "fits"),
    [
        (nothing_expected, True),
        (changed([]), True),
        (changed(["now"]), True),
        (changed(["before", "now"]), True),
        (changed(["before"]), False),
        (changed(["now"], ["before"]), False),
    ],
)
def test_bytes_that_differ_from_those_used_before_are_refused(
    tmp_path: Path, expected: Expected, fits: bool
) -> None:
    data, before = png(8, 8), sha256(b"other")
    (tmp_path / "a.png").write_bytes(data)
    names = {"now": sha256(data), "before": before}
    spec = InputsSpec(root=str(tmp_path))
    preparer = InputPreparer(spec, InputReader(spec, {}))

    def named(url: str) -> Sequence[frozenset[str]]:
        return [frozenset(names[each] for each in one) for one in expected(url)]

    planned = [PlannedInput("init_image", "a.png")]
    found = preparer.prepare(planned, Conditioning("image"), SIZE, named)
    assert (found.problem is None) == fits
    if found.problem is not None:
        assert type(found.problem) is InputChanged
        assert str(found.problem) == (
            f"init_image a.png: its bytes have changed: sha256 {sha256(data)[:12]} now, "
            f"{before[:12]} when it was used before; put the old picture back, or start a new run"
        )
        assert found.infos[0].sha256 == sha256(data)


def test_a_picture_that_many_rows_use_is_read_and_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(png(80, 60))
    spec = InputsSpec(root=str(tmp_path))
    reader = InputReader(spec, {})
    read: list[str | None] = []
    original = reader.read
    monkeypatch.setattr(
        reader, "read", lambda planned: (read.append(planned.url), original(planned))[1]
    )
    preparer = InputPreparer(spec, reader)
    rows = [
        preparer.prepare([PlannedInput("init_image", "a.png")], Conditioning("image"), size)
        for size in (SIZE, SIZE, (32, 32), SIZE)
    ]
    assert read == ["a.png"]
    assert rows[0].images.init_image is rows[3].images.init_image
    uncached = InputPreparer(spec, InputReader(spec, {}), cache_bytes=0)
    alone = uncached.prepare([PlannedInput("init_image", "a.png")], Conditioning("image"), SIZE)
    assert np.array_equal(alone.images.init_image, rows[0].images.init_image)
    assert alone.infos == rows[0].infos


def test_a_404_fails_its_row_and_a_server_in_trouble_is_the_stores_failure() -> None:
    spec, brief = InputsSpec(), RetryPolicy(attempts=2, total_s=1, first_wait_s=0.01)
    with web_server({"a.png": png(8, 8)}) as web:
        preparer = InputPreparer(spec, InputReader(spec, {}, policy=brief))

        def of(path: str) -> PreparedInputs:
            planned = [PlannedInput("init_image", f"{web.url}/{path}")]
            return preparer.prepare(planned, Conditioning("image"), SIZE)

        assert of("a.png").problem is None
        missing = of("404/a.png?w=3").problem
        assert str(missing) == f"init_image {web.url}/404/a.png?w=3: not found"
        with pytest.raises(StoreError):
            of("503/a.png")
        endless = replace_spec(spec, max_bytes=100_000)
        preparer = InputPreparer(endless, InputReader(endless, {}))
        assert "larger than 100,000 bytes" in str(of("endless/a.png").problem)


def test_a_server_that_fails_for_one_file_and_sends_others_fails_only_that_row() -> None:
    spec, policy = InputsSpec(), RetryPolicy(attempts=5, total_s=5, first_wait_s=0.1)
    with web_server({"a.png": png(8, 8)}) as web, ThreadPoolExecutor(1) as pool:
        reader = InputReader(spec, {}, policy=policy)
        failing = pool.submit(reader.read, PlannedInput("init_image", f"{web.url}/500/a.png"))
        while not web.hits["500/a.png"]:
            time.sleep(0.01)
        reader.read(PlannedInput("init_image", f"{web.url}/a.png"))
        with pytest.raises(InputMissing, match=r"keeps failing .*, though it sends other files"):
            failing.result()


def replace_spec(spec: InputsSpec, **changes: object) -> InputsSpec:
    return spec.model_copy(update=changes)


def test_a_hash_that_planning_recorded_is_compared_too(tmp_path: Path) -> None:
    data = png(8, 8)
    (tmp_path / "a.png").write_bytes(data)
    planned = PlannedInput("init_image", "a.png", sha256=sha256(data))
    assert prepared([planned], root=str(tmp_path)).infos[0].sha256 == sha256(data)
    changed_since = replace(planned, sha256=sha256(b"other"))
    assert type(problem_of([changed_since], root=str(tmp_path))) is InputChanged
