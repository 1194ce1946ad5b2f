"""An image is made again with the sampler that its metadata names."""

from pathlib import Path

import pytest
from support import tiny_models

from nightpress.diffusion_core.models.loading import describe, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.records import ImageFacts
from nightpress.pipelines.shards.reproduce import reproduce


@pytest.mark.parametrize(
    ("family", "own", "in_metadata"),
    [("sd", "PNDMScheduler", "own"), ("sdxl", "euler", "own"), ("sdxl", "euler", "default")],
)
def test_an_image_of_the_models_own_sampler_is_reproduced_to_the_bit(
    family: str, own: str, in_metadata: str, tmp_path: Path
) -> None:
    spec = ModelSpec(source=str(tiny_models.save(family, tmp_path)))
    info, model = describe(tmp_path, spec), load(tmp_path, spec, "cpu")
    assert info.own_sampler == own
    params = SamplingParams(32, 32, 2, 3.0, "default")
    pixels = Sampler(model, 1).sample([ImageRequest("a fox", "", 11)], params).pixels[0]
    facts = ImageFacts(
        image_id="0_00",
        id="0",
        variant=0,
        prompt="a fox",
        negative_prompt="",
        seed=11,
        width=32,
        height=32,
        num_inference_steps=2,
        guidance_scale=3.0,
        scheduler=own if in_metadata == "own" else "default",
        model=spec.source,
        model_fingerprint=info.fingerprint,
        dtype="float32",
        batch_size=1,
    )
    comparison, _ = reproduce(encode(pixels, facts, ImagesSpec()), facts, model, ImagesSpec())
    assert comparison.same_file
