"""Mutated job files and manifests: exit code 0 or 2, a message, and nothing half-written."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from support.mutations import mutated_bytes, mutated_job
from support.plans import encoded

from nightpress.jobs.cli import command
from nightpress.pipelines.models.files import ModelFiles

SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt", ".parquet")

ROWS = [
    {"prompt": f"picture {n}", "id": f"row-{n}", "seed": n, "width": 64, "guidance_scale": 3.0}
    for n in range(12)
]


@pytest.fixture(autouse=True, scope="module")
def known_models() -> Iterator[None]:
    """Describe and check each model that jobs name once; their files do not change."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("describe", "check_weights"):
            patch.setattr(ModelFiles, name, once_for_each(getattr(ModelFiles, name)))
        yield


def once_for_each(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose results are kept, by all of its arguments; its errors are not."""
    kept: dict[str, Any] = {}

    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        key = repr((arguments, named))
        if key not in kept:
            kept[key] = method(*arguments, **named)
        return kept[key]

    return call


def job_over(manifest: Path) -> dict[str, Any]:
    return {
        "name": "fuzzed",
        "manifest": str(manifest),
        "output": str(manifest.parent / "runs"),
        "model": "builtin",
        "seed": 3,
        "sampling": {"num_inference_steps": 2, "scheduler": "euler", "width": 64},
        "images": {"format": "png", "file_name": "{id}/{image_id}.png"},
        "batch": {"size": 2, "shard_size": 4},
        "cluster": {"actors": 1, "max_attempts": 2},
        "columns": {"negative_prompt": None},
    }


def ends_in(codes: tuple[int, ...], verb: str, folder: Path, job: Path) -> int:
    """Check that the command ends with one of these codes and a message, and writes nothing."""
    before = sorted(folder.rglob("*"))
    result = CliRunner().invoke(command, [verb, str(job)])
    assert result.exit_code in codes, (job.read_bytes(), result.output, result.exception)
    assert "Traceback" not in result.output
    assert result.exit_code == 0 or result.stderr.strip()
    assert sorted(folder.rglob("*")) == before
    return result.exit_code


def plan(folder: Path, job: Path) -> None:
    """Check that `plan` accepts or refuses the job."""
    ends_in((0, 2), "plan", folder, job)


def plan_and_run(folder: Path, job: Path) -> None:
    """Check that `run` refuses what `plan` refuses."""
    if ends_in((0, 2), "plan", folder, job) == 2:
        ends_in((2,), "run", folder, job)


def fuzz_jobs(folder: Path, seeds: range, tried: Callable[[Path, Path], None] = plan) -> None:
    manifest = folder / "prompts.csv"
    manifest.write_bytes(encoded(".csv", ROWS))
    job = folder / "job.yaml"
    for seed in seeds:
        job.write_bytes(mutated_job(job_over(manifest), Random(seed)))
        tried(folder, job)


def fuzz_manifests(folder: Path, seeds: range, tried: Callable[[Path, Path], None] = plan) -> None:
    job = folder / "job.yaml"
    for seed in seeds:
        random = Random(seed)
        suffix = random.choice(SUFFIXES)
        manifest = folder / f"prompts{suffix}"
        manifest.write_bytes(mutated_bytes(encoded(suffix, ROWS), random))
        job.write_text(json.dumps(job_over(manifest)))
        tried(folder, job)
        manifest.unlink()


def test_mutated_job_files_are_refused_with_a_message(tmp_path: Path) -> None:
    fuzz_jobs(tmp_path, range(60))


def test_mutated_manifests_are_refused_with_a_message(tmp_path: Path) -> None:
    fuzz_manifests(tmp_path, range(30))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_thousand_mutated_job_files_and_manifests_are_refused_with_a_message(
    tmp_path: Path,
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "manifests").mkdir()
    fuzz_jobs(tmp_path / "jobs", range(1000, 1500))
    fuzz_manifests(tmp_path / "manifests", range(1000, 1500))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("local_ray")
def test_run_refuses_what_plan_refuses_and_leaves_no_run_behind(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "manifests").mkdir()
    fuzz_jobs(tmp_path / "jobs", range(2000, 2060), plan_and_run)
    fuzz_manifests(tmp_path / "manifests", range(2000, 2060), plan_and_run)
