"""What a tuning has found, kept for the summaries of later runs."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.made_runs import record_of

from nightpress import jobs
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.device_name import device_name
from nightpress.diffusion_core.tuning.search import ConfigTrial
from nightpress.jobs.tuning import kept
from nightpress.jobs.tuning.kept import gain_line, keep
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.run_directory.auto_speed import AutoSpeed, TriedWay
from nightpress.pipelines.run_directory.record import RunRecord

MakeSpec = Callable[..., RunSpec]

DEEP = TuningConfig.of(deep_features={"interval": 2})

HERE = str(device_name("cpu"))


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


def kept_at(record: RunRecord, config: TuningConfig, **changes: Any) -> Path:
    """The file of what a tuning has found on this CPU, with some values of it changed."""
    path = keep(tuning(record, config))
    assert path is not None
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_a_run_that_does_not_use_the_result_names_what_it_could_gain(record: RunRecord) -> None:
    assert gain_line(record, [HERE]) is None
    keep(tuning(record, DEEP))
    assert gain_line(record, ["another CPU", HERE]) == (
        f"nightpress tune has measured 1.80 times the speed of float32 for this model on {HERE} "
        "with deep_features interval 2 (from 33.7 dB up)"
    )
    keep(tuning(record, DEEP, math.inf))
    assert str(gain_line(record, [HERE])).endswith("(the same pixels)")


def test_a_run_that_uses_it_and_one_of_another_model_or_device_name_nothing(
    record: RunRecord,
) -> None:
    keep(tuning(record, DEEP))
    model = record.spec.model.model_copy(update={"speed": DEEP.speed})
    same = replace(record, spec=record.spec.model_copy(update={"model": model}))
    assert gain_line(same, [HERE]) is None
    other = replace(record, model=replace(record.model, fingerprint="e" * 64))
    assert gain_line(other, [HERE]) is None
    assert gain_line(record, ["NVIDIA H200"]) is None
    assert gain_line(record, []) is None
    assert gain_line(None, [HERE]) is None


def decided(record: RunRecord, config: TuningConfig, ratio: float | None) -> RunRecord:
    """The record of a run for which `model.speed: auto` has come to this."""
    tried = (TriedWay("channels_last", 1.1), TriedWay(config.name, ratio))
    decision = AutoSpeed(None, config.speed, "it is faster", tried)
    model = record.spec.model.model_copy(update={"speed": config.speed})
    spec = record.spec.model_copy(update={"model": model})
    return replace(record, spec=spec, auto_speed=(decision,))


@pytest.mark.parametrize(
    ("ratio", "is_named"), [(1.5, True), (1.799, True), (1.8, False), (2.4, False), (None, True)]
)
def test_a_run_that_auto_has_made_as_fast_as_the_result_names_no_gain(
    record: RunRecord, ratio: float | None, is_named: bool
) -> None:
    keep(tuning(record, TuningConfig.of(channels_last=True)))
    faster = TuningConfig.of(channels_last=True, compile="regional")
    assert (gain_line(decided(record, faster, ratio), [HERE]) is not None) == is_named


def test_a_run_that_auto_has_left_exact_names_every_gain(record: RunRecord) -> None:
    kept_at(record, DEEP, ratio=1.05)
    assert gain_line(decided(record, TuningConfig(), None), [HERE]) is not None


def test_speeds_are_not_compared_over_another_reference(record: RunRecord) -> None:
    """Half precision that is 1.8 times as fast as float32 may be more than twice float16."""
    kept_at(record, DEEP, reference_dtype="bfloat16")
    faster = TuningConfig.of(channels_last=True, compile="regional")
    assert gain_line(decided(record, faster, 2.4), [HERE]) is not None


def test_nothing_is_kept_where_nothing_was_faster(record: RunRecord) -> None:
    assert keep(tuning(record, None)) is None
    assert gain_line(record, [HERE]) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Invalid JSON"),
        ("[" * 5000, "Invalid JSON"),
        ("[]", "Input should be"),
        ('{"fingerprint": "a"}', "device: Field required"),
        ({"ratio": "fast"}, "ratio: Input should be a valid number"),
        ({"lowest_db": [1]}, "lowest_db: Input should be a valid number"),
        ({"speed": "warp"}, "speed"),
    ],
)
def test_a_file_that_is_not_what_this_version_writes_is_said_in_one_line_and_raises_nothing(
    record: RunRecord, text: str | dict[str, Any], reason: str
) -> None:
    path = kept_at(record, DEEP)
    assert json.loads(path.read_text())["ratio"] == 1.8
    if isinstance(text, str):
        path.write_text(text)
    else:
        kept_at(record, DEEP, **text)
    line = str(gain_line(record, [HERE]))
    start = f"what nightpress tune has kept for this model cannot be read: {path}: "
    assert line.startswith(start)
    assert reason in line.removeprefix(start)
    assert "\n" not in line


def test_a_folder_that_cannot_be_read_is_said_as_well(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "cannot be read: [Errno 20] Not a directory" in str(gain_line(record, [HERE]))

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert "cannot be read: Could not determine" in str(gain_line(record, [HERE]))


@pytest.mark.usefixtures("local_ray")
def test_a_run_asks_its_actors_for_their_device_and_says_what_it_could_gain(
    make_spec: MakeSpec, record: RunRecord
) -> None:
    spec = make_spec()
    info = ModelFiles.locate(spec.model, {}).describe(spec.model, device="cpu")
    keep(tuning(replace(record, model=info), DEEP))
    assert f"for this model on {HERE} with deep" in str(jobs.run(spec).tuned)
    assert jobs.run(spec).tuned is None, "nothing is made, so that no actor starts"


CUDA_DRIVER = """
import sys
from pathlib import Path
from nightpress.jobs.tuning.kept import gain_line
from nightpress.pipelines.run_directory.record import RunRecord

record = RunRecord.from_json(Path(sys.argv[1]).read_bytes(), "run")
print(record.device, gain_line(record, ["NVIDIA H200"]), "torch" in sys.modules, sep="\\n")
"""
"""The end of a run on GPUs, in a process of its own."""


@pytest.mark.parametrize("is_kept", [False, True])
def test_the_driver_of_a_run_on_gpus_needs_no_torch_to_name_a_gain(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    monkeypatch.setattr(kept, "device_name", lambda device: "NVIDIA H200")
    if is_kept:
        keep(tuning(record, DEEP))
    (tmp_path / "run.json").write_bytes(replace(record, device="cuda").to_json())
    command = [sys.executable, "-c", CUDA_DRIVER, str(tmp_path / "run.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    device, line, has_torch = done.stdout.splitlines()
    assert (device, has_torch) == ("cuda", "False")
    assert ("on NVIDIA H200 with deep_features" in line) == is_kept
