"""The accelerator benchmark: which failures it survives, and which rows count for its goals."""

import dataclasses
import math
from argparse import Namespace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from nightpress.diffusion_core.errors import ModelError, OutOfMemory, SamplingError
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.sampling.sampler import Fault, SampledBatch
from nightpress.diffusion_core.tuning.candidates import TuningConfig


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import bench_accelerator

    return bench_accelerator


class SmallDevice:
    """A bench whose device fits two images and whose model cannot be compiled."""

    def __init__(self, bench: Any) -> None:
        self._bench = bench

    def row(self, config: TuningConfig, batch_size: int) -> Any:
        if batch_size > 2:
            raise OutOfMemory("out of memory")
        if config.speed.compile:
            raise ModelError("no blocks")
        return row(self._bench, config, batch_size)


def row(
    bench: Any, config: TuningConfig, batch_size: int, rate: float = 1.0, dtype: str = "bfloat16"
) -> Any:
    return bench.Row(config, dtype, batch_size, rate, 1.0, rate, 0.5, 0.9, 3.0, None)


def test_a_configuration_that_does_not_fit_or_is_unsupported_is_reported_and_skipped(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [TuningConfig.of(compile="full"), TuningConfig("float16")]
    monkeypatch.setattr(bench, "configs", lambda options: configs)
    options = Namespace(batch_sizes=[1, 2, 4, 8])
    rows = list(bench.measured(SmallDevice(bench), 60.0, options))
    assert [(r.config.name, r.batch_size) for r in rows] == [
        ("nothing chosen", 1),
        ("nothing chosen", 2),
        ("float16", 1),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[3].endswith("batch 4 does not fit")
    assert lines[4].endswith("no blocks")


def test_configurations_for_which_no_time_is_left_are_named(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        bench, "configs", lambda options: [TuningConfig("float16"), TuningConfig("float32")]
    )
    rows = list(bench.measured(SmallDevice(bench), 0.0, Namespace(batch_sizes=[1])))
    assert [r.config for r in rows] == [bench.NOTHING]
    printed = capsys.readouterr().out
    assert printed.endswith("not measured, because the time was over: float16; float32\n")


def test_a_faulty_image_ends_its_row(bench: Any) -> None:
    class FaultySampler:
        def sample(self, requests: Any, params: Any) -> SampledBatch:
            return SampledBatch(np.zeros((1, 8, 8, 3), np.uint8), (Fault.NON_FINITE,))

    stub = Namespace(_setup=Namespace(params=None), _clock=float)
    with pytest.raises(SamplingError, match="a faulty image makes the time invalid"):
        bench.Bench._sampled(stub, FaultySampler(), [])


def test_the_image_that_differs_most_counts_and_other_dtypes_are_not_compared(bench: Any) -> None:
    def batch(*levels: int) -> SampledBatch:
        pixels = np.stack([np.full((8, 8, 3), level, np.uint8) for level in levels])
        return SampledBatch(pixels, (None,) * len(levels))

    def lowest(model: Any, *levels: int) -> float | None:
        found: float | None = bench.Bench._lowest_db(stub, model, batch(*levels))
        return found

    plain = Namespace(dtype="bfloat16")
    stub = Namespace(_model=plain, _setup=plain, _references={}, _reference=lambda n: batch(9, 9))
    assert lowest(Namespace(dtype="bfloat16"), 9, 10) == pytest.approx(48.13, abs=0.01)
    assert lowest(Namespace(dtype="bfloat16"), 9, 9) == math.inf
    assert lowest(Namespace(dtype="float16"), 9, 10) is None
    assert not stub._references
    assert lowest(plain, 9, 9) is None
    np.testing.assert_array_equal(stub._references[2].pixels, batch(9, 9).pixels)


@pytest.mark.parametrize("decibels", [(81.26, "81.3"), (math.inf, "same bits"), (None, "-")])
def test_a_row_shows_how_close_its_images_are(
    decibels: tuple[float | None, str], bench: Any
) -> None:
    lowest_db, shown = decibels
    made = dataclasses.replace(row(bench, bench.NOTHING, 1), lowest_db=lowest_db)
    assert str(made).endswith(f"3.0{shown:>11}")
    assert len(str(made)) == len(bench.HEADER)


@pytest.mark.slow
def test_a_way_has_the_weights_of_the_unchanged_model_and_nearly_its_images(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerator_bench.measured_peak", lambda device, dtype: 1e12)
    architecture = bench.ARCHITECTURES["sd15"]
    params = SamplingParams(64, 64, 1, architecture.guidance_scale)
    setup = bench.Setup(architecture, "tiny", "cpu", "float32", params, rounds=1)
    made = bench.Bench(setup).row(TuningConfig.of(channels_last=True), 2)
    assert made.lowest_db > 70.0


class Scaling:
    """A bench whose rate grows with the batch size, but ever more slowly."""

    RATES: ClassVar = {1: 1.0, 2: 1.9, 4: 2.95, 8: 3.0}

    def __init__(self, bench: Any) -> None:
        self._bench = bench

    def row(self, config: TuningConfig, batch_size: int) -> Any:
        return row(self._bench, config, batch_size, self.RATES[batch_size])


def test_configurations_are_measured_at_the_smallest_batch_that_is_nearly_the_fastest(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "configs", lambda options: [TuningConfig("float16")])
    rows = list(bench.measured(Scaling(bench), 60.0, Namespace(batch_sizes=[*Scaling.RATES])))
    assert (rows[-1].config.name, rows[-1].batch_size) == ("float16", 4)


def test_a_configuration_that_skips_work_counts_for_no_goal(bench: Any) -> None:
    from accelerator_rows import counts_as

    float8 = TuningConfig.of(compile="full", quantization=bench.FLOAT8)
    weights = TuningConfig.of(compile="full", quantization="int8_weight_only")
    deep = TuningConfig.of(deep_features={"interval": 2})
    half = TuningConfig("float16")
    counting = {
        precision: [
            config.name
            for config in (bench.NOTHING, float8, weights, deep, half)
            if counts_as(row(bench, config, 1, dtype=config.dtype or "bfloat16"), precision)
        ]
        for precision in ("bfloat16", "float8")
    }
    assert counting == {"bfloat16": ["nothing chosen"], "float8": [float8.name]}


@pytest.mark.parametrize(
    ("memory_gib", "aim"), [(140, "; goal 1.9\n"), (79, "; an H200's goal is 1.9\n")]
)
def test_the_fastest_row_that_counts_is_printed_beside_the_goal(
    memory_gib: int,
    aim: str,
    bench: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device = Namespace(total_memory=memory_gib * 2**30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: device)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    deep = TuningConfig.of(deep_features={"interval": 2})
    rows = [
        row(bench, bench.NOTHING, 1, 1.0),
        row(bench, bench.NOTHING, 4, 1.5),
        row(bench, deep, 4, 3.0),
    ]
    bench.print_goals("sdxl", rows)
    printed = capsys.readouterr().out
    assert printed.startswith("best in bfloat16: 1.500 images/s (nothing chosen, batch 4)" + aim)
    assert printed.endswith("goal in float8: no row counts\n")


def test_first_block_cache_is_not_measured_because_its_speed_depends_on_weights(
    bench: Any,
) -> None:
    options = Namespace(batch_sizes=[1, 2], compile=True, only=None)
    names = [config.name for config in bench.configs(options)]
    assert len(names) == len(set(names)) > 15
    assert not any("first_block_cache" in name for name in names)
    assert (
        bench.configs(Namespace(**{**vars(options), "only": names[3:5]}))
        == bench.configs(options)[3:5]
    )
    with pytest.raises(SystemExit, match="unknown configuration fast"):
        bench.configs(Namespace(**{**vars(options), "only": ["fast"]}))


@pytest.mark.slow
def test_a_narrow_model_is_measured_on_a_cpu(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Namespace(
        scale=None,
        steps=2,
        rounds=1,
        minutes=60.0,  # enough on a machine that is busy with something else
        batch_sizes=[1],
        compile=None,
        only=["deep_features interval 2"],
    )
    bench.table("sd15", "cpu", options)
    lines = capsys.readouterr().out.splitlines()
    plain, deep = lines[4].split(), lines[5].split()
    assert (plain[:3], deep[:4]) == (
        ["nothing", "chosen", "1"],
        ["deep_features", "interval", "2", "1"],
    )
    figures = [float(text.rstrip("x%")) for text in plain[3:-1] + deep[4:]]
    assert (len(figures), plain[-1]) == (13, "-")
    assert all(figure > 0 for figure in figures[:6])
