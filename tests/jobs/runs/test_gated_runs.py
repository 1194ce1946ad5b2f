"""Gated runs on Ray, with a tiny model: what they make, and how they are stopped, resumed and
checked."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from support.run_files import PROMPTS, hashes, read_metadata

from nightpress import jobs
from nightpress.jobs.cli import command
from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.scoring.draws import draw_seed

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")

SEEDED = ["image_id", "status", "seed", "draw", "draws", "gate", "error", "scores"]


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.fixture(scope="module")
def middle(kept: tuple[Path, MakeSpec]) -> float:
    """The median sharpness of a run without gates."""
    scores = read_metadata(kept[1]()).column("scores").to_pylist()
    return median(dict(each)["sharpness"] for each in scores)


@pytest.fixture(scope="module")
def gates(middle: float) -> dict[str, Any]:
    """Gates that about half of the draws pass."""
    return {"require": [f"sharpness > {middle}"], "max_draws": 6, "keep_rejected": "thumbnails"}


def decided(spec: RunSpec) -> list[dict[str, Any]]:
    """What must not depend on shards and actors, by image."""
    table = read_metadata(spec).select(SEEDED).sort_by("image_id")
    return table.to_pylist()


def num_rejected_in(spec: RunSpec) -> int:
    return [row["status"] for row in decided(spec)].count("failed")


def job_file(tmp_path: Path, spec: RunSpec) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(spec.as_dict()))
    return str(path)


def test_gated_runs_of_other_shards_and_actors_take_the_same_draws(
    make_spec: MakeSpec, finished: MakeSpec, gates: dict[str, Any]
) -> None:
    one = make_spec(name="one", gates=gates)
    two = make_spec(
        name="two", gates=gates, batch={"size": 4, "shard_size": 3}, cluster={"actors": 2}
    )
    for spec in (one, two):
        jobs.run(spec)
    assert hashes(one) == hashes(two)
    assert decided(one) == decided(two)
    assert {row["draw"] for row in decided(one)} > {0, 1}
    assert jobs.verify(one).is_sound
    assert jobs.verify(two).is_sound

    planned = {row["image_id"]: row["seed"] for row in read_metadata(finished()).to_pylist()}
    for row in read_metadata(one).to_pylist():
        place = planned[row["image_id"]], row["id"], row["variant"]
        assert row["seed"] == draw_seed(*place, row["draw"] or 0)
    same = hashes(one).items() & hashes(finished()).items()
    assert len(same) == [row["draw"] for row in decided(one)].count(0)


def test_a_gated_run_is_resumed_repaired_retried_and_reproduced(
    tmp_path: Path, make_spec: MakeSpec, gates: dict[str, Any]
) -> None:
    spec = make_spec(gates=gates | {"max_draws": 2})
    job, before = job_file(tmp_path, spec), nightpress("run", job_file(tmp_path, spec))
    assert before.exit_code == 3, before.output
    assert "passed; rejected: " in before.stderr
    assert f"({num_rejected_in(spec)} of them rejected by gates)" in before.stdout
    assert (
        f"({num_rejected_in(spec)} of them rejected by gates)" in nightpress("status", job).stdout
    )
    rows, files = decided(spec), hashes(spec)
    num_rejected = num_rejected_in(spec)
    assert 0 < num_rejected < PROMPTS

    Path(spec.url, "metadata/shard-00001.parquet").unlink()
    assert nightpress("run", job).exit_code == 3
    assert (decided(spec), hashes(spec)) == (rows, files)

    drawn = next(row for row in rows if row["draw"])
    image = Path(spec.url, "images", f"{drawn['image_id']}.png")
    again = nightpress("reproduce", str(image))
    assert again.exit_code == 0, again.output
    assert "bit-exact: the same file" in again.output

    image.write_bytes(image.read_bytes()[:-40])
    assert nightpress("verify", job).exit_code == 3
    assert nightpress("verify", job, "--repair").exit_code == 0
    assert (decided(spec), hashes(spec)) == (rows, files)

    assert f"but for {num_rejected} that gates rejected" in nightpress("verify", job).stdout
    retried = nightpress("retry", job)
    assert retried.exit_code == 0, retried.output
    assert f"{num_rejected} images rejected by the gates" in retried.output
    made = jobs.again(spec, ids=[rows[0]["image_id"]], num_images=2)
    assert (made.num_ok + made.num_failed, jobs.verify(spec).is_sound) == (2, True)
    variants = [row for row in decided(spec) if row not in rows]
    assert len(variants) == 2
    assert all(row["draws"] in (1, 2) for row in variants)

    other = nightpress("run", job, "--set", "gates.max_draws=3")
    assert other.exit_code == 2
    assert "gates.max_draws" in other.stderr


def test_a_run_that_rejects_wholesale_stops_with_the_reason_and_resumes_with_a_higher_limit(
    tmp_path: Path, make_spec: MakeSpec
) -> None:
    never = {"require": ["exposure > 2"], "max_draws": 4, "max_rejected": "70%"}
    spec = make_spec(gates=never)
    job = job_file(tmp_path, spec)
    stopped = nightpress("run", job)
    assert stopped.exit_code == 4, stopped.output
    assert "draws were rejected, " in stopped.stderr
    assert " by exposure > 2, and gates.max_rejected is 70%; with a higher limit" in stopped.stderr
    resumed = nightpress("run", job, "--set", "gates.max_rejected=null")
    assert resumed.exit_code == 3, resumed.output
    assert {row["error"].partition(" ")[0] for row in decided(spec)} == {"exposure"}
    recorded = open_run(spec.url).draws.to_table(columns=["image_id", "draw"]).to_pylist()
    assert len(recorded) == 4 * PROMPTS
