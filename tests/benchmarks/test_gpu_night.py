"""The GPU night: what it keeps when steps fail, last too long or find no time, and its steps."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nightpress.diffusion_core.acceleration.numerics import SWITCHES
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.tuning.auto_speed import quick_ways

NOT_ON_A_BARE_MACHINE = ("ray", "pyarrow", "fsspec", "s3fs", "click")


@pytest.fixture
def gpu_night(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import gpu_night

    return gpu_night


@pytest.fixture
def night_steps(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import night_steps

    return night_steps


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_is_imported_where_only_torch_and_the_libraries_of_models_are() -> None:
    missing = f"sys.modules.update(dict.fromkeys({NOT_ON_A_BARE_MACHINE!r}))"
    paths = f"sys.path.insert(0, {str(Path(__file__).parent)!r})"
    command = f"import sys; {missing}; {paths}; import gpu_night; print(len(gpu_night.STEPS))"
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 5


def good(night: Any) -> Iterator[dict[str, Any]]:
    yield {"figure": 1.5}
    yield {"figure": float("nan")}


def failing(night: Any) -> Iterator[dict[str, Any]]:
    yield {"before": True}
    raise SettingsError("no such kernel\nand more")


def endless(night: Any) -> Iterator[dict[str, Any]]:
    yield {"before": 1}
    while True:
        try:
            time.sleep(0.01)
        except Exception:  # as libraries do that try one thing after another
            continue


def run(gpu_night: Any, out: Path, seconds: float, **steps: Any) -> tuple[int, dict[str, Any]]:
    """The exit code of a night of these steps, each with its share, and what it has written."""
    known = {name: gpu_night.Step(name, share, step) for name, (share, step) in steps.items()}
    log = gpu_night.Log({"device": "cpu"}, out)
    clock = gpu_night.Clock(seconds, time.monotonic() + seconds)
    code = gpu_night.run_night(None, log, clock, list(known), known)
    return code, json.loads(out.read_text())


def test_a_step_that_fails_is_recorded_in_one_line_and_the_night_goes_on(
    gpu_night: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {"first": (0.4, failing), "second": (0.6, good)}
    code, written = run(gpu_night, tmp_path / "night.json", 60.0, **steps)
    first, second = written["steps"]
    assert code == 3
    assert (first["status"], first["error"]) == ("failed", "SettingsError: no such kernel and more")
    assert first["entries"] == [{"before": True}]
    assert (second["status"], second["entries"]) == ("done", [{"figure": 1.5}, {"figure": None}])
    printed = capsys.readouterr().out
    assert "SettingsError: no such kernel and more" in printed
    assert "figure 1.5\n" in printed


def test_a_step_that_lasts_too_long_is_cut_off_and_keeps_its_lines(
    gpu_night: Any, tmp_path: Path
) -> None:
    steps = {"endless": (0.01, endless), "good": (0.99, good)}
    code, written = run(gpu_night, tmp_path / "night.json", 30.0, **steps)
    assert [step["status"] for step in written["steps"]] == ["cut", "done"]
    assert written["steps"][0]["entries"] == [{"before": 1}]
    assert code == 3


def test_a_step_without_enough_time_is_skipped(gpu_night: Any, tmp_path: Path) -> None:
    step, later = gpu_night.Step("a", 0.4, good), gpu_night.Step("b", 0.6, good)
    clock = gpu_night.Clock(100.0, time.monotonic() + 5.0)
    log = gpu_night.Log({}, tmp_path / "night.json")
    assert gpu_night.run_step(None, log, clock, "a", step, [later]) == "skipped"
    (record,) = json.loads((tmp_path / "night.json").read_text())["steps"]
    assert record["entries"] == []
    assert record["error"].endswith("s are left of the night")


def test_what_a_step_leaves_over_goes_to_the_others(gpu_night: Any) -> None:
    step, later = gpu_night.Step("a", 0.1, good), gpu_night.Step("b", 0.3, good)
    clock = gpu_night.Clock(100.0, time.monotonic() + 80.0)
    assert clock.limit_s(step, [later]) == pytest.approx(20.0, abs=0.5)
    assert clock.limit_s(later, []) == pytest.approx(80.0, abs=0.5)


def test_the_file_is_whole_after_every_line(gpu_night: Any, tmp_path: Path) -> None:
    out, seen = tmp_path / "night.json", []

    def watching(night: Any) -> Iterator[dict[str, Any]]:
        for number in range(3):
            yield {"number": number}
            seen.append(json.loads(out.read_text())["steps"][-1])

    run(gpu_night, out, 60.0, only=(1.0, watching))
    assert [len(step["entries"]) for step in seen] == [1, 2, 3]
    assert {step["status"] for step in seen} == {"begun"}
    assert [path.name for path in tmp_path.iterdir()] == ["night.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cpu"], "needs --tiny"),
        (["--only", "flx"], "flx"),
        (["--seconds", "0"], "must be above 0"),
        ([], "to rehearse: --device cpu --tiny"),
    ],
)
def test_a_night_that_cannot_be_is_refused(
    arguments: list[str],
    words: str,
    gpu_night: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        gpu_night.parse(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_the_shares_of_all_steps_are_one_night(gpu_night: Any) -> None:
    assert sum(step.share for step in gpu_night.STEPS.values()) == pytest.approx(1.0)


def test_an_image_is_compared_at_places_of_its_batch(
    night_steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night_steps, "PLACE_SETTINGS", (("sd15", "float32", True),))
    monkeypatch.setattr(night_steps, "FEW_STEPS", 1)
    (entry,) = night_steps.places(night_steps.Night("cpu", "tiny"))
    assert (entry["batch"], entry["places"], entry["equal"]) == (3, 3, 3)
    assert (entry["largest_difference"], entry["again_equal"]) == (0, True)
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic == SWITCHES["cudnn_deterministic"]


def test_a_batch_beyond_the_memory_is_out_of_memory_and_hurts_no_later_one(
    night_steps: Any,
) -> None:
    (entry,) = night_steps.memory(night_steps.Night("cpu", "tiny"))
    assert entry["is_out_of_memory"], entry["raised"]
    assert entry["same_images_afterwards"]


def test_goals_are_shown_beside_rows_that_count_for_them(night_steps: Any) -> None:
    def entry(config: Any, dtype: str) -> Any:
        row = night_steps.Row(config, dtype, 8, 2.0, 1.0, 2.0, 0.5, 0.9, 3.0, None)
        return night_steps._rate("sdxl", row)

    assert entry(night_steps.NOTHING, "bfloat16")["goal"] == {"bfloat16": 1.9}
    assert entry(night_steps.FLOAT8_QUICK, "bfloat16")["goal"] == {"float8": 2.4}
    assert entry(night_steps.NOTHING, "float16")["goal"] is None


def test_an_entry_says_how_close_the_images_of_a_way_are(night_steps: Any) -> None:
    def lowest(decibels: float | None) -> Any:
        config = night_steps.CHANNELS_LAST
        row = night_steps.Row(config, "bfloat16", 8, 2.0, 1.0, 2.0, 0.5, 0.9, 3.0, decibels)
        return night_steps._rate("sdxl", row)["lowest_db"]

    assert [lowest(each) for each in (81.25, math.inf, None)] == [81.25, "same bits", None]


def test_the_ways_that_auto_tries_first_are_measured_before_others(night_steps: Any) -> None:
    plain, first, compiled, *_ = night_steps.OF_UNETS
    assert plain == night_steps.NOTHING
    assert first == quick_ways()[0]
    assert compiled == first.combined_with(night_steps.REGIONAL)
    assert set(quick_ways()) < set(night_steps.OF_UNETS)


@pytest.mark.slow
def test_every_step_runs_with_tiny_models(
    night_steps: Any, gpu_night: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not those that compile, which `test_compiled_models.py` tests for all models."""
    quick = {name: step for name, step in gpu_night.STEPS.items() if not name.endswith("-full")}
    for name in ("sd15", "sdxl", "flux"):
        only = night_steps.rates(name, night_steps.NOTHING, night_steps.FLOAT8_QUICK)
        quick[name] = gpu_night.Step(name, quick[name].share, only)
    log = gpu_night.Log({}, tmp_path / "night.json")
    night = night_steps.Night("cpu", "tiny")
    clock = gpu_night.Clock(3600.0, time.monotonic() + 3600.0)
    gpu_night.run_night(night, log, clock, list(quick), quick)
    steps = {
        step["step"]: step for step in json.loads((tmp_path / "night.json").read_text())["steps"]
    }
    assert {step["status"] for step in steps.values()} == {"done"}
    refused = [steps[name]["entries"][1]["error"] for name in ("sd15", "sdxl", "flux")]
    assert all("float8_dynamic_activation_float8_weight needs" in each for each in refused)
    assert steps["decoder"]["entries"][-1]["faults"] == 0
    assert all(steps[name]["entries"][-1]["same_images"] for name in ("decoder", "streams"))
