"""The decision about `model.speed: auto`, with an actor of this process, without Ray."""

from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_models

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import OutOfMemory
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.sampling.sampler import Fault, SampledBatch
from nightpress.diffusion_core.tuning import auto_speed as rules
from nightpress.diffusion_core.tuning import benchmark
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.kept_trials import LOST, KeptTrial
from nightpress.jobs.cluster import connection
from nightpress.jobs.dispatch import auto_speed, speed_trials
from nightpress.jobs.dispatch.auto_speed import TriedJob, decide_speeds, reason_from_plan
from nightpress.jobs.dispatch.held_models import HeldModels
from nightpress.jobs.dispatch.speed_trials import SpeedTrials
from nightpress.jobs.dispatch.trial_images import TrialImages, TrialStart
from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.planning import PlanLayout, check
from nightpress.pipelines.run_directory.auto_speed import AutoSpeed

LAST = TuningConfig.of(channels_last=True)
FUSED = TuningConfig.of(fuse_qkv_projections=True)
FULL = TuningConfig.of(compile="full")
BOTH = TuningConfig.of(channels_last=True, compile="full")
MISSING = TuningConfig.of(attention_backend="xformers")

BATCH = 2


class InProcessActor:
    """What an actor does in trials, in this process; a call is a function that gives its answer."""

    def __init__(self, spec: RunSpec) -> None:
        self.models = HeldModels(spec.model, {}, "cpu")
        self.tried: list[TuningConfig] = []
        """The ways that were timed."""
        self.confirmed: list[TuningConfig] = []
        """The ways whose images alone were compared."""
        self.trials: SpeedTrials | None = None

    def begin_trials(self, trial: TrialImages) -> TrialStart:
        self.trials = SpeedTrials(self.models, trial, "cpu")
        return replace(self.trials.start(), load_s=0.0)

    def try_speed(self, config: TuningConfig, known: KeptTrial | None = None) -> Any:
        (self.tried if known is None else self.confirmed).append(config)
        assert self.trials is not None
        return self.trials.measure(config, known)


@dataclass
class InProcessFirst:
    """As much of a `FirstActor` as a decision needs; a way in `deadly` kills it."""

    actor: InProcessActor
    deadly: tuple[TuningConfig, ...] = ()
    load_timeout_s: float = 60.0
    factory: Any = field(default_factory=lambda: SimpleNamespace(cpus=1, gpus=0, memory_bytes=0))
    limits: list[float] = field(default_factory=list)

    @property
    def handle(self) -> Any:
        def remote(call: Callable[..., Any]) -> Any:
            return SimpleNamespace(remote=lambda *given: lambda: call(*given))

        actor = self.actor
        return SimpleNamespace(
            begin_trials=remote(actor.begin_trials), try_speed=remote(self._try_speed)
        )

    def _try_speed(self, config: TuningConfig, known: KeptTrial | None) -> Any:
        return None if config in self.deadly else self.actor.try_speed(config, known)

    def begin_loading(self, *loading: Any) -> None:
        assert loading[1] == BATCH

    def finish_loading(self, pending: Any, *loading: Any) -> Generator[Event, None, None]:
        yield from ()

    def try_faster(self, pending: Any, limit_s: float) -> Generator[Event, None, Any]:
        yield from ()
        self.limits.append(limit_s)
        return pending()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in an actor with one CPU; several threads also wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of earlier runs but those of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.save("sd", tmp_path_factory.mktemp("models") / "sd"))


@pytest.fixture
def job(source: str, tmp_path: Path) -> tuple[RunSpec, ModelInfo, PlanLayout]:
    """A job of two sizes, of which the larger takes most of the time."""
    rows = [f"{n},a cat {n},{64 if n < 6 else 32}" for n in range(8)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,prompt,width", *rows]))
    spec = RunSpec.from_dict(
        {
            "name": "run",
            "manifest": str(tmp_path / "rows.csv"),
            "output": str(tmp_path / "out"),
            "model": source,
            "batch": {"size": BATCH},
            "sampling": {"num_inference_steps": 6, "height": 64},
        }
    )
    info = ModelFiles.locate(spec.model, {}).describe(spec.model)
    return spec, info, check(spec, info, BATCH)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try ways in a run of any length, on a cluster with room for two actors."""
    monkeypatch.setattr(rules, "FEWEST_STEPS", 48)
    monkeypatch.setattr(rules, "COMPILE_S", {"regional": 0.0, "full": 0.0})
    monkeypatch.setattr(rules, "TIMED_CALLS", 0)
    monkeypatch.setattr(rules, "COMPARED_BATCHES", 0)
    monkeypatch.setattr(connection, "room", lambda *size: 2)


def decide(
    job: tuple[RunSpec, ModelInfo, PlanLayout], first: InProcessFirst
) -> tuple[AutoSpeed, list[str]]:
    spec, info, layout = job
    tried = TriedJob(spec, info, layout, BATCH, spec.url, lambda: nullcontext(spec))
    steps, said = decide_speeds(tried, first), list[str]()  # type: ignore[arg-type]
    try:
        while True:
            event = next(steps)
            assert isinstance(event, Message)
            said.append(event.text)
    except StopIteration as end:
        (decision,) = end.value
        return decision, said


def first_of(job: tuple[RunSpec, ModelInfo, PlanLayout], *deadly: TuningConfig) -> InProcessFirst:
    return InProcessFirst(InProcessActor(job[0]), deadly)


def test_one_step_less_than_the_floor_and_nothing_is_asked_of_the_actor(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "FEWEST_STEPS", 49)
    first = first_of(job)
    decision, said = decide(job, first)
    assert not decision.speed.chosen()
    assert said == [decision.text]
    assert "and this run has 48" in decision.text
    assert first.limits == []
    assert first.actor.models.num_loaded == 0


@pytest.mark.usefixtures("eager")
def test_a_run_too_short_for_its_speed_loads_no_second_model(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "TIMED_CALLS", 10_000)
    first = first_of(job)
    decision, _ = decide(job, first)
    assert "exact; an actor will sample for about" in decision.reason
    assert ", and trying faster ways pays from about" in decision.reason
    assert first.actor.models.num_loaded == 1
    assert decision.tried == ()


@pytest.mark.usefixtures("eager")
def test_each_way_is_compared_with_plain_sampling_and_the_chosen_one_stays_loaded(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [MISSING, FUSED, LAST])
    monkeypatch.setattr(speed_trials, "timed", fast_as(1.2))
    chosen: list[Any] = []

    def choose(work: rules.ActorWork, trials: Any) -> Any:
        chosen[:] = work, trials
        return trials.get(LAST)

    monkeypatch.setattr(auto_speed, "choose", choose)
    first = first_of(job)
    decision, said = decide(job, first)
    work, trials = chosen
    assert first.actor.tried[:2] == [FUSED, LAST]
    assert trials[MISSING] is None
    assert all(trials[way].lowest_db > 70 for way in (FUSED, LAST))
    assert work.num_shapes == 2
    assert work.sampling_s > 0
    assert decision.speed == LAST.speed
    names = [each.name for each in decision.tried[:3]]
    assert names == ["attention_backend xformers", "fuse_qkv_projections", "channels_last"]
    assert "model.speed.attention_backend" in str(decision.tried[0].reason)
    assert "model.speed auto: attention_backend xformers cannot be used: " in said[0]
    assert any(text.startswith("model.speed auto: channels_last is ") for text in said)
    loaded = first.actor.models.num_loaded
    first.actor.models.settle(None, "float32", LAST.speed)
    first.actor.models.use(None, job[1].identity, BATCH)
    assert first.actor.models.num_loaded - loaded in (0, 1)  # 1 if combinations came after it
    assert first.actor.models.names == (None,)


@pytest.mark.usefixtures("eager")
def test_after_a_way_that_kills_the_actor_no_other_is_tried(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [LAST, FUSED])
    first = first_of(job, LAST)
    decision, _ = decide(job, first)
    lost = "exact; the actor was lost, or took too long, when it tried channels_last"
    assert decision.reason == lost
    assert [each.reason for each in decision.tried] == ["the actor was lost, or took too long"]
    assert first.actor.tried == []


@pytest.mark.usefixtures("eager")
def test_the_time_of_a_batch_leaves_what_comes_once_out_of_its_steps(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    def time(self: SpeedTrials, held: Any, params: SamplingParams) -> float:
        return 0.5 + 0.25 * params.num_inference_steps

    monkeypatch.setattr(SpeedTrials, "_time", time)
    monkeypatch.setattr(rules, "last_bit_candidates", list)
    starts: list[TrialStart] = []
    begin = SpeedTrials.start
    monkeypatch.setattr(SpeedTrials, "start", lambda self: starts.append(begin(self)) or starts[0])
    decide(job, first_of(job))
    assert (starts[0].few_s, starts[0].batch_s) == (0.5 + 0.25 * 4, 0.5 + 0.25 * 6)


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """One way is tried, and found to be 1.5 times as fast, whatever the clock says."""
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [LAST])
    monkeypatch.setattr(speed_trials, "timed", fast_as(1.5))


def fast_as(ratio: float) -> Callable[..., Any]:
    """`timed`, with another result of the clock."""

    def timed(*given: Any) -> Any:
        return replace(benchmark.timed(*given), ratio=ratio)

    return timed


@pytest.mark.usefixtures("eager", "faster")
def test_without_room_for_two_models_plain_sampling_is_timed_and_sampled_before(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldModels, "_has_room_for", lambda self, weight_bytes: not self.names)
    drop, held = SpeedTrials._drop_plain, list[tuple[None, ...]]()

    def dropped(self: SpeedTrials) -> None:
        drop(self)
        assert len(self._alone) == benchmark.MIN_TIMINGS
        assert "_reference" in vars(self)
        held.append(self._models.names)  # type: ignore[arg-type]

    monkeypatch.setattr(SpeedTrials, "_drop_plain", dropped)
    first = first_of(job)
    decision, _ = decide(job, first)
    assert held == [()]
    assert decision.tried[0].lowest_db is None or decision.tried[0].lowest_db > 70
    assert decision.speed == LAST.speed
    assert first.actor.models.names == (None,)


@pytest.mark.slow
@pytest.mark.usefixtures("eager", "faster")
def test_a_way_that_only_fits_alone_is_tried_alone(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = SpeedTrials._candidate

    def tight(self: SpeedTrials, ways: SpeedSpec) -> Any:
        if ways.chosen() and self._plain is not None:
            raise OutOfMemory("it needs 9 GiB")
        return candidate(self, ways)

    monkeypatch.setattr(SpeedTrials, "_candidate", tight)
    decision, _ = decide(job, first_of(job))
    assert decision.speed == LAST.speed


@pytest.mark.usefixtures("eager", "faster")
def test_a_later_run_compares_the_images_of_the_fastest_way_and_times_nothing(
    job: tuple[RunSpec, ModelInfo, PlanLayout],
) -> None:
    decision, _ = decide(job, first_of(job))
    assert decision.speed == LAST.speed
    assert [(each.name, each.measured_on) for each in decision.tried] == [("channels_last", None)]

    first = first_of(job)
    again, said = decide(job, first)
    assert (first.actor.tried, first.actor.confirmed) == ([], [LAST])
    assert again.speed == LAST.speed
    assert again.reason == "channels_last; 1.50 times as fast as plain sampling"
    (way,) = again.tried
    assert (way.name, way.ratio) == ("channels_last", 1.5)
    assert way.measured_on in said[0]
    assert "channels_last was 1.50 times as fast here on" in said[0]


@pytest.mark.usefixtures("eager", "faster")
def test_a_run_too_short_to_try_anything_is_long_enough_for_a_known_way(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(job, first_of(job))
    monkeypatch.setattr(rules, "TIMED_CALLS", 10_000)
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [LAST, FUSED])
    first = first_of(job)
    decision, _ = decide(job, first)
    assert (first.actor.tried, first.actor.confirmed) == ([], [LAST])
    assert decision.speed == LAST.speed


@pytest.mark.usefixtures("eager", "faster")
def test_a_run_too_short_for_what_is_known_says_from_when_it_pays(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(job, first_of(job))
    monkeypatch.setattr(rules, "COMPARED_BATCHES", 1_000)
    first = first_of(job)
    decision, _ = decide(job, first)
    assert (first.actor.tried, first.actor.confirmed) == ([], [])
    assert decision.speed == SpeedSpec()
    assert ", and channels_last, known to be 1.50 times as fast, pays from about" in decision.reason
    assert decision.tried[0].measured_on is not None


@pytest.mark.usefixtures("eager", "faster")
def test_where_earlier_runs_found_nothing_faster_no_second_model_is_loaded(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_trials, "timed", fast_as(1.0))
    assert decide(job, first_of(job))[0].reason == "exact; nothing that was tried is faster"
    first = first_of(job)
    decision, _ = decide(job, first)
    assert decision.reason == (
        "exact; nothing that was tried is faster, as earlier runs have measured here"
    )
    assert first.actor.models.num_loaded == 1
    assert (first.actor.tried, first.actor.confirmed) == ([], [])


@pytest.mark.usefixtures("eager", "faster")
def test_the_images_of_a_way_that_is_not_faster_are_not_sampled_in_full(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_trials, "timed", fast_as(1.02))
    monkeypatch.setattr(speed_trials, "likeness", lambda *given: pytest.fail("compared"))
    decision, said = decide(job, first_of(job))
    (way,) = decision.tried
    assert (way.ratio, way.lowest_db) == (1.02, None)
    assert way.reason == "it is not faster, so its images were not compared"
    assert "model.speed auto: channels_last is 1.02 times as fast" in said
    assert decide(job, first_of(job))[0].tried[0].reason == way.reason, "as it was kept"


@pytest.mark.usefixtures("eager", "faster")
def test_quick_ways_are_tried_in_a_run_that_is_too_short_for_compiling(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [LAST, FULL])
    monkeypatch.setattr(rules, "COMPILE_S", {"full": 3600.0})
    first = first_of(job)
    decision, said = decide(job, first)
    assert first.actor.tried == [LAST]
    assert "trying faster ways first" in said[0]
    assert decision.speed == LAST.speed
    assert f"; {BOTH.name} is tried once an actor has about 46 h" in decision.reason


@pytest.mark.usefixtures("eager", "faster")
def test_what_is_compiled_is_tried_with_the_best_quick_way_and_must_pay_beside_it(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [LAST, FULL])
    asked: list[tuple[Any, Any]] = []

    def attempt(work: rules.ActorWork, ways: Any, beside: Any = None) -> rules.Attempt:
        asked.append((list(ways), beside and beside.config))
        return rules.attempt_of_unknown(work, ways, beside)

    monkeypatch.setattr(auto_speed, "attempt_of_unknown", attempt)
    first = first_of(job, BOTH)
    decision, said = decide(job, first)
    assert asked == [([LAST], None), ([BOTH], LAST)]
    assert [each.name for each in decision.tried] == ["channels_last", BOTH.name]
    assert f"trying {BOTH.name} first" in said[2]
    assert decision.speed == LAST.speed, "the actor was lost with the other"


@pytest.mark.slow
@pytest.mark.usefixtures("eager", "faster")
def test_what_is_known_is_compared_before_a_trial_that_may_cost_the_actor(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(job, first_of(job))
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [LAST, FUSED])
    first = first_of(job, FUSED)
    decision, _ = decide(job, first)
    assert first.actor.confirmed == [LAST]
    assert decision.speed == LAST.speed
    assert decision.tried[-1].reason == LOST


@pytest.mark.usefixtures("eager", "faster")
def test_a_way_that_failed_in_two_runs_is_left_with_its_reason(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(self: SpeedTrials, *given: Any) -> Any:
        raise OutOfMemory("it needs 9 GiB")

    monkeypatch.setattr(SpeedTrials, "_measure", too_large)
    for _ in range(2):
        first = first_of(job)
        decision, said = decide(job, first)
        assert first.actor.tried == [LAST]
        assert decision.reason == "exact; no faster way can be used"
        reason = "it does not fit into memory: it needs 9 GiB"
        assert f"model.speed auto: channels_last cannot be used: {reason}" in said
    first = first_of(job)
    again, _ = decide(job, first)
    assert (first.actor.tried, first.actor.confirmed) == ([], [])
    assert again.reason == "exact; no faster way can be used, as earlier runs have measured here"
    assert again.tried[0].reason == f"{reason}, in 2 runs"


@pytest.mark.usefixtures("eager", "faster")
def test_a_trial_that_cost_the_process_is_known_to_later_runs(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: SpeedTrials, *given: Any) -> Any:
        raise SystemExit("the process ends here")

    monkeypatch.setattr(SpeedTrials, "_measure", lost)
    for _ in range(2):
        with pytest.raises(SystemExit):
            decide(job, first_of(job))
    decision, _ = decide(job, first_of(job))
    assert decision.tried[0].reason == f"{LOST}, in 2 runs"


@pytest.mark.slow
@pytest.mark.usefixtures("eager", "faster")
def test_faulty_images_of_plain_sampling_are_not_held_against_a_way(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SampledBatch(np.zeros((BATCH, 8, 8, 3), np.uint8), (Fault.BLANK,) * BATCH)
    monkeypatch.setattr(benchmark.Candidate, "first", plain)
    decision, _ = decide(job, first_of(job))
    assert str(decision.tried[0].reason).startswith("every image of the first batch is faulty: ")
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.usefixtures("eager", "faster")
def test_only_what_is_not_known_is_timed(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(job, first_of(job))
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [LAST, FUSED])
    monkeypatch.setattr(speed_trials, "timed", fast_as(1.1))
    first = first_of(job)
    decision, _ = decide(job, first)
    assert first.actor.tried[0] == FUSED
    assert LAST not in first.actor.tried
    assert first.actor.confirmed == [LAST]
    assert decision.speed == LAST.speed


@pytest.mark.usefixtures("eager", "faster")
def test_a_known_way_whose_images_now_differ_is_not_used(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(job, first_of(job))
    far = benchmark.Likeness((99.0, 60.0), None)
    monkeypatch.setattr(speed_trials, "likeness", lambda *results: far)
    decision, said = decide(job, first_of(job))
    assert decision.speed == SpeedSpec()
    assert decision.reason == (
        "exact; what is faster changes more than the last bits (below 70 dB)"
    )
    assert "channels_last is 1.50 times as fast, lowest PSNR 60.0 dB" in said[1]
    monkeypatch.setattr(speed_trials, "likeness", benchmark.likeness)
    assert decide(job, first_of(job))[0].speed == LAST.speed, "the images of another run"


@pytest.mark.slow
@pytest.mark.usefixtures("eager", "faster")
def test_a_known_way_that_kills_the_actor_costs_no_run_and_leaves_it_exact(
    job: tuple[RunSpec, ModelInfo, PlanLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [LAST, FUSED])
    decide(job, first_of(job))
    deadly = first_of(job, LAST, FUSED)
    decision, _ = decide(job, deadly)
    assert decision.speed == SpeedSpec()
    assert len(deadly.limits) == 2  # the start, and one way: the new actor is asked nothing
    assert "the actor was lost, or took too long" in {each.reason for each in decision.tried}


@pytest.mark.usefixtures("eager", "faster")
def test_a_cache_folder_that_cannot_be_written_is_said_in_the_log(
    job: tuple[RunSpec, ModelInfo, PlanLayout],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    decision, _ = decide(job, first_of(job))
    assert decision.speed == LAST.speed
    assert "what was tried is not kept for later runs: " in caplog.text


@pytest.mark.parametrize("speed", ["exact", {}, {"channels_last": True}])
@pytest.mark.usefixtures("eager")
def test_what_the_job_has_set_is_not_decided(
    job: tuple[RunSpec, ModelInfo, PlanLayout], speed: object
) -> None:
    spec, info, layout = job
    values = spec.as_dict()
    chosen = RunSpec.from_dict(values | {"model": values["model"] | {"speed": speed}})
    tried = TriedJob(chosen, info, layout, BATCH, spec.url, lambda: nullcontext(chosen))
    with pytest.raises(StopIteration) as end:
        next(decide_speeds(tried, first_of(job)))  # type: ignore[arg-type]
    assert end.value.value == ()


def test_a_plan_of_clips_alone_says_that_they_are_not_tried(
    job: tuple[RunSpec, ModelInfo, PlanLayout],
) -> None:
    (count, *_) = job[2].batches
    clips = replace(count, settings=replace(count.settings, num_frames=8))
    assert reason_from_plan([clips]) == "exact; faster ways are not tried on clips"
