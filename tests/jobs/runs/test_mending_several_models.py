"""A run with two models is retried, repaired, reproduced and made again on real actors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.several_models import write_job

from nightpress import jobs
from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.reader import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

PICTURES = {"drawn": (64, 64), "tiny": (32, 40)}
"""Model -> width and height of the picture that one of its rows starts from."""


def put_pictures(folder: Path) -> None:
    """Write a picture for each model."""
    for name, (width, height) in PICTURES.items():
        levels = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"{name}.png")


def spec_in(folder: Path) -> RunSpec:
    """The job of `write_job`, and a row for each model that starts from a picture."""
    values = write_job(folder)
    manifest = Path(values["manifest"])
    head, *rows = manifest.read_text().splitlines()
    edits = [f"edit-{name},{name},a red cat,s0,{name}.png,1" for name in PICTURES]
    lines = [f"{head},init_image,strength", *(f"{row},," for row in rows), *edits]
    manifest.write_text("\n".join(lines) + "\n")
    inputs = {"root": str(folder), "check": "none"}
    return RunSpec.from_dict(values | {"inputs": inputs, "cluster": {"actors": 1}})


def rows_of(run: Run) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in run.metadata.to_table().to_pylist()}


def hashes(run: Run) -> dict[str, str]:
    return {name: row["sha256"] for name, row in rows_of(run).items()}


def test_rows_of_each_model_are_retried_repaired_and_made_again_with_their_own_model(
    tmp_path: Path,
) -> None:
    spec = spec_in(tmp_path)
    assert jobs.run(spec).num_failed == len(PICTURES)
    put_pictures(tmp_path)
    undisturbed = spec.model_copy(update={"name": "undisturbed"})
    assert jobs.run(undisturbed).num_failed == 0
    expected = hashes(open_run(undisturbed.url))

    retried = jobs.retry(spec.url)
    assert (retried.num_ok, retried.num_failed) == (len(PICTURES), 0)
    run = open_run(spec.url)
    assert hashes(run) == expected

    damaged = [rows_of(run)[f"{name}0_00"] for name in PICTURES]
    for row in damaged:
        run.store.put(row["file"], run.store.read(row["file"])[:100])
    found = jobs.verify(spec.url, repair=True)
    assert found.repaired is not None
    assert (found.repaired.num_same, found.repaired.num_different) == (len(PICTURES), 0)
    assert jobs.verify(spec.url).is_sound

    for name in PICTURES:
        compared = jobs.reproduce(run, f"edit-{name}_00").comparison
        assert compared.same_file, name

    ids = [row["image_id"] for row in damaged]
    jobs.again(spec.url, ids=ids)
    after = rows_of(open_run(spec.url))
    added = {name: row for name, row in after.items() if name not in expected}
    assert [row["parent"] for row in added.values()] == ids
    for row in added.values():
        assert row["status"] == "ok"
        assert row["model_fingerprint"] == after[row["parent"]]["model_fingerprint"]
    assert len({row["model_fingerprint"] for row in added.values()}) == len(PICTURES)
    assert {name: row["sha256"] for name, row in after.items() if name in expected} == expected
