"""Several models in one run: each image is that of a run with its model alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.several_models import alone, begin, infos_of, make, write_job

from nightpress.pipelines.errors import UnsupportedFormat
from nightpress.pipelines.export.licences import licences_of
from nightpress.pipelines.image_files.encoding import decoded, read_facts
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check, read_shard
from nightpress.pipelines.planning.batch_sizes import BatchSizes
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.review.columns import page_columns
from nightpress.pipelines.review.facts import fact_sheet
from nightpress.pipelines.review.rows import read_rows
from nightpress.pipelines.run_directory import record as records
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.estimate import estimate, rates_of_models
from nightpress.pipelines.run_directory.metadata_rows import metadata_rows
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord, new_record, require_record
from nightpress.pipelines.run_directory.verify import verify
from nightpress.pipelines.shards.batch_size_fallback import BatchSizeFallback
from nightpress.pipelines.shards.failed_shard import fail_shard
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

MODELS = ("drawn", "tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A finished run of two models."""
    folder = tmp_path_factory.mktemp("several")
    run = make(*begin(RunSpec.from_dict(write_job(folder))))
    write_report(run, run.store)
    return folder, run


def test_each_image_is_that_of_a_run_with_its_model_alone(made: tuple[Path, Run]) -> None:
    folder, run = made
    rows = {row["image_id"]: row for row in run.metadata.to_table().to_pylist()}
    assert len(rows) == 6
    for name in MODELS:
        other = make(*begin(RunSpec.from_dict(alone(folder, name))))
        for row in other.metadata.to_table().to_pylist():
            mine = rows.pop(row["image_id"])
            data = [run.store.read(mine["file"]), other.store.read(row["file"])]
            assert np.array_equal(*(np.asarray(decoded(each)) for each in data))
            assert read_facts(data[0]) == read_facts(data[1])
            assert (mine["model"], mine["model_fingerprint"], mine["dtype"]) == (
                row["model"],
                row["model_fingerprint"],
                row["dtype"],
            )
            assert mine["model_name"] == name
            assert mine["file"].startswith(f"images/{name}/")
    assert not rows


def test_a_run_is_read_back_as_it_was_recorded(made: tuple[Path, Run]) -> None:
    _, run = made
    assert require_record(run.store) == run.record
    values = json.loads(run.store.read("run.json"))
    assert values["format_version"] == 2
    assert [each["name"] for each in values["models"]] == list(MODELS)


def test_an_older_version_says_that_it_cannot_read_several_models(
    made: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "FORMAT_VERSION", 1)
    with pytest.raises(UnsupportedFormat, match="written in format 2"):
        require_record(made[1].store)


def test_a_run_with_one_model_is_recorded_in_the_format_of_older_versions(tmp_path: Path) -> None:
    store, record = begin(RunSpec.from_dict(alone(tmp_path, "tiny")))
    values = json.loads(store.read("run.json"))
    assert values["format_version"] == 1
    assert not {"models", "model_name"} & values.keys()
    assert "models" not in values["spec"]
    assert not any("model" in part for part in values["plan"]["parts"])
    assert record.each_model == (record,)
    assert record.of_shard(0) is record


def test_other_weights_and_settings_of_one_model_are_changes(made: tuple[Path, Run]) -> None:
    folder, run = made
    record, infos = run.record, infos_of(run.spec)
    assert isinstance(infos, dict)
    assert record.changes(run.spec, infos, "cpu") == []
    other = infos | {"tiny": replace(infos["tiny"], fingerprint="a" * 64)}
    (change,) = record.changes(run.spec, other, "cpu")
    assert change.field == "models.tiny: model_fingerprint"
    values = write_job(folder)
    values["models"][1]["sampling"] = values["models"][1]["sampling"] | {"width": 48}
    (change,) = record.changes(RunSpec.from_dict(values), infos, "cpu")
    assert change.field == "models.tiny.sampling.width"


def test_each_model_decides_the_fingerprint_of_the_run(made: tuple[Path, Run]) -> None:
    _, run = made
    infos, layout = infos_of(run.spec), run.record.layout

    def fingerprint(sizes: dict[str, BatchSizes], **others: str) -> str:
        assert isinstance(infos, dict)
        changed = {
            n: replace(infos[n], fingerprint=others.get(n, infos[n].fingerprint)) for n in infos
        }
        return new_record(run.spec, changed, "cpu", sizes, layout).fingerprint

    two = {name: BatchSizes(2) for name in MODELS}
    found = [
        fingerprint(two),
        fingerprint(two | {"tiny": BatchSizes(1)}),
        fingerprint(two, tiny="a" * 64),
        fingerprint(two, drawn="a" * 64),
    ]
    assert len(set(found)) == 4
    assert found[0] == run.record.fingerprint


def test_verify_finds_nothing_and_then_a_row_of_another_model(made: tuple[Path, Run]) -> None:
    _, run = made
    assert [finding for each in verify(run) for finding in each.findings] == []
    swapped = replace(run.record, models=run.record.models[::-1])
    names = [each.name for each in swapped.models]
    assert names == ["tiny", "drawn"]  # the order of the record decides nothing
    assert [f for each in verify(Run(run.store, swapped)) for f in each.findings] == []


def test_a_runner_refuses_a_record_of_several_models(made: tuple[Path, Run]) -> None:
    with pytest.raises(ValueError, match="one model"):
        ShardRunner(made[1].store, made[1].record, None, "here")  # type: ignore[arg-type]


def test_a_shard_that_nobody_survives_fails_with_its_own_model(tmp_path: Path) -> None:
    store, record = begin(RunSpec.from_dict(write_job(tmp_path)))
    shard = next(n for n in range(record.layout.num_shards) if record.layout.model_of(n) == "tiny")
    rows = read_shard(store, record.layout, shard)
    work = ShardWork(shard, 0, len(rows))
    fail_shard(store, record, work, rows, FailureType.WORKER_KILLED, "it was killed")
    found = metadata_rows(read_commit(store, shard))
    assert {row["model"] for row in found} == {str(tmp_path / "tiny")}
    assert {row["model_fingerprint"] for row in found} == {
        record.of_model("tiny").model.fingerprint
    }


def test_a_batch_size_that_did_not_fit_is_remembered_for_its_model(
    tmp_path: Path, made: tuple[Path, Run]
) -> None:
    store, record = Store(str(tmp_path / "run")), made[1].record
    settings = record.layout.batches[0].settings

    def fallback(view: RunRecord) -> BatchSizeFallback:
        found = BatchSizeFallback(store, BatchSizes(8), view.model_name)
        found.refresh()
        return found

    drawn, tiny = record.each_model
    assert fallback(drawn).halve(settings, 8) == 4
    assert fallback(drawn).size_for(settings) == 4
    assert fallback(tiny).size_for(settings) == 8


def test_times_are_known_for_each_model(made: tuple[Path, Run]) -> None:
    _, run = made
    infos = infos_of(run.spec)
    rates = rates_of_models(run.spec, infos)
    assert {key.model for key in rates} == set(MODELS)
    layout = check(run.spec, infos, 2)
    every = estimate(layout.batches, rates)
    each = [estimate(layout.of_model(name).batches, rates) for name in MODELS]
    assert every is not None
    assert every.actor_s == pytest.approx(sum(one.actor_s for one in each if one is not None))


def test_a_review_can_filter_by_model(made: tuple[Path, Run]) -> None:
    _, run = made
    columns = {each.name: each for each in page_columns(read_rows(run).table)}
    assert "model_name" in columns


def test_the_facts_of_an_image_give_a_job_with_its_model(made: tuple[Path, Run]) -> None:
    folder, run = made
    sheet = fact_sheet(run, "tiny1_00")
    assert ("model_name", "tiny") in sheet.facts
    assert f"source: {folder / 'tiny'}" in sheet.job
    assert "models:" not in sheet.job


def test_the_report_and_the_licences_name_each_model(made: tuple[Path, Run]) -> None:
    folder, run = made
    page = run.store.read("report.html").decode()
    assert "model drawn" in page
    assert "model tiny" in page
    names = [each.name for each in licences_of(run.record, {}) if each.role == "model"]
    assert names == ["builtin", str(folder / "tiny")]
