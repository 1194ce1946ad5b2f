"""`nightpress tune`: what it tries and says, and what it writes into a job."""

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

from nightpress.diffusion_core.errors import DeviceError, ModelError, OutOfMemory
from nightpress.diffusion_core.models.loading import LoadedModel, ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest
from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.search import Trial
from nightpress.jobs.cli import command
from nightpress.jobs.tuning import tune as tune_module
from nightpress.jobs.tuning.report import TuneTeller, outcome, refusals
from nightpress.jobs.tuning.tune import TuneOptions, Tuning, subject_of, tune
from nightpress.pipelines.job.spec import RunSpec

LAST = TuningConfig.of(channels_last=True)
DEEP = TuningConfig.of(deep_features={"interval": 2})
CACHE = TuningConfig.of(taylorseer_cache={})
BOTH = TuningConfig.of(channels_last=True, deep_features={"interval": 2})

OPTIONS = TuneOptions(
    tolerance_db=1.0, num_images=5, reference_dtype="auto", device="cpu", compiles=False
)

Gains = dict[TuningConfig, float]
MakeSpec = Callable[..., RunSpec]


@pytest.fixture(autouse=True)
def few_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three ways, the last of which this model cannot take."""
    monkeypatch.setattr(tune_module, "candidates", lambda *of: [LAST, DEEP, CACHE])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # no line of a table is folded


@pytest.fixture
def gains(monkeypatch: pytest.MonkeyPatch) -> Gains:
    """How much faster a way is, in the place of the clock; those not named are no faster."""
    told: Gains = {}
    timed = tune_module.compared

    def compared(work: Any, way: TuningConfig, *made: Any) -> Trial:
        return replace(timed(work, way, *made), ratio=told.get(way, 1.0))

    monkeypatch.setattr(tune_module, "compared", compared)
    return told


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


def test_the_fastest_is_written_into_the_job_and_nothing_else_changes(
    job: Path, gains: Gains, tiny_model: Path
) -> None:
    before = RunSpec.from_file(job)
    lines = job.read_text().splitlines()
    gains |= {DEEP: 2.0, LAST: 1.5, BOTH: 2.9}
    result = nightpress_tune(job, "--tolerance", "1")
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
    assert "fastest with no picture below 1 dB: channels_last, deep_features" in result.stdout
    assert f"wrote into {job}" in result.stdout
    assert "goes on only as it began" in result.stdout
    assert "cannot be had: taylorseer_cache (model.speed.taylorseer_cache: " in result.stdout


def test_a_job_that_has_the_fastest_keeps_it(job: Path, gains: Gains) -> None:
    gains |= {DEEP: 2.0, LAST: 1.5, BOTH: 2.9}
    assert nightpress_tune(job, "--tolerance", "1").exit_code == 0
    text = job.read_text()
    again = nightpress_tune(job, "--tolerance", "1")
    assert again.exit_code == 0, again.output
    assert f"{job} has it already" in again.stdout
    assert f"{BOTH.name} (the job's own)" in again.stdout
    assert job.read_text() == text


@pytest.mark.parametrize("arguments", [["--tolerance", "lossless"], ["--tolerance", "400"]])
def test_a_tolerance_that_nothing_meets_leaves_the_job_as_it_is(
    job: Path, gains: Gains, arguments: list[str]
) -> None:
    text = job.read_text()
    gains[DEEP] = 2.0
    result = nightpress_tune(job, *arguments)
    assert result.exit_code == 0
    assert "nothing is faster with" in result.stdout
    assert f"{job} stays as it is" in result.stdout
    assert job.read_text() == text


def test_pairs_of_pictures_are_on_the_page(job: Path, gains: Gains, tmp_path: Path) -> None:
    gains[DEEP] = 2.0
    result = nightpress_tune(job, "--tolerance", "1", "-o", "pairs.html")
    assert "wrote pairs.html" in result.stdout
    page = (tmp_path / "pairs.html").read_text()
    assert page.count("<figure>") >= 4
    assert 'href="#reference-0"' in page
    assert "a picture of the number" in page


def test_a_dry_run_says_what_the_job_would_say(job: Path, gains: Gains) -> None:
    text = job.read_text()
    gains[DEEP] = 2.0
    result = nightpress_tune(job, "--tolerance", "1", "--dry-run")
    assert f"{job} would say:\nmodel:\n  speed: {{deep_features: {{interval: 2}}}}" in result.stdout
    assert job.read_text() == text


def test_a_file_that_is_better_left_alone_gets_advice(
    job: Path, gains: Gains, tiny_model: Path
) -> None:
    job.write_text(job.read_text().replace(f"{tiny_model}  # ours", f">-\n  {tiny_model}"))
    text = job.read_text()
    gains[DEEP] = 2.0
    result = nightpress_tune(job, "--tolerance", "1")
    assert result.exit_code == 0, result.output
    assert "say in it:\nmodel:\n  speed: {deep_features: {interval: 2}}" in result.stdout
    assert job.read_text() == text


def test_json_tells_every_trial(job: Path, gains: Gains) -> None:
    gains[DEEP] = 2.0
    result = nightpress_tune(job, "--tolerance", "1", "--json")
    values = json.loads(result.stdout)
    ways = [trial["way"] for trial in values["trials"]]
    assert ways == [
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


def test_an_interrupted_tuning_leaves_the_job_as_it_was(
    job: Path, gains: Gains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, sampled = job.read_text(), tune_module.in_turn
    calls: list[int] = []

    def interrupted(work: Any, entrants: Any) -> Any:
        calls.append(len(entrants))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sampled(work, entrants)

    gains[LAST] = 2.0
    monkeypatch.setattr(tune_module, "in_turn", interrupted)
    result = nightpress_tune(job)
    assert result.exit_code == 4
    assert calls == [1, 2, 2]
    assert f"error: stopped; {job} is as it was" in result.stderr
    assert job.read_text() == text
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tolerance", "0"], "a PSNR in dB above 0"),
        (["--tolerance", "inf"], "or lossless"),
        (["--tolerance", "near"], "'near'"),
        (["--images", "0"], "--images"),
        (["-o", "pairs.png"], "let its name end in .html"),
        (["-o", "nowhere/pairs.html"], "nowhere is not a folder"),
        (["--device", "cuda"], "torch finds no such device"),
        (["--set", "model.dtype=bfloat16"], "add --dry-run"),
        (["--set", "model=nowhere/model", "--dry-run"], "nowhere/model"),
        (["--set", "manifest=nowhere.csv"], "nowhere.csv"),
        (["--set", "sampling.width=33"], "33"),
    ],
)
def test_what_cannot_be_done_is_said_in_words_and_nothing_is_written(
    job: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = job.read_text()
    result = nightpress_tune(job, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert job.read_text() == text
    assert not list(tmp_path.glob("*.html"))


def test_a_job_file_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    result = nightpress_tune(tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path}/none.yaml: No such file or directory\n"


def tuned(spec: RunSpec) -> Tuning:
    return tune(spec, OPTIONS)


def failing(way: TuningConfig, error: Exception) -> Callable[..., LoadedModel]:
    """Loads models, but for one that is sampled in a way."""
    load = tune_module.load

    def loading(folder: Path, spec: ModelSpec, *others: Any) -> LoadedModel:
        if spec.speed == way.speed:
            raise error
        return load(folder, spec, *others)

    return loading


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModelError("no kernel"), "no kernel"),
        (OutOfMemory("17 GB"), "it does not fit into the memory: 17 GB"),
        (RuntimeError("two\nlines"), "it does not load: two lines"),
    ],
)
def test_a_way_that_fails_is_told_and_the_others_are_tried(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    monkeypatch.setattr(tune_module, "load", failing(LAST, error))
    found = tuned(make_spec())
    assert [trial.way for trial in found.trials][:1] == [DEEP]
    assert any(line == f"cannot be had: channels_last ({words})" for line in refusals(found))


def test_a_device_that_fails_ends_it(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_module, "load", failing(DEEP, DeviceError("it fell off the bus")))
    with pytest.raises(DeviceError, match="fell off"):
        tuned(make_spec())


def test_the_reference_is_the_model_with_nothing_chosen(
    make_spec: MakeSpec, tiny_model: Path
) -> None:
    model = {"source": str(tiny_model), "dtype": "bfloat16", "speed": {"channels_last": True}}
    subject = subject_of(make_spec(model=model), OPTIONS)
    assert subject.reference == ModelSpec(source=str(tiny_model), dtype="float32")
    assert subject.own_way == TuningConfig.of("bfloat16", channels_last=True)
    half = subject_of(make_spec(model=model), replace(OPTIONS, reference_dtype="bfloat16"))
    assert half.reference.dtype == "bfloat16"
    assert half.own_way == LAST


@pytest.mark.parametrize(("num_images", "batch_size", "found"), [(1, 4, 4), (5, 2, 6), (9, 4, 7)])
def test_the_images_are_whole_batches_of_the_most_frequent_settings(
    make_spec: MakeSpec, num_images: int, batch_size: int, found: int
) -> None:
    spec = make_spec(batch={"size": batch_size})
    work = subject_of(spec, replace(OPTIONS, num_images=num_images)).work
    assert work.num_images == found  # of 21 rows, 7 are alike
    assert (work.params.width, work.params.height) == (64, 64)
    assert work.batch_size == batch_size
    prompts = [request.prompt for batch in work.batches for request in batch]
    numbers = [int(prompt.rpartition(" ")[2]) for prompt in prompts]
    assert numbers == sorted(numbers)
    assert len({number % 2 for number in numbers}) == 1
    assert all(number % 3 for number in numbers)


def test_what_is_written_is_no_more_than_what_changes(make_spec: MakeSpec, gains: Gains) -> None:
    gains[DEEP] = 2.0
    found = tuned(make_spec())
    assert found.changes(ModelSpec()) == {"speed": {"deep_features": {"interval": 2}}}
    assert found.changes(ModelSpec(speed=DEEP.speed)) == {}
    half = ModelSpec(dtype="bfloat16", speed=DEEP.speed)
    assert found.changes(half) == {"dtype": "auto"}
    best = replace(found.best or found.reference, way=TuningConfig("bfloat16"))
    changes = replace(found, best=best).changes(ModelSpec(speed=DEEP.speed))
    assert changes == {"dtype": "bfloat16", "speed": {}}
    assert ModelSpec.model_validate(changes) == ModelSpec(dtype="bfloat16")
    assert replace(found, best=None).changes(half) == {}


def test_the_pairs_are_the_least_alike_and_come_from_the_reference(make_spec: MakeSpec) -> None:
    found = tuned(make_spec())
    pairs = found.pairs[DEEP]
    (trial,) = (trial for trial in found.trials if trial.way == DEEP)
    assert [pair.psnr_db for pair in pairs] == sorted(trial.psnr_db)[: len(pairs)]
    assert 0 < len(pairs) <= tune_module.MOST_PAIRS
    assert all((pair.pixels != found.pictures[pair.place]).any() for pair in pairs)
    assert found.pairs[TuningConfig()] == ()


class Counted:
    """An entrant that counts what it samples, and makes black pictures."""

    made: list["Counted"]

    def __init__(self, model: object, work: object) -> None:
        self.warm_s, self.num_sampled = 0.0, 0
        self.made.append(self)

    def sample(self, batch: Sequence[ImageRequest]) -> tuple[SampledBatch, float]:
        self.num_sampled += 1
        pixels = np.zeros((len(batch), 8, 8, 3), np.uint8)
        return SampledBatch(pixels, (None,) * len(batch)), 1.0


@pytest.mark.parametrize(
    ("device", "free_bytes", "times"), [("cpu", 10**15, 3), ("cpu", 10**6, 1), ("cuda", 10**15, 1)]
)
def test_one_model_is_held_at_a_time_but_on_a_cpu_with_room_for_two(
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    free_bytes: int,
    times: int,
) -> None:
    monkeypatch.setattr(tune_module, "available_bytes", lambda: free_bytes)
    monkeypatch.setattr(tune_module, "resident_bytes", lambda: 10**9)
    subject = replace(subject_of(make_spec(), OPTIONS), device=device)
    monkeypatch.setattr(Counted, "made", [], raising=False)
    monkeypatch.setattr(tune_module, "Candidate", Counted)
    monkeypatch.setattr(tune_module, "load", lambda *of: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    rig = tune_module._Rig(subject)
    for way in (LAST, DEEP):
        made, reference = rig.made(ModelSpec(speed=way.speed))
        assert len(made.batch_s) == len(reference.batch_s)
        assert math.isinf(tune_module.compared(subject.work, way, made, reference).lowest_db)
    a_round = len(subject.work.batches) * subject.work.num_rounds
    assert [each.num_sampled for each in Counted.made] == [times * a_round, a_round, a_round]


def test_a_person_is_told_of_every_way(make_spec: MakeSpec, gains: Gains) -> None:
    gains[DEEP] = 2.0
    teller, said = TuneTeller(), list[str]()

    def hear(event: Any) -> None:
        text = teller.add(event)
        said.extend([text] if text is not None else [teller.line()])

    found = tune(make_spec(), OPTIONS, hear)
    assert said[0].startswith("7 images, 4 at once, 64 x 64, 2 steps of ")
    assert said[1].startswith("reference: ")
    assert said[2] == "trying channels_last, 2 of 4"
    assert said[4] == "trying deep_features interval 2, 3 of 4"
    assert "2.00 x, lowest PSNR " in said[5]
    assert said[7].startswith("cannot be had: taylorseer_cache (")
    assert teller.line() == ""
    assert teller.share() == (4, 4)
    assert outcome(found).startswith("fastest with no picture below 1 dB: deep_features interval 2")
    lossless = replace(found, best=None, options=replace(OPTIONS, tolerance_db=math.inf))
    assert outcome(lossless) == "nothing is faster without a pixel that differs"
