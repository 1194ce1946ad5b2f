"""`nightpress steps`: what it writes and prints."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support import ldm_checkpoints, narrow_models

from nightpress.diffusion_core.models.loading import load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.jobs.cli import command
from nightpress.jobs.commands.steps import Samplers
from nightpress.jobs.steps import ImageSetup, show_steps

Steps = Callable[..., Result]


@pytest.fixture
def steps(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The command with a tiny model, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, model: str = str(tiny_model)) -> Result:
        sizes = ["--width", "32", "--height", "32"]
        given = ["steps", "a red fox", "--model", model, *sizes, *arguments]
        return CliRunner().invoke(command, given)

    return run


def test_a_strip_and_an_animation_are_written_beside_each_other(
    steps: Steps, tmp_path: Path
) -> None:
    result = steps("--steps", "4", "--scheduler", "ddim")
    assert result.exit_code == 0, result.stderr
    assert "wrote a-red-fox-steps.png and a-red-fox-steps.gif, 5 frames each" in result.stdout
    with Image.open(tmp_path / "a-red-fox-steps.gif") as animation:
        assert animation.n_frames == 5
    with Image.open(tmp_path / "a-red-fox-steps.png") as strip:
        assert strip.width > 5 * 128
    first = (tmp_path / "a-red-fox-steps.png").read_bytes()
    assert steps("--steps", "4", "--scheduler", "ddim").exit_code == 0
    assert (tmp_path / "a-red-fox-steps.png").read_bytes() == first


def test_a_model_in_one_file_takes_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = narrow_models.save("sd1", tmp_path / "folder")
    file = tmp_path / "x.safetensors"
    ldm_checkpoints.write(narrow_models.checkpoint("sd1", narrow_models.make("sd1")), file)
    given = ["a cat", "--model", str(file), "--width", "32", "--height", "32", "--steps", "1"]
    written = ["-o", str(tmp_path / "out.png")]
    without = CliRunner().invoke(command, ["steps", *given, *written])
    assert (without.exit_code, "it is SD 1.x: set model.config to" in without.output) == (2, True)
    done = CliRunner().invoke(command, ["steps", *given, "--config", str(folder), *written])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.png").is_file()


def test_samplers_may_be_named_as_elsewhere() -> None:
    names = Samplers().convert("Euler a, dpmpp_2m karras,ddim,k_lms", None, None)
    assert names == ("euler-ancestral", "dpmsolver++-karras", "ddim", "k_lms")


def test_the_last_frame_is_the_image_of_a_run(tiny_model: Path, tmp_path: Path) -> None:
    request, spec = ImageRequest("a red fox", "blur", 7), ModelSpec(source=str(tiny_model))
    setup = ImageSetup.of(spec, request, width=32, height=64, guidance_scale=4.0)
    setup = setup.with_sampler("dpmsolver++", 3)
    frames = show_steps(setup, tmp_path / "fox.png").frames
    sampler = Sampler(load(tiny_model, spec, "cpu"), batch_size=1)
    made = sampler.sample([request], setup.params).pixels[0]
    np.testing.assert_array_equal(frames[-1].noisy, made)
    assert [frame.step for frame in frames] == [0, 1, 2, 3]


def test_json_holds_files_and_noise_levels(steps: Steps) -> None:
    options = ["--steps", "9", "--frames", "4", "--scheduler", "euler", "-o", "fox.png"]
    values = json.loads(steps(*options, "--json").stdout)
    assert values["png"] == "fox.png"
    assert values["gif"] == "fox.gif"
    assert values["num_frames"] == len(values["sigmas"]) == 4
    assert values["sigmas"] == sorted(values["sigmas"], reverse=True)


def test_a_sweep_writes_a_table_of_images_and_figures(steps: Steps, tmp_path: Path) -> None:
    options = ["--sweep", "--scheduler", "ddim,heun", "--steps", "2,8", "--reference-steps", "8"]
    result = steps(*options)
    assert result.exit_code == 0, result.stderr
    assert "Distances are to ddim 8, from the same noise. ddpm adds fresh noise" in result.stdout
    assert "wrote a-red-fox-sweep.png" in result.stdout
    values = json.loads(steps(*options, "--json").stdout)
    assert [(t["scheduler"], t["num_inference_steps"]) for t in values["trials"]] == [
        ("ddim", 8),
        ("ddpm", 8),
        ("ddpm", 8),
        ("ddim", 2),
        ("ddim", 8),
        ("heun", 2),
        ("heun", 8),
    ]
    reference = values["trials"][0]
    assert reference["rmse"] == 0
    assert reference["psnr_db"] is None
    assert reference["compared_with"] == "ddim 8"
    with Image.open(tmp_path / "a-red-fox-sweep.png") as sheet:
        assert sheet.width > 2 * 128
        assert sheet.height > 4 * 128


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheduler", "k_lms"], "scheduler 'k_lms'"),
        (["--steps", "1001", "--scheduler", "ddim"], "steps 1001: ddim takes 1 to 1000"),
        (["--steps", "0"], "steps 0: default takes 1 to 1000"),
        (["--steps", "ten"], "'ten' is not a list of whole numbers"),
        (["--steps", "5,10"], "--steps takes one value"),
        (["--scheduler", "ddim,euler"], "--scheduler takes one value"),
        (["--scheduler", "ddim,"], "'ddim,' has an empty name"),
        (["--frames", "1"], "--frames"),
        (["--sweep", "--frames", "5"], "--frames cannot be used with --sweep"),
        (["--reference-steps", "50"], "--reference-steps requires --sweep"),
        (["--sweep", "--steps", "5,2000"], "steps 2000"),
        (["--seed", "-1"], "--seed"),
        (["--width", "33"], "width 33 is not a multiple of 8"),
        (["--negative-prompt", "(bad:1.4)"], "negative_prompt: '(bad:1.4)' is a weight"),
        (["--negative-prompt", "bad " * 99], "297 tokens, but the model reads only 75"),
        (["-o", "fox.gif"], "-o fox.gif: the output is a PNG"),
        (["-o", "nowhere/fox.png"], "nowhere is not a folder"),
    ],
)
def test_bad_usage_is_explained_and_nothing_is_written(
    steps: Steps, tmp_path: Path, options: list[str], message: str
) -> None:
    result = steps(*options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("*.png"))


def test_a_missing_model_is_reported_in_one_line(steps: Steps) -> None:
    result = steps(model="no/such/model")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: model 'no/such/model'")
    assert len(result.stderr.strip().splitlines()) == 1
