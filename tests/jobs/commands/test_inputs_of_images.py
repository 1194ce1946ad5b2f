"""`verify --inputs` and `reproduce` of images that were made from pictures."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from support import tiny_models
from support.conditioned_runs import run_of

from nightpress.diffusion_core.models.loading import describe, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.jobs.cli import command
from nightpress.pipelines import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose picture `photo.png` each test leaves as it was."""
    torch.set_num_threads(1)
    folder = tiny_models.save("sd", tmp_path_factory.mktemp("sd"))
    spec = ModelSpec(source=str(folder))
    model, info = load(folder, spec, "cpu"), describe(folder, spec)
    return run_of(tmp_path_factory.mktemp("run"), model, info)


@pytest.fixture
def other_photo(run: Run) -> Iterator[Path]:
    """`photo.png` with other bytes, for one test."""
    path = Path(str(run.spec.inputs.root)) / "photo.png"
    before = path.read_bytes()
    Image.new("RGB", (40, 40)).save(path)
    yield path
    path.write_bytes(before)


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_inputs_that_are_the_same_are_counted(run: Run) -> None:
    result = nightpress("verify", run.url, "--inputs")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "3 images read: all as recorded",
        "2 inputs of 2 images read: none has changed",
    ]
    without = json.loads(nightpress("verify", run.url, "--json").stdout)
    assert without["inputs"] is None


@pytest.mark.usefixtures("other_photo")
def test_changed_inputs_are_listed_and_end_with_exit_code_3(run: Run) -> None:
    result = nightpress("verify", run.url, "--inputs")
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[0] == "3 images read: all as recorded"
    assert {line.split(":")[0] for line in lines[1:3]} == {"image_00", "mask_00"}
    assert all("init_image photo.png: changed: sha256 " in line for line in lines[1:3])
    assert lines[3:] == [
        "2 inputs of 2 images read: inputs of 2 images have changed since, or cannot be read"
    ]


@pytest.mark.usefixtures("other_photo")
def test_changed_inputs_are_in_the_json_too(run: Run) -> None:
    result = nightpress("verify", run.url, "--inputs", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["exit_code"], found["findings"]) == (3, 3, [])
    assert {each["image_id"] for each in found["inputs"]["findings"]} == {"image_00", "mask_00"}
    assert {len(each["found"]) for each in found["inputs"]["findings"]} == {64}


def test_an_image_is_reproduced_with_its_pictures_and_they_are_named(run: Run) -> None:
    result = nightpress("reproduce", f"{run.url}/images/mask_00.png")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1] == "mode inpaint, from init_image, mask_image, each with the recorded sha256"
    assert lines[2] == "bit-exact: the same file"


@pytest.mark.usefixtures("other_photo")
def test_a_changed_picture_is_said_in_one_line_before_anything_is_made(run: Run) -> None:
    result = nightpress("reproduce", f"{run.url}/images/image_00.png")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "image_00.png: init_image photo.png: its sha256 is " in line
    assert ", but the image was made from " in line


def test_a_lone_image_is_refused_until_its_places_may_be_read(run: Run, tmp_path: Path) -> None:
    alone = tmp_path / "image.png"
    alone.write_bytes(Path(run.url, "images/image_00.png").read_bytes())
    model = ("--model", run.spec.model.source)
    result = nightpress("reproduce", str(alone), *model)
    assert result.exit_code == 2
    assert "init_image photo.png" in result.stderr
    assert "--read-inputs" in result.stderr
    root = ("--inputs-root", str(run.spec.inputs.root))
    result = nightpress("reproduce", str(alone), *model, *root, "--read-inputs")
    assert result.stdout.splitlines()[-1] == "bit-exact: the same file"
