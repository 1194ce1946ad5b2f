"""run.json: read back as it was written, or refused in words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.made_runs import begin, record_of

from nightpress.diffusion_core.acceleration.numerics import SWITCHES
from nightpress.pipelines import open_run
from nightpress.pipelines.errors import ChangedRunError, RunNotFound, UnsupportedFormat
from nightpress.pipelines.run_directory.record import (
    FORMAT_VERSION,
    RUN_FILE,
    RunRecord,
    create_record,
    new_record,
    read_record,
)
from nightpress.pipelines.storage import Store


def stored(folder: Path, **changes: Any) -> Store:
    """A run whose run.json has other values; None removes a key."""
    run = begin(str(folder))
    values = json.loads(run.store.read(RUN_FILE)) | changes
    values = {key: value for key, value in values.items() if value is not None}
    run.store.put(RUN_FILE, json.dumps(values).encode())
    return run.store


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    record = record_of(str(tmp_path))
    assert RunRecord.from_json(record.to_json(), "run") == record
    assert json.loads(record.to_json())["format_version"] == 1 < FORMAT_VERSION


def test_a_run_of_a_newer_format_is_refused_in_words(tmp_path: Path) -> None:
    store = stored(tmp_path, format_version=3, spec={"made": "by the future"})
    with pytest.raises(UnsupportedFormat) as caught:
        open_run(store.url)
    assert str(caught.value) == (
        f"{store.url}: this run was written in format 3; this nightpress reads up to format 2. "
        "Upgrade nightpress."
    )


@pytest.mark.parametrize("version", [None, "new", [1]])
def test_without_a_number_for_its_format_it_is_not_a_run(tmp_path: Path, version: object) -> None:
    store = stored(tmp_path, format_version=version)
    with pytest.raises(RunNotFound, match=r"run\.json: not the record of a run") as caught:
        read_record(store)
    assert "\n" not in str(caught.value)


def test_the_first_record_wins_and_another_job_is_refused(tmp_path: Path) -> None:
    store, first = Store(str(tmp_path / "run")), record_of(str(tmp_path))
    assert create_record(store, first) == first
    assert create_record(store, record_of(str(tmp_path))) == first
    with pytest.raises(ChangedRunError, match="seed: 0 -> 9"):
        create_record(store, record_of(str(tmp_path), seed=9))


def test_a_record_of_a_gpu_run_has_the_switches_of_torch_and_warns_when_they_change(
    tmp_path: Path,
) -> None:
    on_cpu = record_of(str(tmp_path))
    assert "numerics" not in json.loads(on_cpu.to_json())
    facts = on_cpu.spec, on_cpu.infos, "cuda", on_cpu.batch_sizes, on_cpu.layout
    record = new_record(*facts)
    assert record.numerics == SWITCHES
    assert RunRecord.from_json(record.to_json(), "run").numerics == SWITCHES
    assert record.package_differences() == []
    before = replace(record, numerics={**SWITCHES, "tf32": True})
    assert before.package_differences() == [
        "tf32 is off and was on when the run began; the last bits of a pixel may differ"
    ]
    assert len(replace(record, numerics={}).package_differences()) == 3
    assert replace(record, device="cpu", numerics={}).package_differences() == []


def test_a_run_records_the_precision_that_its_first_actor_has_found(tmp_path: Path) -> None:
    made = record_of(str(tmp_path))
    facts = made.spec, replace(made.model, dtype="float16"), "cuda", 8, made.layout
    record = new_record(*facts)
    assert record.dtype == "float16"
    assert "dtype" not in json.loads(record.to_json())["model"]
    unknown = new_record(made.spec, made.model, "cuda", 8, made.layout)
    assert (unknown.dtype, record.fingerprint != unknown.fingerprint) == ("bfloat16", True)
