"""`plan` of jobs whose rows name pictures, and of the example job that shows every mode."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from support import tiny_models
from support.conditioned_runs import ROWS, STEPS, pictures

from nightpress.jobs.cli import command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("sd", tmp_path_factory.mktemp("sd"))


def plan_of(folder: Path, model: Path, rows: Sequence[dict[str, Any]], **inputs: Any) -> Result:
    """`nightpress plan` of a job over these rows."""
    pictures(folder)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {
        "manifest": str(folder / "rows.jsonl"),
        "output": str(folder / "out"),
        "model": str(model),
        "sampling": STEPS,
        "inputs": {"root": str(folder)} | inputs,
    }
    (folder / "night.yaml").write_text(yaml.safe_dump(job))
    result = CliRunner().invoke(command, ("plan", str(folder / "night.yaml")))
    assert not (folder / "out").exists()
    return result


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("none", "not checked, as inputs.check is none"),
        ("exists", "2 pictures, all of them are there"),
        ("decode", "2 pictures, all of them can be decoded"),
    ],
)
def test_a_plan_says_the_modes_of_the_model_and_of_the_images(
    tmp_path: Path, model: Path, check: str, said: str
) -> None:
    result = plan_of(tmp_path, model, ROWS, check=check)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "modes    text, image, inpaint, outpaint" in lines
    assert "images   3: 1 image, 1 inpaint, 1 text" in lines
    assert f"inputs   {said}" in lines
    assert any(line.rstrip().endswith("image, strength 0.6") for line in lines)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"control_image": "photo.png"},
            "column control_image: a control image needs a ControlNet in the job's "
            "model.controlnets; this model has the modes text, image, inpaint, outpaint",
        ),
        ({"reference_image": "photo.png"}, "column reference_image: a reference needs an IP-"),
        ({"mask_image": "mask.png"}, "column mask_image: a mask needs an init_image in the same"),
        ({"init_image": "photo.png", "strength": 1.2}, "column strength: 1.2 is not above 0 and"),
        ({"init_image": "photo.png", "strength": 0.4}, "it must be at least 0.5"),
        ({"init_image": "gone.png"}, "column init_image: {folder}/gone.png: not found"),
        ({"init_image": "../photo.png"}, "'../photo.png' could leave inputs.root by its '..'"),
    ],
)
def test_a_row_that_cannot_be_made_is_refused_with_its_place(
    tmp_path: Path, model: Path, row: dict[str, Any], said: str
) -> None:
    result = plan_of(tmp_path, model, [*ROWS, {"id": "bad", "prompt": "d"} | row])
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/rows.jsonl, line 4, column ")
    assert said.format(folder=tmp_path) in line


def test_the_example_of_conditioned_images_has_every_mode_of_the_built_in_model() -> None:
    pytest.importorskip("peft")
    job = "jobs/examples/conditioned.yaml"
    result = CliRunner().invoke(command, ("plan", job, "--json", "--set", "inputs.check=decode"))
    assert result.exit_code == 0, result.output
    planned = json.loads(result.stdout)
    made = ("text", "image", "inpaint", "outpaint", "text+control", "image+control")
    assert set(planned["modes"]) == set(made)
    assert planned["num_images"] == sum(planned["modes"].values()) == 16
    assert {each["lora"] for each in planned["batches"]} == {None, "duotone"}
