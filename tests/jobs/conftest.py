"""A tiny model on disk, a manifest that needs several batches, and one Ray for the session."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import ray
from support import tiny_models
from support.run_files import PROMPTS

from nightpress import jobs
from nightpress.jobs.cluster.local_head import SYSTEM_CONFIG, lean_head
from nightpress.jobs.cluster.worker_template import worker_template
from nightpress.pipelines.job.spec import RunSpec

MakeSpec = Callable[..., RunSpec]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion folder that samples in milliseconds."""
    return tiny_models.save("sd", tmp_path_factory.mktemp("tiny-sd"))


RAY = ExitStack()
"""What ends the Ray of this session."""


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of this session's own, with room for three actors."""
    with RAY:
        template = RAY.enter_context(worker_template())
        with lean_head(template):
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                object_store_memory=256 * 2**20,
                logging_level="ERROR",
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}},
                _system_config=SYSTEM_CONFIG,
            )
        RAY.callback(ray.shutdown)
        yield


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End Ray with the last of these tests: its processes would take time from those that follow.

    pytest runs the tests of a folder without a break, unless it gets files in another order.
    """
    if nextitem is not None and Path(__file__).parent not in nextitem.path.parents:
        RAY.close()


def write_manifest(folder: Path) -> Path:
    """Rows of two sizes and two samplers, in mixed order, with one extra column."""
    rows = [
        {
            "prompt": f"a picture of the number {i}",
            "width": 64 if i % 3 else 32,
            "scheduler": "ddim" if i % 2 else "euler",
            "mood": f"mood {i}",
        }
        for i in range(PROMPTS)
    ]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def maker(folder: Path, model: Path, manifest: Path) -> MakeSpec:
    """A function that makes jobs whose runs are in a folder."""

    def make(**values: Any) -> RunSpec:
        job = {
            "name": "night",
            "manifest": str(manifest),
            "output": str(folder / "runs"),
            "model": str(model),
            "sampling": {"num_inference_steps": 2, "height": 64, "guidance_scale": 3.0},
            "batch": {"size": 4, "shard_size": 7},
            "cluster": {"actors": 1},
        }
        return RunSpec.from_dict(job | values)

    return make


@pytest.fixture(scope="session")
def make_in(tiny_model: Path) -> Callable[[Path], MakeSpec]:
    """A function that writes a manifest to a folder and returns a maker of jobs over it."""
    return lambda folder: maker(folder, tiny_model, write_manifest(folder))


@pytest.fixture
def make_spec(tmp_path: Path, make_in: Callable[[Path], MakeSpec]) -> MakeSpec:
    """A job over the manifest; keyword arguments are overrides such as `batch={"size": 4}`."""
    return make_in(tmp_path)


@pytest.fixture(scope="session")
def kept(
    tmp_path_factory: pytest.TempPathFactory,
    make_in: Callable[[Path], MakeSpec],
    local_ray: None,
) -> tuple[Path, MakeSpec]:
    """A folder with a finished run in `home` and a copy of it in `copy`; and a maker of jobs."""
    folder = tmp_path_factory.mktemp("kept")
    home = folder / "home"
    home.mkdir()
    make = make_in(home)
    jobs.run(make())
    shutil.copytree(home, folder / "copy")
    return folder, make


@pytest.fixture
def finished(kept: tuple[Path, MakeSpec]) -> MakeSpec:
    """Like `make_spec`, but the run of the job without overrides is already finished."""
    folder, make = kept
    shutil.rmtree(folder / "home")
    shutil.copytree(folder / "copy", folder / "home")
    return make
