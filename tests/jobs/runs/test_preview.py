"""A preview shows what the run will make."""

from collections.abc import Callable

import numpy as np
import pytest
from support.run_files import PROMPTS

from nightpress import jobs
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
