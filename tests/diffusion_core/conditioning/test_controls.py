"""Images with ControlNets: the bits of plain diffusers, at any place of a batch."""

import functools
import inspect
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny_controlnets
from support.pictures import with_guidance

from nightpress.diffusion_core.conditioning import canny
from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models import loading, modes
from nightpress.diffusion_core.models.adapter_files import AdapterFiles
from nightpress.diffusion_core.models.controlnets import UNION
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams
from nightpress.diffusion_core.silence_libraries import errors_only

SIZE = 32
STRENGTH = 0.8
SCALES = (1.0, 0.5)
PARAMS = SamplingParams(width=SIZE, height=SIZE, num_inference_steps=3, guidance_scale=4.0)

Pictures = np.ndarray


@dataclass(frozen=True)
class Family:
    """A tiny model with two ControlNets."""

    name: str
    union: bool = False
    bases: tuple[str, ...] = ("text",)
    most: int = 2
    """ControlNets that an image can use."""

    @property
    def settings(self) -> dict[str, Any]:
        """Of its ControlNets' constructor."""
        if self.name == "flux-deep":  # looks at control images itself, without the VAE
            return {"conditioning_embedding_channels": 4, "patch_size": 2}
        return {"num_mode": 3} if self.union and self.name == "flux" else {}

    @property
    def control_mode(self) -> int | None:
        return 1 if self.union else None

    def __str__(self) -> str:
        return f"{self.name}-union" if self.union else self.name


PICTURED = ("text", "image", "inpaint")
FAMILIES = (
    Family("sd", bases=PICTURED),
    Family("sdxl", bases=PICTURED),
    Family("sdxl", union=True, bases=PICTURED),
    Family("sd3"),
    Family("flux", bases=PICTURED),
    Family("flux", union=True, bases=PICTURED),
    Family("qwen", most=1),
    Family("flux-deep", bases=("text", "image")),
)
SD, SDXL, SDXL_UNION, SD3, FLUX, FLUX_UNION, QWEN, FLUX_HINT = FAMILIES


@dataclass(frozen=True)
class Saved:
    """The folders of a tiny model and of its ControlNets."""

    family: Family
    model: Path
    nets: tuple[Path, ...]

    def load(self, which: Sequence[int] = (0, 1), **settings: Any) -> LoadedModel:
        """The model with some of the ControlNets, called n0 and n1; `settings` are theirs."""
        nets = [self.nets[number] for number in which]
        settings = {"control_mode": self.family.control_mode} | settings
        specs = [
            {"source": str(net), "name": f"n{number}"} | settings
            for net, number in zip(nets, which, strict=True)
        ]
        spec = ModelSpec.model_validate({"source": str(self.model), "controlnets": specs})
        return loading.load(self.model, spec, "cpu", adapters=AdapterFiles(tuple(nets)))


Save = Callable[[Family], Saved]
Load = Callable[[Family], LoadedModel]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Save:
    @functools.cache
    def save(family: Family) -> Saved:
        folder = tmp_path_factory.mktemp(str(family))
        base = tiny_controlnets.base(family.name)
        base.save_pretrained(folder / "model")
        union = family.union and family.name == "sdxl"
        nets = tuple(
            tiny_controlnets.save(base, folder / f"n{n}", n + 1, union, **family.settings)
            for n in range(2)
        )
        return Saved(family, folder / "model", nets)

    return save


@pytest.fixture(scope="module")
def loaded(saved: Save) -> Load:
    return functools.cache(lambda family: saved(family).load())


def picture(seed: int) -> Pictures:
    """Some coarse blocks of colour, so that a ControlNet sees more than noise."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return blocks.repeat(SIZE // 8, 0).repeat(SIZE // 8, 1)


def mask() -> Pictures:
    values = np.zeros((SIZE, SIZE), np.uint8)
    values[8:24, 8:24] = 255
    return values


def params(base: str = "text", number: int = 1, **changes: Any) -> SamplingParams:
    """The settings of images in a mode with the first ControlNets."""
    strength = None if base == "text" else STRENGTH
    names = tuple(f"n{n}" for n in range(number))
    values = {"control_scales": SCALES[:number], "controls": names, "strength": strength}
    return replace(PARAMS, conditioning=Conditioning(f"{base}+control", **(values | changes)))


def requests(base: str = "text", number: int = 1) -> list[ImageRequest]:
    """Three images, each with pictures of its own."""
    prompts = ("a red fox", "two ships and a tower", "7")
    return [
        ImageRequest(prompt, "", seed, images=images(base, number, 10 * seed))
        for seed, prompt in enumerate(prompts, 3)
    ]


def images(base: str, number: int, seed: int) -> ConditionImages:
    return ConditionImages(
        init_image=None if base == "text" else picture(seed),
        mask_image=mask() if base in ("inpaint", "outpaint") else None,
        control_images=tuple(picture(seed + 1 + n) for n in range(number)),
    )


def plain_image(
    saved: Saved, base: str, number: int, request: ImageRequest, **changes: Any
) -> Pictures:
    """What plain diffusers makes of one request, with the settings that `params` gives."""
    pipeline = plain_pipeline(saved, base, number)
    takes = inspect.signature(pipeline.__call__).parameters
    controls = [Image.fromarray(each) for each in request.images.control_images]
    arguments = {
        "prompt": request.prompt,
        "width": SIZE,
        "height": SIZE,
        "num_inference_steps": PARAMS.num_inference_steps,
        "guidance_scale": PARAMS.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
        "output_type": "pil",
        "controlnet_conditioning_scale": first_or_all(SCALES[:number]),
        "control_image" if "control_image" in takes else "image": first_or_all(controls),
    }
    if "control_mode" in takes:
        arguments["control_mode"] = first_or_all([saved.family.control_mode] * number)
    if base != "text":
        arguments |= {"image": Image.fromarray(request.images.init_image), "strength": STRENGTH}
    if base == "inpaint":
        arguments["mask_image"] = Image.fromarray(request.images.mask_image)
    torch.manual_seed(request.seed)  # SD3 draws from torch's own generator
    return np.asarray(pipeline(**with_guidance(pipeline, arguments | changes)).images[0])


def first_or_all(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)


def plain_pipeline(saved: Saved, base: str, number: int) -> Any:
    plain = diffusers.DiffusionPipeline.from_pretrained(saved.model, local_files_only=True)
    nets = [load_net(net) for net in saved.nets[:number]]
    name = modes.class_for(type(plain).__name__, f"{base}+control")
    if type(nets[0]).__name__ == UNION:
        name = name.replace("ControlNet", "ControlNetUnion")
    kind = getattr(diffusers, name)
    takes = inspect.signature(kind.__init__).parameters
    parts = {**plain.components, "add_watermarker": False, "requires_safety_checker": False}
    pipeline = kind(**{k: v for k, v in parts.items() if k in takes}, controlnet=first_or_all(nets))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_net(folder: Path) -> Any:
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    with errors_only():
        return getattr(diffusers, name).from_pretrained(folder, local_files_only=True)


def sample(model: LoadedModel, request: ImageRequest, params: SamplingParams) -> Pictures:
    return Sampler(model, batch_size=1).sample([request], params).pixels[0]


def cases(*quick: tuple[Family, str]) -> Any:
    """Every family, mode and number of ControlNets; a few are tried in every run of the tests."""
    found = []
    for family in FAMILIES:
        for base, number in itertools.product(family.bases, range(1, family.most + 1)):
            is_quick = (family, base) in quick and number == family.most
            marks = () if is_quick else (pytest.mark.slow,)
            found.append(
                pytest.param(family, base, number, marks=marks, id=f"{family}-{base}-{number}")
            )
    return pytest.mark.parametrize(("family", "base", "number"), found)


@cases((SD, "inpaint"), *((family, "text") for family in FAMILIES[:-1]))
def test_a_batch_of_one_is_exactly_the_image_of_plain_diffusers(
    family: Family, base: str, number: int, loaded: Load, saved: Save
) -> None:
    request = requests(base, number)[0]
    is_flux = family in (FLUX, FLUX_HINT)
    multi = {"control_mode": [None] * number} if is_flux and number > 1 else {}
    expected = plain_image(saved(family), base, number, request, **multi)
    found = sample(loaded(family), request, params(base, number))
    np.testing.assert_array_equal(found, expected)


@cases((SD, "inpaint"), (SD3, "text"), (FLUX_UNION, "image"), (QWEN, "text"))
def test_bits_depend_neither_on_place_nor_on_other_images_nor_on_padding(
    family: Family, base: str, number: int, loaded: Load
) -> None:
    sampler, three = Sampler(loaded(family), batch_size=3), requests(base, number)
    settings = params(base, number)
    expected = sampler.sample(three, settings).pixels
    swapped = sampler.sample([three[2], three[0], three[1]], settings).pixels
    np.testing.assert_array_equal(swapped, expected[[2, 0, 1]])
    for place, request in enumerate(three[:2]):
        np.testing.assert_array_equal(
            sampler.sample([request], settings).pixels[0], expected[place]
        )


@cases((SD, "text"), (FLUX, "text"))
def test_the_control_image_and_its_scale_change_the_image(
    family: Family, base: str, number: int, loaded: Load
) -> None:
    model, request = loaded(family), requests(base, number)[0]
    first = sample(model, request, params(base, number)).astype(int)
    others = tuple(picture(99 + n) for n in range(number))
    moved = replace(request, images=replace(request.images, control_images=others))
    weaker = params(base, number, control_scales=(0.2,) * number)
    assert np.abs(sample(model, moved, params(base, number)) - first).max() >= 2
    assert np.abs(sample(model, request, weaker) - first).max() >= 2


@pytest.mark.parametrize("family", [SD, pytest.param(FLUX, marks=pytest.mark.slow)], ids=str)
def test_an_image_without_control_has_the_bits_of_a_model_without_controlnets(
    family: Family, loaded: Load, saved: Save
) -> None:
    sampler, request = Sampler(loaded(family), batch_size=1), ImageRequest("a red fox", "", 3)
    sampler.sample(requests()[:1], params())
    expected = sample(saved(family).load(()), request, PARAMS)
    np.testing.assert_array_equal(sampler.sample([request], PARAMS).pixels[0], expected)


def test_an_image_may_use_some_of_the_controlnets(loaded: Load, saved: Save) -> None:
    only_second = params(controls=("n1",))
    found = sample(loaded(SD), requests()[0], only_second)
    np.testing.assert_array_equal(found, sample(saved(SD).load((1,)), requests()[0], only_second))
    assert (found != sample(loaded(SD), requests()[0], params())).any()


def test_control_begins_and_ends_where_the_job_says(saved: Save) -> None:
    span = {"control_guidance_start": 0.2, "control_guidance_end": 0.8}
    request = requests(number=2)[0]
    expected = plain_image(saved(SD), "text", 2, request, **{k: [v] * 2 for k, v in span.items()})
    found = sample(saved(SD).load(**span), request, params(number=2))
    np.testing.assert_array_equal(found, expected)
    assert (found != plain_image(saved(SD), "text", 2, request)).any()
    without = params(number=2, control_scales=(0.0, 0.0))
    assert (found != sample(saved(SD).load(), request, without)).any()


def test_pictures_for_one_union_controlnet_go_through_it_together(saved: Save) -> None:
    net = saved(SDXL_UNION).nets[0]
    specs = [
        {"source": str(net), "name": name, "control_mode": mode}
        for name, mode in (("n0", 2), ("n1", 0))
    ]
    model_folder = saved(SDXL_UNION).model
    spec = ModelSpec.model_validate({"source": str(model_folder), "controlnets": specs})
    model = loading.load(model_folder, spec, "cpu", adapters=AdapterFiles((net, net)))
    first, second = model.controlnets
    assert first.network is second.network
    request, pipeline = requests(number=2)[0], plain_pipeline(saved(SDXL_UNION), "text", 1)
    expected = pipeline(
        request.prompt,
        control_image=[Image.fromarray(each) for each in request.images.control_images],
        control_mode=[2, 0],
        controlnet_conditioning_scale=list(SCALES),
        width=SIZE,
        height=SIZE,
        num_inference_steps=PARAMS.num_inference_steps,
        guidance_scale=PARAMS.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    found = sample(model, request, params(number=2))
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_qwen_image_takes_several_pictures_for_one_controlnet(saved: Save) -> None:
    net, folder = saved(QWEN).nets[0], saved(QWEN).model
    specs = [{"source": str(net), "name": f"n{number}"} for number in range(2)]
    spec = ModelSpec.model_validate({"source": str(folder), "controlnets": specs})
    model = loading.load(folder, spec, "cpu", adapters=AdapterFiles((net, net)))
    both = sample(model, requests(number=2)[0], params(number=2))
    assert (both != sample(model, requests()[0], params())).any()
    with pytest.raises(SettingsError, match="takes one ControlNet for an image"):
        sample(saved(QWEN).load(), requests(number=2)[0], params(number=2))


@pytest.mark.parametrize(
    ("changed", "pictures", "message"),
    [
        ({"controls": ("depth",)}, 1, "there is no ControlNet 'depth'; the model has: n0, n1"),
        ({"control_scales": ()}, 1, "0 scales for 1 ControlNets"),
        ({}, 0, "0 pictures for 1 ControlNets"),
        ({}, 2, "2 pictures for 1 ControlNets"),
        ({"controls": (), "control_scales": ()}, 0, r"mode text\+control with 0 ControlNets"),
    ],
)
def test_pictures_and_controlnets_that_do_not_match_are_refused(
    changed: dict[str, Any], pictures: int, message: str, loaded: Load
) -> None:
    request = ImageRequest("a fox", "", 1, images=images("text", pictures, 1))
    with pytest.raises(SettingsError, match=message):
        sample(loaded(SD), request, params(**changed))


def test_a_control_image_of_another_size_is_refused(loaded: Load) -> None:
    small = ConditionImages(control_images=(picture(1)[:16],))
    with pytest.raises(
        SettingsError, match=r"shape \(16, 32, 3\) and type uint8; this image needs"
    ):
        sample(loaded(SD), ImageRequest("a fox", "", 1, images=small), params())


def test_a_controlnet_that_would_act_on_no_step_is_refused(saved: Save) -> None:
    model = saved(SD).load((0,), control_guidance_end=0.2)  # PNDM takes one call more
    with pytest.raises(
        SettingsError, match=r"'n0' acts between 0 and 0\.2 of the steps, and none of 3"
    ):
        sample(model, requests()[0], params())
    sample(model, requests()[0], replace(params(), num_inference_steps=4))


def test_reused_deep_features_leave_an_image_with_control_as_it_is(
    loaded: Load, saved: Save
) -> None:
    model = replace(loaded(SD), speed=ModelSpec(speed={"deep_features": {"interval": 2}}).speed)
    expected = sample(loaded(SD), requests()[0], params())
    np.testing.assert_array_equal(sample(model, requests()[0], params()), expected)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["regional", "full"])
def test_a_compiled_denoiser_takes_control(which: str, saved: Save, loaded: Load) -> None:
    nets = saved(SD).nets
    spec = ModelSpec.model_validate(
        {
            "source": str(saved(SD).model),
            "controlnets": [{"source": str(nets[0]), "name": "n0"}],
            "speed": {"compile": which},
        }
    )
    model = loading.load(saved(SD).model, spec, "cpu", adapters=AdapterFiles(nets[:1]))
    found = sample(model, requests()[0], params()).astype(int)
    expected = sample(loaded(SD), requests()[0], params())
    assert np.abs(found - expected).max() <= 2


class TestCanny:
    """Control images made from the edges of pictures."""

    @pytest.fixture(autouse=True)
    def opencv(self) -> Any:
        return pytest.importorskip("cv2")

    def test_edges_are_white_on_black_and_where_the_picture_changes(self) -> None:
        halves = np.zeros((SIZE, SIZE, 3), np.uint8)
        halves[:, SIZE // 2 :] = 200
        found = canny.edges(halves, 100, 200)
        assert found.shape == halves.shape
        assert set(np.unique(found)) == {0, 255}
        assert set(np.nonzero(found)[1]) <= {SIZE // 2 - 1, SIZE // 2}
        assert not canny.edges(halves, 1000, 1020).any()

    def test_edges_are_the_same_with_any_number_of_threads(self, opencv: Any) -> None:
        large = np.random.default_rng(0).integers(0, 256, (512, 384, 3), dtype=np.uint8)
        before = opencv.getNumThreads()
        one, four = (
            (opencv.setNumThreads(number), canny.edges(large, 100, 200))[1] for number in (1, 4)
        )
        opencv.setNumThreads(before)
        np.testing.assert_array_equal(one, four)

    def test_preprocess_canny_makes_the_control_image_from_a_picture(self, saved: Save) -> None:
        request = requests()[0]
        (made,) = request.images.control_images
        edges = replace(
            request, images=ConditionImages(control_images=(canny.edges(made, 50, 150),))
        )
        model = saved(SD).load((0,), preprocess="canny", low_threshold=50, high_threshold=150)
        expected = sample(saved(SD).load((0,)), edges, params())
        np.testing.assert_array_equal(sample(model, request, params()), expected)
