"""The batch sizes of a run: decided once, recorded, and halved where they do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from support.fakes.odd_actors import CrampedActor, FactoryOf, OverfilledActor, RefusingActor
from support.run_files import PROMPTS, hashes, read_metadata

from nightpress import jobs
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.jobs.dispatch import batch_size
from nightpress.jobs.dispatch.actor import ActorFactory, SamplerActor
from nightpress.jobs.dispatch.batch_size import AUTO_BATCH_SIZE, decide_batch_sizes, memory_share
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import batch_sizes, check
from nightpress.pipelines.planning.batch_sizes import BatchSizes, ImageKind

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")

AUTO = {"size": "auto", "shard_size": 7}


def texts(events: list[Event]) -> list[str]:
    """The messages, except those about waiting for a slow machine."""
    said = [event.text for event in events if isinstance(event, Message)]
    return [text for text in said if not text.startswith("waiting for")]


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure even small runs, for a second."""
    monkeypatch.setattr(batch_sizes, "STEPS_WORTH_MEASURING", 10)
    monkeypatch.setattr(batch_size, "KIND_S", 1.0)


def test_a_small_run_is_not_measured_and_says_so(make_spec: MakeSpec) -> None:
    seen: list[Event] = []
    spec = make_spec(batch=AUTO)
    jobs.run(spec, seen.append)
    said = [text for text in texts(seen) if text.startswith("batch.size")]
    assert said == [
        "batch.size auto: 4, not measured: that needs at least 20,000 denoising steps, and this "
        f"run has {2 * PROMPTS}"
    ]
    record = open_run(spec.url).record
    assert (record.batch_size, record.measured) == (AUTO_BATCH_SIZE["cpu"], ())
    assert set(read_metadata(spec).column("batch_size").to_pylist()) == {4}


@pytest.mark.usefixtures("measuring")
def test_a_measured_size_is_recorded_and_used_by_a_later_start(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Event] = []
    spec = make_spec(batch=AUTO)
    jobs.run(spec, seen.append)
    run = open_run(spec.url)
    sizes = run.record.batch_sizes
    kinds = {ImageKind(64, 64, True), ImageKind(32, 64, True)}
    assert {each.kind for each in sizes.measured} == kinds
    assert sizes.largest == max(each.best.batch_size for each in sizes.measured)
    assert run.record.layout.batch_size == sizes.largest
    assert len([text for text in texts(seen) if "batch.size auto:" in text]) == 2
    for row in read_metadata(spec).to_pylist():
        assert row["batch_size"] == sizes.of(ImageKind(row["width"], row["height"], True))
    recorded = json.loads((Path(spec.url) / "run.json").read_text())["measured"]
    for each in recorded:
        assert each["trials"][0]["batch_size"] == 1
        assert all(trial["images_per_s"] > 0 for trial in each["trials"])

    before = hashes(spec)
    for folder in ("metadata", "images"):
        for path in (Path(spec.url) / folder).rglob("*.*"):
            path.unlink()
    monkeypatch.setattr(batch_sizes, "STEPS_WORTH_MEASURING", 10**9)
    monkeypatch.setattr(batch_size, "AUTO_BATCH_SIZE", {"cpu": 3})
    again: list[Event] = []
    assert jobs.run(spec, again.append).num_made == PROMPTS
    assert not [text for text in texts(again) if "batch.size" in text]
    assert hashes(spec) == before


@pytest.mark.usefixtures("measuring")
def test_kinds_that_there_is_no_time_to_measure_are_said(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "MEASURING_S", 0.0)
    seen: list[Event] = []
    spec = make_spec(batch=AUTO)
    jobs.run(spec, seen.append)
    assert sorted(text for text in texts(seen) if text.startswith("batch.size")) == [
        f"batch.size auto: 4 for {kind}-guided, which was not measured; the usual size"
        for kind in ("32x64", "64x64")
    ]
    assert open_run(spec.url).record.measured == ()


def first_of(spec: RunSpec, *kinds: type[SamplerActor]) -> FirstActor:
    factory = FactoryOf(spec.model, {}, cpus=1, gpus=0, threads=1, kinds=list(kinds))
    return FirstActor(factory, 60.0, lambda: None)


def decide(spec: RunSpec, first: FirstActor) -> tuple[BatchSizes, list[Event]]:
    """Decide the batch sizes of a job; returns the events as well."""
    said: list[Event] = []

    def deciding() -> object:
        model = yield from first.start()  # type: ignore[misc]
        loading = first.begin_loading(model.fingerprint, 4)
        yield from first.finish_loading(loading, model.fingerprint, 4)
        return (yield from decide_batch_sizes(spec, model, check(spec, model, 4), first))

    steps = deciding()
    try:
        while True:
            said.append(next(steps))  # type: ignore[call-overload]
    except StopIteration as end:
        return end.value, said
    finally:
        ray.kill(first.handle)


@pytest.mark.slow
@pytest.mark.usefixtures("measuring")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [(OverfilledActor, "the cluster failed: ActorDiedError"), (RefusingActor, "4 steps are too")],
)
def test_if_measuring_fails_the_usual_size_is_used(
    make_spec: MakeSpec, kind: type[SamplerActor], reason: str
) -> None:
    first = first_of(make_spec(), kind, SamplerActor)
    sizes, said = decide(make_spec(batch=AUTO), first)
    assert sizes == BatchSizes(AUTO_BATCH_SIZE["cpu"])
    failed, *others = texts(said)
    assert failed.startswith("the batch size could not be measured: ")
    assert reason in failed
    assert others == [
        f"batch.size auto: 4 for {kind}-guided, which was not measured; the usual size"
        for kind in ("64x64", "32x64")
    ]


def test_a_size_that_would_not_fit_in_memory_is_halved_before_it_ends_a_process(
    make_spec: MakeSpec,
) -> None:
    spec = make_spec(batch={"size": 1_000_000})
    sizes, said = decide(spec, first_of(spec, CrampedActor))
    assert sizes.largest in {1_000_000 >> k for k in range(8, 20)}
    assert not sizes.measured
    assert texts(said)[0] == (
        "batch.size: a batch of 1,000,000 images would not fit in the memory of an actor; using "
        f"{sizes.largest:,}"
    )


def test_a_size_that_is_mostly_padding_gives_a_warning(make_spec: MakeSpec) -> None:
    spec = make_spec(batch={"size": 40})
    sizes, said = decide(spec, first_of(spec, SamplerActor))
    assert sizes == BatchSizes(40)
    assert len(texts(said)) == 1
    assert "% of what is sampled in batches of 40 is padding: no more than" in texts(said)[0]


def test_a_size_that_batches_fill_gives_no_message(make_spec: MakeSpec) -> None:
    spec = make_spec(batch={"size": 4})
    sizes, said = decide(spec, first_of(spec, SamplerActor))
    assert (sizes, texts(said)) == (BatchSizes(4), [])


def test_actors_on_one_node_share_its_memory(make_spec: MakeSpec) -> None:
    def share(cpus: float, gpus: float, **cluster: object) -> float:
        spec = make_spec(cluster=cluster)
        return memory_share(spec, ActorFactory(spec.model, {}, cpus, gpus, 1))

    assert share(1, 0, actors="auto") == 1 / 4
    assert share(2, 0, actors="auto") == 1 / 2
    assert share(1, 0, actors=3) == 1 / 3
    assert share(16, 0, actors="auto") == 1.0
    assert share(1, 0.25) == 0.25
    assert share(1, 2) == 1.0


def test_an_actor_says_why_it_stopped_measuring(make_spec: MakeSpec) -> None:
    first = first_of(make_spec(), SamplerActor)
    for _ in first.start():
        pass
    model = ray.get(first.handle.describe.remote())
    ray.get(first.handle.load.remote(model.fingerprint, 4))
    params = SamplingParams(64, 64, 4, 3.0)
    best = ray.get(first.handle.find_best_batch_size.remote(params, [1_000], 4, 1.0, 0.001))
    assert (best.ending.value, best.batch_size) == ("the time for measuring was over", 4)
    assert [trial.batch_size for trial in best.trials] == [1]
    ray.kill(first.handle)


@pytest.mark.chaos
def test_images_of_mixed_guidance_have_the_same_bits_in_any_batch(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    path = tmp_path / "guidance.csv"
    rows = [f"picture {n},{0.5 + n % 7}" for n in range(20)]
    path.write_text("prompt,guidance_scale\n" + "\n".join(rows) + "\n")
    made = []
    for shard_size in (1, 64):
        spec = make_spec(
            name=f"by{shard_size}",
            manifest=str(path),
            sampling={"width": 64, "height": 64, "num_inference_steps": 2},
            batch={"size": 4, "shard_size": shard_size},
            cluster={"actors": 2},
        )
        assert jobs.run(spec).num_ok == 20
        made.append(hashes(spec))
    assert made[0] == made[1]
    assert len(set(made[0].values())) == 20
