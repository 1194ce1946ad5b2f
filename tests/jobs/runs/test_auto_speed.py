"""`model.speed: auto`: decided once when a run begins, recorded, and used by all that follow."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fakes.odd_actors import DyingInTrialsActor, FactoryOf, FaultyTrialsActor
from support.run_files import PROMPTS, hashes, read_metadata

from nightpress import jobs
from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.tuning import auto_speed as rules
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.jobs.dispatch import auto_speed
from nightpress.jobs.dispatch.actor import SamplerActor
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs import runner
from nightpress.pipelines import open_run
from nightpress.pipelines.errors import ChangedRunError
from nightpress.pipelines.job.spec import RunSpec

MakeSpec = Callable[..., RunSpec]

LAST = TuningConfig.of(channels_last=True)
RECORDED = '{"channels_last":true}'

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(autouse=True)
def nothing_is_known() -> None:
    """Earlier runs have tried nothing on this machine."""
    shutil.rmtree(cache_folder() / "auto_speed", ignore_errors=True)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even short runs try one way that compiles nothing, and use what could be tried."""
    monkeypatch.setattr(rules, "FEWEST_STEPS", 10)
    monkeypatch.setattr(rules.Attempt, "pays", lambda *given: True)
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [LAST])
    monkeypatch.setattr(
        auto_speed, "choose", lambda work, trials: next(filter(None, trials.values()), None)
    )


def said(events: list[Event]) -> list[str]:
    """The messages about the decision."""
    texts = [event.text for event in events if isinstance(event, Message)]
    return [text for text in texts if "speed auto" in text]


def recorded(spec: RunSpec) -> dict[str, Any]:
    values = json.loads((Path(spec.url) / "run.json").read_text())["auto_speed"]
    assert len(values) == 1
    return dict(values[0])


def test_a_short_run_tries_nothing_and_says_why_in_one_line(make_spec: MakeSpec) -> None:
    seen: list[Event] = []
    spec = make_spec()
    jobs.run(spec, seen.append)
    reason = (
        f"exact; faster ways are tried from 2,000 denoising steps, and this run has {2 * PROMPTS}"
    )
    assert said(seen) == [f"model.speed auto: {reason}"]
    assert recorded(spec) == {"model": None, "speed": {}, "reason": reason, "tried": []}
    assert set(read_metadata(spec).column("speed").to_pylist()) == {None}
    planned = jobs.plan(make_spec(name="other"))
    assert planned.auto_speed == (f"model.speed auto: {reason}",)
    exact = make_spec(name="exact", model={"source": spec.model.source, "speed": "exact"})
    jobs.run(exact)
    assert hashes(exact) == hashes(spec)


@pytest.mark.slow
def test_a_run_that_is_just_too_short_for_its_speed_is_only_measured(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "FEWEST_STEPS", 10)
    spec, seen = make_spec(), list[Event]()
    jobs.run(spec, seen.append)
    (line,) = said(seen)
    assert "exact; an actor will sample for about" in line
    assert recorded(spec)["tried"] == []
    assert set(read_metadata(spec).column("speed").to_pylist()) == {None}


@pytest.mark.usefixtures("eager")
def test_what_is_decided_is_recorded_and_used_by_every_later_start(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, seen = make_spec(), list[Event]()
    jobs.run(spec, seen.append)
    assert any("channels_last is" in line for line in said(seen))
    assert recorded(spec)["speed"] == {"channels_last": True}
    assert recorded(spec)["tried"][0]["ratio"] > 0
    assert set(read_metadata(spec).column("speed").to_pylist()) == {RECORDED}
    before = hashes(spec)
    for folder in ("metadata", "images"):
        for path in (Path(spec.url) / folder).rglob("*.*"):
            path.unlink()
    monkeypatch.undo()
    again: list[Event] = []
    assert jobs.run(spec, again.append).num_made == PROMPTS
    assert said(again) == []
    assert hashes(spec) == before
    assert open_run(spec.url).record.spec.model.ways == LAST.speed
    same = jobs.reproduce(open_run(spec.url), "00000003_00")
    assert same.comparison.same_file
    with pytest.raises(ChangedRunError, match=r"model\.speed\.channels_last: True -> None"):
        jobs.run(make_spec(model={"source": spec.model.source, "speed": "exact"}))


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_images_that_are_repaired_or_made_again_are_made_in_the_decided_way(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    jobs.run(spec)
    monkeypatch.undo()
    before = hashes(spec)
    (Path(spec.url) / read_metadata(spec).column("file").to_pylist()[3]).unlink()
    repaired = jobs.verify(spec, repair=True).repaired
    assert repaired is not None
    assert (repaired.num_rows, repaired.num_same) == (1, 1)
    assert jobs.verify(spec).is_sound
    assert hashes(spec) == before
    assert jobs.again(spec, ids=["00000003_00"]).num_ok == 1
    (other,) = hashes(spec).keys() - before.keys()
    assert set(read_metadata(spec).column("speed").to_pylist()) == {RECORDED}
    assert jobs.reproduce(open_run(spec.url), other).comparison.same_file


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_the_next_run_on_the_machine_knows_what_this_one_has_measured(make_spec: MakeSpec) -> None:
    jobs.run(make_spec())
    spec, seen = make_spec(name="next"), list[Event]()
    jobs.run(spec, seen.append)
    (way,) = recorded(spec)["tried"]
    assert way["measured_on"] is not None
    assert way["measured_on"] in said(seen)[0] or "channels_last, known to be" in said(seen)[0]


@pytest.mark.usefixtures("eager")
def test_a_way_that_cannot_be_used_is_left_with_a_word(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = TuningConfig.of(attention_backend="xformers")
    monkeypatch.setattr(rules, "last_bit_candidates", lambda: [missing])
    spec, seen = make_spec(), list[Event]()
    assert jobs.run(spec, seen.append).num_ok == PROMPTS
    assert any("attention_backend xformers cannot be used: " in line for line in said(seen))
    assert said(seen)[-1] == "model.speed auto: exact; no faster way can be used"
    assert recorded(spec)["tried"][0]["reason"].startswith("model.speed.attention_backend: ")
    assert set(read_metadata(spec).column("speed").to_pylist()) == {None}


def actors_of(monkeypatch: pytest.MonkeyPatch, kind: type[SamplerActor]) -> None:
    """Have the actors of a run be of another class."""
    plain = runner.actor_factory

    def factory(spec: RunSpec, traced: bool = False) -> FactoryOf:
        found = plain(spec, traced)
        size = found.cpus, found.gpus, found.threads
        return FactoryOf(found.spec, found.options, *size, kinds=[kind])

    monkeypatch.setattr(runner, "actor_factory", factory)


@pytest.mark.usefixtures("eager")
def test_a_way_that_kills_the_actor_does_not_cost_the_run(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors_of(monkeypatch, DyingInTrialsActor)
    spec, seen = make_spec(), list[Event]()
    assert jobs.run(spec, seen.append).num_ok == PROMPTS
    assert any("speed auto: the cluster failed: ActorDiedError" in line for line in said(seen))
    reason = "the actor was lost, or took too long, when it tried channels_last"
    assert said(seen)[-1] == f"model.speed auto: exact; {reason}"
    assert recorded(spec)["speed"] == {}


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_an_error_that_nobody_expects_of_a_way_costs_neither_the_run_nor_the_actor(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors_of(monkeypatch, FaultyTrialsActor)
    spec, seen = make_spec(), list[Event]()
    assert jobs.run(spec, seen.append).num_ok == PROMPTS
    reason = "OSError: [Errno 28] No space left on device"
    assert f"model.speed auto: channels_last cannot be used: {reason}" in said(seen)
    assert said(seen)[-1] == "model.speed auto: exact; no faster way can be used"
    assert recorded(spec)["tried"][0]["reason"] == reason
    assert not [each for each in seen if isinstance(each, Message) and each.warning]
