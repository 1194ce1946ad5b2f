"""The metadata of one image, for tests of image files and their embedded metadata."""

from nightpress.pipelines.records import ImageFacts

CAT = ImageFacts(
    image_id="cat_00",
    id="cat",
    variant=0,
    prompt="a cat",
    negative_prompt="",
    seed=7,
    width=48,
    height=32,
    num_inference_steps=20,
    guidance_scale=7.5,
    scheduler="euler",
    model="builtin",
    model_fingerprint="0123456789abcdef" * 4,
    dtype="float32",
    batch_size=8,
)
