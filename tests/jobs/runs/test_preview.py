"""A preview shows what the run will make."""

from collections.abc import Callable

import numpy as np
import pytest
from support.fakes.odd_actors import FactoryOf, FallingActor
from support.run_files import PROMPTS

from nightpress import jobs
from nightpress.diffusion_core.conditioning.spec import TEXT_ALONE, Conditioning
from nightpress.jobs.dispatch.actor import SamplerActor
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs import preview as preview_runs
from nightpress.jobs.runs.preview import PreviewImage, caption, sample_images
from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.shards.batching import PlannedImage


@pytest.mark.usefixtures("local_ray")
def test_a_preview_has_the_pixels_of_the_run(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec()
    samples = sample_images(spec, 5)
    assert len({sample.image.image_id for sample in samples}) == 5
    jobs.run(spec)
    run = open_run(spec.url)
    for sample in samples:
        assert np.array_equal(np.asarray(run.image(sample.image.image_id)), sample.pixels)


@pytest.mark.parametrize(
    ("conditioning", "lora", "fault", "text"),
    [
        (TEXT_ALONE, None, None, "a cat"),
        (TEXT_ALONE, "ink", "NotFinite", "[NotFinite] text, LoRA ink at 0.8: a cat"),
        (Conditioning("image", 0.5), None, None, "image, strength 0.5: a cat"),
        (
            Conditioning("text+control", controls=("edges",), control_scales=(0.7,)),
            *("ink", None, "text+control, edges at 0.7, LoRA ink at 0.8: a cat"),
        ),
    ],
)
def test_a_caption_says_what_conditions_an_image_besides_its_prompt(
    conditioning: Conditioning, lora: str | None, fault: str | None, text: str
) -> None:
    settings = (8, 8, 2, 1.0, "default", lora, 0.8, conditioning.as_text())
    image = PlannedImage("0", "0", 0, 0, "0.png", "a cat", "", 1, *settings)
    assert caption(PreviewImage(image, np.zeros((8, 8, 3), np.uint8), fault)) == text


@pytest.mark.usefixtures("local_ray")
def test_a_preview_shows_at_most_the_images_of_the_job(
    make_spec: Callable[..., RunSpec],
) -> None:
    assert len(sample_images(make_spec(), 400)) == PROMPTS


@pytest.mark.slow
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
