"""A job is tuned on its rows without pictures."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.plans import MODEL, job, write

from nightpress.jobs.tuning.images import images_to_sample
from nightpress.pipelines.errors import SpecError

IMAGES = replace(MODEL, modes=("text", "image"))
WITH_PICTURE = {"init_image": "a.png", "strength": 0.5}
UNCHECKED = {"inputs": {"check": "none"}}


def test_rows_with_pictures_are_left_out_even_if_there_are_more_of_them(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}"} | (WITH_PICTURE if n % 4 else {}) for n in range(16)]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **UNCHECKED)
    images = images_to_sample(spec, IMAGES, 2, 3)
    assert [image.prompt for image in images] == ["0", "4", "8", "12"]


def test_passes_are_sampled_too(tmp_path: Path) -> None:
    passes = [{"scale": 1.5, "strength": 0.5, "num_inference_steps": 4}]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", [{"prompt": "a"}]), passes=passes)
    (image,) = images_to_sample(spec, IMAGES, 1, 1)
    assert (image.params.width, image.params.final_size) == (128, (192, 144))


def test_a_manifest_of_pictures_alone_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "a"} | WITH_PICTURE]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **UNCHECKED)
    with pytest.raises(SpecError, match="tune measures images that are made from text alone"):
        images_to_sample(spec, IMAGES, 1, 1)
