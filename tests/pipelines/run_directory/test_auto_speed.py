"""What `model.speed: auto` has come to: in run.json as if it had been set, and resumed with."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.made_runs import begin, record_of

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.pipelines.errors import ChangedRunError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.auto_speed import AutoSpeed, TriedWay, decided_spec
from nightpress.pipelines.run_directory.record import (
    RUN_FILE,
    RunRecord,
    create_record,
    new_record,
    read_record,
)
from nightpress.pipelines.storage import Store

FULL = SpeedSpec(compile="full")
DECIDED = AutoSpeed(
    None, FULL, "compile full; 1.20 times as fast", (TriedWay("compile full", 1.2),)
)


def job(record: RunRecord, **model: Any) -> RunSpec:
    """The job of a record with other keys of its model."""
    values = record.spec.as_dict()
    del values["model"]["speed"]
    return RunSpec.from_dict(values | {"model": values["model"] | model})


def decided(record: RunRecord, *decisions: AutoSpeed, **model: Any) -> RunRecord:
    """The record of a new run of the same job, with what was decided."""
    facts = job(record, **model), record.model, record.device, record.batch_size, record.layout
    return new_record(*facts, auto_speed=decisions)


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return record_of(str(tmp_path))


def test_the_record_has_the_ways_as_if_they_had_been_set_and_says_that_they_were_not(
    record: RunRecord,
) -> None:
    fast = decided(record, DECIDED)
    assert fast.spec.model.speed == FULL
    values = json.loads(fast.to_json())
    assert values["spec"]["model"]["speed"]["compile"] == "full"
    assert values["auto_speed"][0]["tried"][0]["name"] == "compile full"
    assert RunRecord.from_json(fast.to_json(), "run") == fast


def test_ways_that_were_decided_are_part_of_a_runs_fingerprint_like_those_that_were_set(
    record: RunRecord,
) -> None:
    fast = decided(record, DECIDED)
    by_hand = decided(record, speed={"compile": "full"})
    assert fast.fingerprint == by_hand.fingerprint != record.fingerprint
    plainly = AutoSpeed(None, SpeedSpec(), "exact; a short run")
    exact = decided(record, speed="exact")
    assert decided(record, plainly).fingerprint == exact.fingerprint == record.fingerprint


@pytest.mark.parametrize("speed", ["auto", None, {"compile": "full"}])
def test_a_run_is_resumed_with_the_ways_that_it_has_decided(
    record: RunRecord, speed: object
) -> None:
    fast = decided(record, DECIDED)
    spec = job(record, **({} if speed is None else {"speed": speed}))
    assert fast.changes(spec, fast.model, fast.device) == []
    assert fast.resumed_by(spec).model.ways == FULL


@pytest.mark.parametrize("speed", ["exact", {}])
def test_a_job_that_asks_for_exact_does_not_resume_a_run_with_other_bits(
    record: RunRecord, speed: object
) -> None:
    fast = decided(record, DECIDED)
    (change,) = fast.changes(job(record, speed=speed), fast.model, fast.device)
    assert str(change) == "model.speed.compile: 'full' -> None"


@pytest.mark.parametrize("speed", ["auto", "exact", {}])
def test_a_run_of_a_version_that_decided_nothing_is_resumed_exactly(
    record: RunRecord, speed: object, tmp_path: Path
) -> None:
    run = begin(str(tmp_path / "older"), model={"speed": {}})
    assert "auto_speed" not in json.loads(run.store.read(RUN_FILE))
    older = read_record(run.store)
    assert older is not None
    spec = job(older, speed=speed)
    assert older.changes(spec, older.model, older.device) == []
    assert not older.resumed_by(spec).model.ways.chosen()


def test_ways_that_were_set_by_hand_are_not_dropped_in_silence(record: RunRecord) -> None:
    by_hand = decided(record, speed={"channels_last": True})
    (change,) = by_hand.changes(job(record), by_hand.model, by_hand.device)
    assert str(change) == "model.speed.channels_last: True -> None"


def test_of_two_processes_that_decide_at_once_both_use_what_the_first_has_decided(
    record: RunRecord, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "run"))
    first = decided(record, DECIDED)
    second = decided(record, AutoSpeed(None, SpeedSpec(), "exact; nothing is faster"))
    assert create_record(store, first) == first
    assert create_record(store, second).spec.model.speed == FULL
    with pytest.raises(ChangedRunError, match=r"model\.speed\.compile: 'full' -> None"):
        create_record(store, decided(record, speed="exact"))


def test_each_of_several_models_has_its_own_decision() -> None:
    models = [{"name": "a", "source": "builtin"}, {"name": "b", "source": "builtin"}]
    models.append({"name": "c", "source": "builtin", "speed": {"channels_last": True}})
    values = {"name": "x", "manifest": "m.csv", "output": "out", "models": models}
    spec = decided_spec(RunSpec.from_dict(values), [AutoSpeed("b", FULL, "compile full")])
    chosen = [model.ways.chosen() for model in spec.every_model]
    assert chosen == [{}, {"compile": "full"}, {"channels_last": True}]
    assert all(model.speed != "auto" for model in spec.every_model)
