"""A tiny model on disk, a manifest that needs several batches, and one Ray for the session."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import tiny_models
from run_files import PROMPTS

from pipelines.spec import RunSpec


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion folder that samples in milliseconds."""
    return tiny_models.save("sd", tmp_path_factory.mktemp("tiny-sd"))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of this session's own, with room for three actors."""
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}},
    )
    yield
    ray.shutdown()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Rows of two sizes and two samplers, in mixed order, with a column to carry."""
    rows = [
        {
            "prompt": f"a picture of the number {i}",
            "width": 64 if i % 3 else 32,
            "scheduler": "ddim" if i % 2 else "euler",
            "mood": f"mood {i}",
        }
        for i in range(PROMPTS)
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make_spec(tmp_path: Path, tiny_model: Path, manifest: Path) -> Callable[..., RunSpec]:
    """A job over the manifest; keyword arguments are overrides such as `batch={"size": 4}`."""

    def make(**values: Any) -> RunSpec:
        job = {
            "name": "night",
            "manifest": str(manifest),
            "output": str(tmp_path / "runs"),
            "model": str(tiny_model),
            "sampling": {"num_inference_steps": 2, "height": 64, "guidance_scale": 3.0},
            "batch": {"size": 4, "shard_size": 7},
            "cluster": {"actors": 1},
        }
        return RunSpec.from_dict(job | values)

    return make
