"""A preview shows what the run will make."""

from collections.abc import Callable

import numpy as np
import pytest
from support.fakes.odd_actors import FactoryOf, FallingActor
from support.run_files import PROMPTS

from nightpress import jobs
from nightpress.jobs.dispatch.actor import SamplerActor
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs import preview as preview_runs
from nightpress.jobs.runs.preview import sample_images
from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec


@pytest.mark.usefixtures("local_ray")
def test_a_preview_has_the_pixels_of_the_run(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec()
    samples = sample_images(spec, 5)
    assert len({sample.image.image_id for sample in samples}) == 5
    jobs.run(spec)
    run = open_run(spec.url)
    for sample in samples:
        assert np.array_equal(np.asarray(run.image(sample.image.image_id)), sample.pixels)


@pytest.mark.usefixtures("local_ray")
def test_a_preview_shows_at_most_the_images_of_the_job(
    make_spec: Callable[..., RunSpec],
) -> None:
    assert len(sample_images(make_spec(), 400)) == PROMPTS


@pytest.mark.usefixtures("local_ray")
def test_a_preview_replaces_an_actor_that_is_lost_while_it_loads_and_says_so(
    make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    kinds = [FallingActor, SamplerActor]
    factory = FactoryOf(spec.model, {}, cpus=1, gpus=0, threads=1, kinds=kinds)
    monkeypatch.setattr(preview_runs, "actor_factory", lambda spec: factory)
    events: list[Event] = []
    assert len(sample_images(spec, 2, on_event=events.append)) == 2
    said = [event.text for event in events if isinstance(event, Message) and event.warning]
    assert len(said) == 1
    assert said[0].startswith("an actor failed to start: the cluster failed: ActorDiedError")
