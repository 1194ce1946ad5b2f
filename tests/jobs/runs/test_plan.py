"""What `plan` says: how far the run is, what is read, and which names the images get."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from support.fakes.fake_runs import finished_run
from support.growing_runs import extend
from support.plans import MODEL, write

from nightpress import jobs
from nightpress.diffusion_core.models.weight_size import WeightSizes
from nightpress.jobs.cli import command
from nightpress.jobs.errors import NightpressError
from nightpress.jobs.runs import existing_run
from nightpress.jobs.runs.existing_run import State
from nightpress.pipelines.errors import Damaged, StoreDenied, StoreError, UnsupportedFormat
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.lease import Lease, current_process
from nightpress.pipelines.storage import Store

PROMPTS = ("a", "b", "c", "d", "e", "f")


@pytest.fixture(autouse=True)
def _fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"float32": WeightSizes(74_700_000, 22_900_000, 7_900_000)}
    monkeypatch.setattr("nightpress.jobs.runs.plan.weigh_models", lambda spec: (MODEL, [weights]))


def run_plan(folder: Path, spec: RunSpec, *arguments: str) -> Result:
    (folder / "night.yaml").write_text(yaml.safe_dump(spec.as_dict()))
    return CliRunner().invoke(command, ["plan", str(folder / "night.yaml"), *arguments])


def values_of(result: Result) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(result.stdout)
    return values


@pytest.fixture
def finished(tmp_path: Path) -> RunSpec:
    _, record = finished_run(tmp_path, PROMPTS)
    return record.spec


def test_a_new_run_has_no_state(tmp_path: Path, finished: RunSpec) -> None:
    result = run_plan(tmp_path, finished, "--set", "name=other")
    assert result.exit_code == 0
    assert "state " not in result.stdout
    assert jobs.plan(finished.model_copy(update={"name": "other"})).run_state.state is State.NEW


def test_a_finished_run_is_said_to_be_finished(tmp_path: Path, finished: RunSpec) -> None:
    result = run_plan(tmp_path, finished)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1] == "state    finished: 6 of 6 images are done"


def interrupt(spec: RunSpec) -> None:
    """Undo the second shard's commit, and one of its two images."""
    for path in ("metadata/shard-00001.parquet", "images/00000005_00.png"):
        Store(spec.url).delete(path)


def test_a_run_that_can_go_on_is_said_to_be_resumable(tmp_path: Path, finished: RunSpec) -> None:
    interrupt(finished)
    result = run_plan(tmp_path, finished)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1] == "state    resumable: 5 of 6 images are done"
    assert values_of(run_plan(tmp_path, finished, "--json"))["run_state"]["num_done"] == 5


def test_a_run_that_another_process_works_on_is_said_to_be_held(
    tmp_path: Path, finished: RunSpec
) -> None:
    store = Store(finished.url)
    interrupt(finished)
    holder = current_process()
    store.create("lease/00001.json", holder.to_json())
    lease = Lease(store, 1, holder)
    try:
        result = run_plan(tmp_path, finished)
        assert result.exit_code == 0
        assert result.stdout.splitlines()[1].startswith("state    held by ")
        assert result.stdout.splitlines()[1].endswith("; 5 of 6 images are done")
    finally:
        lease.release()


def reseed(spec: RunSpec) -> RunSpec:
    return spec.model_copy(update={"seed": 9})


def test_a_run_that_has_changed_is_said_to_be_refused(tmp_path: Path, finished: RunSpec) -> None:
    spec = reseed(finished)
    result = run_plan(tmp_path, spec)
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert lines[1].startswith("state    changed since it was started, so `nightpress run` refuses")
    assert lines[2].startswith("         seed")
    assert "was started with a different job" in result.stderr
    as_json = run_plan(tmp_path, spec, "--json")
    assert as_json.exit_code == 2
    values = values_of(as_json)
    assert (values["error"]["type"], values["exit_code"]) == ("ChangedRunError", 2)
    (found,) = values["run_state"]["changes"]
    assert found["field"].startswith("seed")
    assert values["run_state"]["growth"] is None


def test_a_manifest_that_has_grown_is_planned_for_its_new_images_alone(
    tmp_path: Path, finished: RunSpec
) -> None:
    path = Path(str(finished.manifest))
    path.write_text("\n".join([*PROMPTS, "new", "newer"]) + "\n")
    result = run_plan(tmp_path, finished)
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert lines[1].startswith("state    its manifest has changed since it was planned; 6 of 6")
    assert lines[2] == "         2 images came: 00000006_00, 00000007_00"
    assert lines[3] == "         would add 2 images; run with --extend"
    assert any(line.endswith(" for the 2 images to add") for line in lines)
    assert "the manifest has changed since it was planned. Extend the run with" in result.stderr
    values = values_of(run_plan(tmp_path, finished, "--json"))
    assert values["error"]["type"] == "ManifestGrown"
    assert values["run_state"]["growth"]["num_images"] == 2
    assert values["run_state"]["growth"]["images"]["came"]["first"] == [
        "00000006_00",
        "00000007_00",
    ]
    path.write_text("\n".join(["z", *PROMPTS[1:]]) + "\n")
    refused = run_plan(tmp_path, finished)
    assert "would refuse the changed images, or make them again" in refused.stdout
    assert "--changed new-variant" in refused.stderr


def test_a_plan_that_may_extend_the_run_ends_as_the_run_would(
    tmp_path: Path, finished: RunSpec
) -> None:
    path = Path(str(finished.manifest))
    path.write_text("\n".join(["z", *PROMPTS[1:], "new"]) + "\n")
    assert run_plan(tmp_path, finished, "--extend").exit_code == 2
    result = run_plan(tmp_path, finished, "--extend", "--changed", "new-variant")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[5] == "         adds 2 images to the run"
    options = ("--extend", "--changed", "new-variant", "--json")
    values = values_of(run_plan(tmp_path, finished, *options))
    assert (values["run_state"]["state"], values["error"]) == ("grows", None)
    assert run_plan(tmp_path, finished, "--changed", "new-variant").exit_code == 2


def test_a_plan_says_what_the_run_says_of_a_plan_that_cannot_be_compared(
    tmp_path: Path, finished: RunSpec
) -> None:
    Path(str(finished.manifest)).write_text("other\n")
    Path(finished.url, "plan/part-00000.parquet").unlink()
    result = run_plan(tmp_path, finished, "--extend")
    assert result.exit_code == 2
    assert "Bring the old manifest back once to finish the plan" in result.stderr


def test_images_that_the_manifest_does_not_plan_any_more_are_counted(
    tmp_path: Path, finished: RunSpec
) -> None:
    path = Path(str(finished.manifest))
    path.write_text("\n".join(PROMPTS[:4]) + "\n")
    result = run_plan(tmp_path, finished)
    assert "would make nothing, and record the manifest; run with --extend" in result.stdout
    extend(finished)
    line = run_plan(tmp_path, finished).stdout.splitlines()[1]
    assert line.endswith("6 of 6 images are done; 2 images are not in the manifest any more")


def test_an_output_that_cannot_be_reached_is_told_within_seconds(
    tmp_path: Path, finished: RunSpec
) -> None:
    away = finished.model_copy(
        update={
            "output": "s3://bucket/runs",
            "storage": {"s3": {"endpoint_url": "http://127.0.0.1:9"}},
        }
    )
    began = time.monotonic()
    result = run_plan(tmp_path, away)
    assert time.monotonic() - began < 30
    assert result.exit_code == 2
    assert result.stdout.splitlines()[1].startswith("state    unknown: s3://bucket/runs")
    assert "images   6" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreError("s3://bucket: keeps failing (SlowDown)"), 4),
        (StoreDenied("s3://bucket: access denied"), 2),
        (Damaged("metadata/shard-00003.parquet is damaged", 3), 1),
        (UnsupportedFormat("run.json is of a newer nightpress"), 2),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_plan_of_a_run_that_cannot_be_read_ends_as_the_run_would(
    error: NightpressError,
    code: int,
    tmp_path: Path,
    finished: RunSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(store: Store) -> None:
        raise error

    monkeypatch.setattr(existing_run, "read_record", fail)
    result = run_plan(tmp_path, finished)
    assert result.exit_code == code, result.output
    assert str(error) in result.output


def test_files_columns_and_names_are_listed(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "cfg_scale": "7", "scene": n % 2, "w": 64} for n in range(12)]
    write(tmp_path / "set" / "a.csv", rows[:5])
    write(tmp_path / "set" / "b.csv", rows[5:])
    spec = RunSpec.from_dict(
        {
            "name": "night",
            "manifest": f"{tmp_path}/set",
            "output": f"{tmp_path}/runs",
            "columns": {"width": "w"},
            "images": {"file_name": "{scene}/{prompt}.png"},
        }
    )
    result = run_plan(tmp_path, spec)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[1:4] == [
        "manifest 2 files: 2 csv",
        f"         {tmp_path}/set/a.csv (csv, 5 rows)",
        f"         {tmp_path}/set/b.csv (csv, 7 rows)",
    ]
    assert lines[4:6] == ["reads    prompt, width (column w)", "carries  cfg_scale, scene"]
    assert "'cfg_scale' is carried and changes no image; did you mean guidance_scale?" in lines[6]
    assert "names    images/0/p0.png, images/0/p4.png, images/1/p11.png" in lines
    values = values_of(run_plan(tmp_path, spec, "--json"))
    assert [file["num_rows"] for file in values["files"]] == [5, 7]
    assert values["file_names"] == ["images/0/p0.png", "images/0/p4.png", "images/1/p11.png"]
    uses = {use["name"]: use for use in values["columns"]}
    assert uses["w"]["settings"] == ["width"]
    assert uses["cfg_scale"]["did_you_mean"] == ["guidance_scale"]


def test_many_files_are_counted_and_the_first_ten_listed(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / "set" / f"{number:02d}.csv", [{"prompt": "a"}])
    spec = RunSpec.from_dict(
        {"name": "night", "manifest": f"{tmp_path}/set", "output": f"{tmp_path}/runs"}
    )
    lines = run_plan(tmp_path, spec).stdout.splitlines()
    assert lines[1] == "manifest 12 files: 12 csv"
    assert lines[12] == "         ... and 2 more"
    assert len(values_of(run_plan(tmp_path, spec, "--json"))["files"]) == 12


def slow_rows(spec: RunSpec, seconds: float) -> None:
    """Have a finished run's metadata say that each of its images took so long."""
    for path in sorted(Path(spec.url, "metadata").iterdir()):
        table = pq.read_table(path)
        column = table.schema.get_field_index("sampling_s")
        times = pa.array([seconds] * len(table), pa.float64())
        pq.write_table(table.set_column(column, table.schema.field(column), times), path)


@pytest.fixture
def measured(tmp_path: Path, finished: RunSpec) -> RunSpec:
    """A job of ten rows, four of them urgent, whose images take an hour each."""
    slow_rows(finished, 3600.0)
    rows = [{"prompt": "p", "priority": int(n % 3 == 0), "surface": "oak"} for n in range(10)]
    write(tmp_path / "m.csv", rows)
    update = {"name": "next", "manifest": [str(tmp_path / "m.csv")]}
    return finished.model_copy(update=update)


def in_hours(hours: float) -> str:
    return datetime.fromtimestamp(time.time() + 3600 * hours + 60, UTC).isoformat()


def test_with_a_deadline_the_plan_says_what_will_not_be_reached(
    tmp_path: Path, measured: RunSpec
) -> None:
    text = run_plan(tmp_path, measured, "--deadline", in_hours(6.5), "--tz", "UTC").stdout
    told = [line for line in text.splitlines() if line.startswith(("deadline", "         not"))]
    assert told[0].endswith(" UTC: about 6 of 10 images on 1 actor, for sampling alone")
    assert told[1] == "         not reached: about 4 images: priority 0 (4 of 6)"
    two = run_plan(tmp_path, measured, "--deadline", in_hours(1), "--set", "cluster.actors=2")
    assert "about 2 of 10 images on 2 actors" in two.stdout
    assert "priority 1 (2 of 4); priority 0 (6 of 6)" in two.stdout
    all_of_them = run_plan(tmp_path, measured, "--deadline", in_hours(11)).stdout
    assert "all 10 images on 1 actor, for sampling alone" in all_of_them
    assert "\ndeadline" not in run_plan(tmp_path, measured).stdout


def test_the_order_of_the_job_is_told_with_its_values(tmp_path: Path, measured: RunSpec) -> None:
    override = ["--set", "batch.order=[surface]", "--deadline", in_hours(6.5)]
    assert "priority 0, surface = oak (4 of 6)" in run_plan(tmp_path, measured, *override).stdout
    values = values_of(run_plan(tmp_path, measured, *override, "--json"))["forecast"]
    assert {key: values[key] for key in ("num_actors", "unknown", "num_images")} == {
        "num_actors": 1,
        "unknown": None,
        "num_images": 10,
    }
    assert (values["num_reached"], values["num_missed"], values["num_levels_missed"]) == (6, 4, 1)
    assert values["missed"] == [
        {"values": {"priority": 0, "surface": "oak"}, "num_missed": 4, "num_images": 6}
    ]


def test_without_an_order_the_plan_says_what_would_decide(
    tmp_path: Path, measured: RunSpec
) -> None:
    ignored = ["--set", "columns.priority=null", "--deadline", in_hours(6.5)]
    text = run_plan(tmp_path, measured, *ignored).stdout
    assert "not reached: about 4 images; a column priority, or batch.order, decides which" in text


def test_a_deadline_without_an_estimate_is_said_to_be_unknown(
    tmp_path: Path, measured: RunSpec
) -> None:
    other = ["--set", "sampling.num_inference_steps=7", "--deadline", in_hours(6.5)]
    text = run_plan(tmp_path, measured, *other).stdout
    assert "unknown: no run here has used this model with these settings yet" in text
    values = values_of(run_plan(tmp_path, measured, *other, "--json"))["forecast"]
    assert values["num_reached"] is None
    assert values["unknown"].startswith("no run here has used this model")


def test_a_finished_run_has_nothing_left_to_make_by_a_deadline(
    tmp_path: Path, finished: RunSpec
) -> None:
    text = run_plan(tmp_path, finished, "--deadline", in_hours(1)).stdout
    assert ": nothing is left to make" in text


def test_a_run_that_can_go_on_is_counted_from_where_it_is(
    tmp_path: Path, finished: RunSpec
) -> None:
    slow_rows(finished, 3600.0)
    interrupt(finished)
    text = run_plan(tmp_path, finished, "--deadline", in_hours(1.5)).stdout
    assert ": about 1 of 2 images on 1 actor" in text
    changed = run_plan(tmp_path, reseed(finished), "--deadline", in_hours(1.5))
    assert ": unknown: the job or its manifest is not that of the run" in changed.stdout
