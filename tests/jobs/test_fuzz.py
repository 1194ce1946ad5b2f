"""Mutated job files and manifests: each ends in 0 or 2, in words, with nothing half-written."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from mutations import mutated_bytes, mutated_job
from plans import encoded

from jobs.cli import command

SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt", ".parquet")

ROWS = [
    {"prompt": f"picture {n}", "id": f"row-{n}", "seed": n, "width": 64, "guidance_scale": 3.0}
    for n in range(12)
]


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


def refused_or_planned(folder: Path, job: Path) -> None:
    """`plan` ends in 0 or 2 and writes nothing."""
    before = sorted(folder.rglob("*"))
    result = CliRunner().invoke(command, ["plan", str(job)])
    assert result.exit_code in (0, 2), (job.read_bytes(), result.output, result.exception)
    assert "Traceback" not in result.output
    assert result.exit_code == 0 or result.stderr.strip()
    assert sorted(folder.rglob("*")) == before


def fuzz_jobs(folder: Path, seeds: range) -> None:
    manifest = folder / "prompts.csv"
    manifest.write_bytes(encoded(".csv", ROWS))
    job = folder / "job.yaml"
    for seed in seeds:
        job.write_bytes(mutated_job(job_over(manifest), Random(seed)))
        refused_or_planned(folder, job)


def fuzz_manifests(folder: Path, seeds: range) -> None:
    job = folder / "job.yaml"
    for seed in seeds:
        random = Random(seed)
        suffix = random.choice(SUFFIXES)
        manifest = folder / f"prompts{suffix}"
        manifest.write_bytes(mutated_bytes(encoded(suffix, ROWS), random))
        job.write_text(json.dumps(job_over(manifest)))
        refused_or_planned(folder, job)
        manifest.unlink()


def test_mutated_job_files_are_refused_in_words(tmp_path: Path) -> None:
    fuzz_jobs(tmp_path, range(60))


def test_mutated_manifests_are_refused_in_words(tmp_path: Path) -> None:
    fuzz_manifests(tmp_path, range(60))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_thousand_mutated_job_files_and_manifests_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "manifests").mkdir()
    fuzz_jobs(tmp_path / "jobs", range(1000, 1500))
    fuzz_manifests(tmp_path / "manifests", range(1000, 1500))
