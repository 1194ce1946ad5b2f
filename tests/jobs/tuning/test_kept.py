"""What a tuning has found, kept for the summaries of later runs."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.made_runs import record_of

from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.search import ConfigTrial
from nightpress.jobs.tuning.kept import gain_line, keep
from nightpress.pipelines.run_directory.record import RunRecord

DEEP = TuningConfig.of(deep_features={"interval": 2})


def tuning(record: RunRecord, config: TuningConfig | None, lowest_db: float = 33.74) -> Any:
    """What `keep` reads of the tuning of a record's model."""
    best = None if config is None else ConfigTrial(config, 6.0, 1.8, (math.inf, lowest_db), 1.0)
    setup = SimpleNamespace(
        info=record.model, device="cpu", reference=SimpleNamespace(dtype="float32")
    )
    return SimpleNamespace(setup=setup, best=best)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return record_of(str(tmp_path), model={"speed": {}})


def test_a_run_that_does_not_use_the_result_names_what_it_could_gain(record: RunRecord) -> None:
    assert gain_line(record) is None
    keep(tuning(record, DEEP))
    assert gain_line(record) == (
        "nightpress tune has measured 1.80 times the speed of float32 for this model on this "
        "device with deep_features interval 2 (from 33.7 dB up)"
    )
    keep(tuning(record, DEEP, math.inf))
    assert str(gain_line(record)).endswith("(the same pixels)")


def test_a_run_that_uses_it_and_one_of_another_model_or_device_name_nothing(
    record: RunRecord,
) -> None:
    keep(tuning(record, DEEP))
    model = record.spec.model.model_copy(update={"speed": DEEP.speed})
    assert gain_line(replace(record, spec=record.spec.model_copy(update={"model": model}))) is None
    other = replace(record.model, fingerprint="e" * 64)
    assert gain_line(replace(record, model=other)) is None
    assert gain_line(replace(record, device="cuda")) is None
    assert gain_line(None) is None


def test_nothing_is_kept_where_nothing_was_faster(record: RunRecord) -> None:
    assert keep(tuning(record, None)) is None
    assert gain_line(record) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fingerprint": "a"}'])
def test_a_file_that_is_not_what_this_version_writes_is_left_alone(
    record: RunRecord, text: str
) -> None:
    path = keep(tuning(record, DEEP))
    assert path is not None
    assert json.loads(path.read_text())["ratio"] == 1.8
    path.write_text(text)
    assert gain_line(record) is None
