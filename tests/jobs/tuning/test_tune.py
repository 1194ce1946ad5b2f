"""`nightpress tune`: what it tries and prints, and what it writes to the job file."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import DeviceError, ModelError, OutOfMemory
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest
from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.search import ConfigTrial
from nightpress.jobs.cli import command
from nightpress.jobs.commands import tune as tune_command
from nightpress.jobs.tuning import tune as tune_module
from nightpress.jobs.tuning.options import TuneOptions
from nightpress.jobs.tuning.report import TuneProgress, outcome, refusals
from nightpress.jobs.tuning.tune import Tuning, prepare, tune
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.files import ModelFiles

LAST = TuningConfig.of(channels_last=True)
DEEP = TuningConfig.of(deep_features={"interval": 2})
CACHE = TuningConfig.of(taylorseer_cache={})
BOTH = TuningConfig.of(channels_last=True, deep_features={"interval": 2})

OPTIONS = TuneOptions(
    tolerance_db=1.0, num_images=5, reference_dtype="auto", device="cpu", compiles=False
)

Gains = dict[TuningConfig, float]
MakeSpec = Callable[..., RunSpec]


def offer(patch: pytest.MonkeyPatch, gains: Gains) -> None:
    """Three configurations, of which this model does not support the last, and their speed-ups.

    The speed-ups replace the measured ones; other configurations are no faster.
    """
    measured = tune_module.compare

    def compare(workload: Any, config: TuningConfig, *result: Any) -> ConfigTrial:
        return replace(measured(workload, config, *result), ratio=gains.get(config, 1.0))

    patch.setattr(tune_module, "candidates", lambda *of: [LAST, DEEP, CACHE])
    patch.setattr(tune_module, "compare", compare)


@pytest.fixture(autouse=True)
def few_configs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three configurations, of which this model does not support the last."""
    monkeypatch.setattr(tune_module, "candidates", lambda *of: [LAST, DEEP, CACHE])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # no line of a table is folded


@pytest.fixture
def gains(monkeypatch: pytest.MonkeyPatch) -> Gains:
    """Speed-ups that replace the measured ones; other configurations are no faster."""
    gains: Gains = {}
    offer(monkeypatch, gains)
    return gains


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path, make_spec: MakeSpec) -> Path:
    path = tmp_path / "night.yaml"
    path.write_text(
        f"# Tonight.\nmanifest: {make_spec().manifest}\noutput: {tmp_path}/runs  # mounted\n"
        f"model: {tiny_model}  # ours\n"
        "sampling: {num_inference_steps: 3, height: 64, guidance_scale: 3.0}\n"
        "batch: {size: 4}\n"
    )
    return path


def nightpress_tune(job: Path, *arguments: str) -> Result:
    options = ["--images", "4", "--device", "cpu"]
    return CliRunner().invoke(command, ["tune", str(job), *options, *arguments])


def test_the_fastest_config_is_written_to_the_job_and_shown_and_nothing_else_changes(
    job: Path, gains: Gains, tiny_model: Path
) -> None:
    before = RunSpec.from_file(job)
    lines = job.read_text().splitlines()
    gains |= {DEEP: 2.0, LAST: 1.5, BOTH: 2.9}
    result = nightpress_tune(job, "--tolerance", "1", "-o", "pairs.html")
    assert result.exit_code == 0, result.output
    after = job.read_text().splitlines()
    place = lines.index(f"model: {tiny_model}  # ours")
    assert after == [
        *lines[:place],
        "model:",
        f"  source: {tiny_model}  # ours",
        "  speed: {channels_last: true, deep_features: {interval: 2}}",
        *lines[place + 1 :],
    ]
    expected = before.model.model_copy(update={"speed": BOTH.speed})
    assert RunSpec.from_file(job) == before.model_copy(update={"model": expected})
    assert "fastest with every image at 1 dB or more: channels_last, deep_features" in result.stdout
    assert f"wrote to {job}" in result.stdout
    assert "cannot resume with these settings" in result.stdout
    assert "not available: taylorseer_cache (model.speed.taylorseer_cache: " in result.stdout
    assert "wrote pairs.html" in result.stdout
    page = Path("pairs.html").read_text()
    assert page.count("<figure>") >= 4
    assert 'href="#reference-0"' in page
    assert "a picture of the number" in page


@pytest.mark.slow
def test_the_result_is_kept_for_the_summaries_of_runs_even_if_the_job_is_not_changed(
    job: Path, gains: Gains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gains[LAST] = 1.5
    result = nightpress_tune(job, "--dry-run", "--tolerance", "1")
    assert result.exit_code == 0, result.output
    (kept,) = (tmp_path / "cache").rglob("tuned/*.json")
    values = json.loads(kept.read_text())
    assert (values["name"], values["ratio"]) == ("channels_last", 1.5)


def test_a_job_that_already_uses_the_fastest_config_is_unchanged(job: Path, gains: Gains) -> None:
    gains |= {DEEP: 2.0, LAST: 1.5, BOTH: 2.9}
    assert nightpress_tune(job, "--tolerance", "1").exit_code == 0
    text = job.read_text()
    again = nightpress_tune(job, "--tolerance", "1")
    assert again.exit_code == 0, again.output
    assert f"{job} already uses it" in again.stdout
    assert f"{BOTH.name} (the job's own)" in again.stdout
    assert job.read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--tolerance", "lossless"], ["--tolerance", "400"]])
def test_a_tolerance_that_nothing_meets_leaves_the_job_as_it_is(
    job: Path, gains: Gains, arguments: list[str]
) -> None:
    text = job.read_text()
    gains[DEEP] = 2.0
    result = nightpress_tune(job, *arguments)
    assert result.exit_code == 0
    assert "no configuration is faster with" in result.stdout
    assert f"{job} is unchanged" in result.stdout
    assert job.read_text() == text


@pytest.mark.slow
def test_a_dry_run_prints_what_it_would_write(job: Path, gains: Gains) -> None:
    text = job.read_text()
    gains[DEEP] = 2.0
    result = nightpress_tune(job, "--tolerance", "1", "--dry-run")
    assert (
        f"dry run, would write to {job}:\nmodel:\n  speed: {{deep_features: {{interval: 2}}}}"
        in result.stdout
    )
    assert job.read_text() == text


@pytest.mark.slow
def test_a_file_that_cannot_be_edited_safely_gets_advice(
    job: Path, gains: Gains, tiny_model: Path
) -> None:
    job.write_text(job.read_text().replace(f"{tiny_model}  # ours", f">-\n  {tiny_model}"))
    text = job.read_text()
    gains[DEEP] = 2.0
    result = nightpress_tune(job, "--tolerance", "1")
    assert result.exit_code == 0, result.output
    assert "set in it:\nmodel:\n  speed: {deep_features: {interval: 2}}" in result.stdout
    assert job.read_text() == text


def test_json_holds_every_trial(job: Path, gains: Gains) -> None:
    gains[DEEP] = 2.0
    result = nightpress_tune(job, "--tolerance", "1", "--json")
    values = json.loads(result.stdout)
    configs = [trial["way"] for trial in values["trials"]]
    assert configs == [
        {"speed": {"channels_last": True}},
        {"speed": {"deep_features": {"interval": 2}}},
    ]
    assert values["best"]["ratio"] == 2.0
    assert values["changes"] == {"speed": {"deep_features": {"interval": 2}}}
    assert values["written"] is True
    assert values["reference"]["dtype"] == "float32"
    assert values["reference"]["psnr_db"] == [None] * 4
    assert [each["way"] for each in values["refused"]] == [{"speed": {"taylorseer_cache": {}}}]
    assert values["num_images"] == 4


def test_an_interrupted_tuning_leaves_the_job_unchanged(
    job: Path, gains: Gains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, sampled = job.read_text(), tune_module.sample_in_turn
    calls: list[int] = []

    def interrupted(workload: Any, candidates: Any) -> Any:
        calls.append(len(candidates))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sampled(workload, candidates)

    gains[LAST] = 2.0
    monkeypatch.setattr(tune_module, "sample_in_turn", interrupted)
    result = nightpress_tune(job)
    assert result.exit_code == 4
    assert calls == [1, 2, 2]
    assert f"\nstopped; {job} is unchanged" in result.stderr
    assert job.read_text() == text
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tolerance", "0"], "is not a PSNR above 0 dB"),
        (["--tolerance", "inf"], "or lossless"),
        (["--tolerance", "near"], "'near'"),
        (["--images", "0"], "--images"),
        (["-o", "pairs.png"], "must end in .html"),
        (["-o", "nowhere/pairs.html"], "nowhere is not a folder"),
        (["--device", "cuda"], "device 'cuda': torch finds no CUDA device"),
        (["--set", "model.dtype=bfloat16"], "add --dry-run"),
        (["--set", "model=nowhere/model", "--dry-run"], "nowhere/model"),
        (["--set", "manifest=nowhere.csv"], "nowhere.csv"),
        (["--set", "sampling.width=33"], "33"),
    ],
)
def test_bad_usage_is_explained_and_nothing_is_written(
    job: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = job.read_text()
    result = nightpress_tune(job, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert job.read_text() == text
    assert not list(tmp_path.glob("*.html"))


def test_a_missing_job_file_is_reported_in_one_line(tmp_path: Path) -> None:
    result = nightpress_tune(tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path}/none.yaml: No such file or directory\n"


def tuned(spec: RunSpec) -> Tuning:
    return tune(spec, OPTIONS)


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory, make_in: Callable[[Path], MakeSpec]
) -> tuple[Tuning, list[Any]]:
    """One tuning in which DEEP is twice as fast as the reference, and its events."""
    events: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        offer(patch, {DEEP: 2.0})
        spec = make_in(tmp_path_factory.mktemp("told"))()
        return tune(spec, OPTIONS, events.append), events


@pytest.fixture
def found(told: tuple[Tuning, list[Any]]) -> Tuning:
    return told[0]


def failing(config: TuningConfig, error: Exception) -> Callable[..., LoadedModel]:
    """Load models, but fail for one configuration."""
    load = ModelFiles.load

    def loading(files: ModelFiles, spec: ModelSpec, *others: Any) -> LoadedModel:
        if spec.speed == config.speed:
            raise error
        return load(files, spec, *others)

    return loading


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(ModelError("no kernel"), "no kernel", marks=pytest.mark.slow),
        (OutOfMemory("17 GB"), "it does not fit into memory: 17 GB"),
        pytest.param(
            RuntimeError("two\nlines"), "cannot load the model: two lines", marks=pytest.mark.slow
        ),
    ],
)
def test_a_config_that_fails_is_reported_and_the_others_are_tried(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setattr(ModelFiles, "load", failing(LAST, error))
    found = tuned(make_spec())
    assert [trial.config for trial in found.trials][:1] == [DEEP]
    assert any(line == f"not available: channels_last ({message})" for line in refusals(found))


@pytest.mark.slow
def test_a_failing_device_ends_the_tuning(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelFiles, "load", failing(DEEP, DeviceError("it fell off the bus")))
    with pytest.raises(DeviceError, match="fell off"):
        tuned(make_spec())


def test_the_reference_is_the_model_without_speed_settings(
    make_spec: MakeSpec, tiny_model: Path
) -> None:
    model = {"source": str(tiny_model), "dtype": "bfloat16", "speed": {"channels_last": True}}
    setup = prepare(make_spec(model=model), OPTIONS)
    exact = SpeedSpec()
    assert setup.reference == ModelSpec(source=str(tiny_model), dtype="float32", speed=exact)
    assert setup.job_config == TuningConfig.of("bfloat16", channels_last=True)
    half = prepare(make_spec(model=model), replace(OPTIONS, reference_dtype="bfloat16"))
    assert half.reference.dtype == "bfloat16"
    assert half.job_config == LAST


@pytest.mark.parametrize(("num_images", "batch_size", "found"), [(1, 4, 4), (5, 2, 6), (9, 4, 7)])
def test_the_images_are_whole_batches_of_the_most_frequent_settings(
    make_spec: MakeSpec, num_images: int, batch_size: int, found: int
) -> None:
    spec = make_spec(batch={"size": batch_size})
    workload = prepare(spec, replace(OPTIONS, num_images=num_images)).workload
    assert workload.num_images == found  # of 21 rows, 7 are alike
    assert (workload.params.width, workload.params.height) == (64, 64)
    assert workload.batch_size == batch_size
    prompts = [request.prompt for batch in workload.batches for request in batch]
    numbers = [int(prompt.rpartition(" ")[2]) for prompt in prompts]
    assert numbers == sorted(numbers)
    assert len({number % 2 for number in numbers}) == 1
    assert all(number % 3 for number in numbers)


def test_a_result_that_cannot_be_kept_is_said(
    found: Tuning,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    tune_command._keep(found)
    assert "warning: runs will not know of this result: " in capsys.readouterr().err


def test_only_values_that_change_are_written(found: Tuning) -> None:
    assert found.changes(ModelSpec()) == {"speed": {"deep_features": {"interval": 2}}}
    assert found.changes(ModelSpec(speed=DEEP.speed)) == {}
    half = ModelSpec(dtype="bfloat16", speed=DEEP.speed)
    assert found.changes(half) == {"dtype": "auto"}
    best = replace(found.best or found.reference, config=TuningConfig("bfloat16"))
    changes = replace(found, best=best).changes(ModelSpec(speed=DEEP.speed))
    assert changes == {"dtype": "bfloat16", "speed": {}}
    exact = ModelSpec(dtype="bfloat16", speed=SpeedSpec())
    assert ModelSpec.model_validate(changes) == exact
    assert replace(found, best=None).changes(half) == {}


def test_the_pairs_are_the_images_that_differ_most_from_the_reference(found: Tuning) -> None:
    pairs = found.pairs[DEEP]
    (trial,) = (trial for trial in found.trials if trial.config == DEEP)
    assert [pair.psnr_db for pair in pairs] == sorted(trial.psnr_db)[: len(pairs)]
    assert 0 < len(pairs) <= tune_module.MAX_PAIRS
    assert all((pair.pixels != found.reference_pixels[pair.index]).any() for pair in pairs)
    assert found.pairs[TuningConfig()] == ()


class Counted:
    """A candidate that counts its calls and makes black images."""

    made: list["Counted"]

    def __init__(self, model: object, workload: object) -> None:
        self.warm_s, self.num_sampled = 0.0, 0
        self.made.append(self)

    def sample(self, batch: Sequence[ImageRequest]) -> tuple[SampledBatch, float]:
        self.num_sampled += 1
        pixels = np.zeros((len(batch), 8, 8, 3), np.uint8)
        return SampledBatch(pixels, (None,) * len(batch)), 1.0


@pytest.mark.parametrize(
    ("device", "free_bytes", "times"),
    [
        ("cpu", 10**15, 3),
        ("cpu", 10**6, 1),
        pytest.param("cuda", 10**15, 1, marks=pytest.mark.slow),
    ],
)
def test_two_models_are_held_only_on_a_cpu_with_memory_for_both(
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    free_bytes: int,
    times: int,
) -> None:
    monkeypatch.setattr(tune_module, "available_bytes", lambda: free_bytes)
    monkeypatch.setattr(tune_module, "resident_bytes", lambda: 10**9)
    setup = replace(prepare(make_spec(), OPTIONS), device=device)
    monkeypatch.setattr(Counted, "made", [], raising=False)
    monkeypatch.setattr(tune_module, "Candidate", Counted)
    monkeypatch.setattr(ModelFiles, "load", lambda *of: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    bench = tune_module._Bench(setup)
    for config in (LAST, DEEP):
        result, reference = bench.measure(ModelSpec(speed=config.speed))
        assert len(result.batch_s) == len(reference.batch_s)
        assert math.isinf(tune_module.compare(setup.workload, config, result, reference).lowest_db)
    a_round = len(setup.workload.batches) * setup.workload.num_rounds
    assert [each.num_sampled for each in Counted.made] == [times * a_round, a_round, a_round]


def test_progress_is_printed_for_every_config(told: tuple[Tuning, list[Any]]) -> None:
    found, events = told
    progress, printed = TuneProgress(), list[str]()
    for event in events:
        text = progress.add(event)
        printed.extend([text] if text is not None else [progress.line()])
    assert printed[0].startswith("7 images, 4 at once, 64 x 64, 2 steps of ")
    assert printed[1].startswith("reference: ")
    assert printed[2] == "trying channels_last, 2 of 4"
    assert printed[4] == "trying deep_features interval 2, 3 of 4"
    assert "2.00 x, lowest PSNR " in printed[5]
    assert printed[7].startswith("not available: taylorseer_cache (")
    assert progress.line() == ""
    assert progress.share() == (4, 4)
    assert outcome(found).startswith(
        "fastest with every image at 1 dB or more: deep_features interval 2"
    )
    lossless = replace(found, best=None, options=replace(OPTIONS, tolerance_db=math.inf))
    assert outcome(lossless) == "no configuration is faster with every pixel unchanged"
