"""Reference images: each row has its own, with the bits that plain diffusers gives it alone."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny_loras, tiny_models, tiny_references
from support.slow_cases import slow_except
from support.tiny_references import picture

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.conditioning.references import ReferenceEncoder
from nightpress.diffusion_core.conditioning.spec import (
    TEXT_ALONE,
    ConditionImages,
    Conditioning,
    Pixels,
)
from nightpress.diffusion_core.errors import IncompatibleLibrary, SamplingError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.adapter_files import AdapterFiles, ReferenceFiles
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.modes import class_for
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

KINDS = {
    "sd": ("base", "plus"),
    "sd8": ("base", "plus"),
    "sdxl": ("plus", "base"),
    "flux": ("base", "base"),
}
"""Family -> the kinds of its two adapters, which are called `one` and `two`."""

NAMES, SCALES, COUNTS = ("one", "two"), (0.7, 0.4), (2, 1)
SIZE = (40, 24)

BOTH = Conditioning("text+reference", None, None, (), (), NAMES, COUNTS, SCALES)


@dataclass(frozen=True)
class Adapted:
    """A tiny model with two adapters, and what plain diffusers needs to load them."""

    model: LoadedModel
    folder: Path
    adapters: Path
    family: str

    def plain(self, mode: str = "text", names: Sequence[str] = NAMES) -> Any:
        """A plain pipeline of diffusers for a mode, with these adapters."""
        base = diffusers.DiffusionPipeline.from_pretrained(self.folder, local_files_only=True)
        self._load(base, names)
        kind = getattr(diffusers, class_for(type(base).__name__, mode))
        parts = {**base.components, **({} if self.family != "sd" else NO_CHECKER)}
        pipeline = base if type(base) is kind else kind(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _load(self, pipeline: Any, names: Sequence[str]) -> None:
        files = [f"{name}.safetensors" for name in names]
        if self.family == "flux":
            pipeline.load_ip_adapter(
                str(self.adapters),
                weight_name=files,
                subfolder="",
                image_encoder_pretrained_model_name_or_path=str(self.adapters / "image_encoder"),
                image_encoder_dtype=torch.float32,
            )
        else:
            pipeline.load_ip_adapter(str(self.adapters), subfolder="", weight_name=files)
        network = pipeline.transformer if self.family == "flux" else pipeline.unet
        for name, weight in network.named_parameters():
            if (
                "_ip" in name or "encoder_hid_proj" in name
            ):  # aligned, as nightpress has them: the last bit depends on it
                weight.data = weight.data.clone()
        scales = [dict(zip(NAMES, SCALES, strict=True))[name] for name in names]
        pipeline.set_ip_adapter_scale(scales if len(scales) > 1 else scales[0])


NO_CHECKER = {"requires_safety_checker": False}


def spec_of(folder: Path, adapters: Path, **settings: Any) -> tuple[ModelSpec, AdapterFiles]:
    references = [
        {"source": str(adapters), "weight_name": f"{name}.safetensors", "scale": scale}
        for name, scale in zip(NAMES, SCALES, strict=True)
    ]
    spec = ModelSpec(source=str(folder), references=references, **settings)
    encoder = adapters / "image_encoder"
    files = tuple(ReferenceFiles(adapters / f"{name}.safetensors", encoder) for name in NAMES)
    return spec, AdapterFiles(references=files)


@pytest.fixture(scope="module")
def adapted(
    saved: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Adapted]:
    """Family -> its tiny model with two adapters."""

    @functools.cache
    def load(family: str) -> Adapted:
        adapters = tmp_path_factory.mktemp("adapters")
        pipeline = diffusers.DiffusionPipeline.from_pretrained(saved(family), local_files_only=True)
        for seed, (name, kind) in enumerate(zip(NAMES, KINDS[family], strict=True)):
            tiny_references.save(pipeline, adapters, kind, seed, f"{name}.safetensors")
        spec, files = spec_of(saved(family), adapters)
        model = loading.load(saved(family), spec, "cpu", adapters=files)
        return Adapted(model, saved(family), adapters, family)

    return load


def params(conditioning: Conditioning = BOTH, **settings: Any) -> SamplingParams:
    values = {"num_inference_steps": 3, "guidance_scale": 4.0} | settings
    return SamplingParams(*SIZE, conditioning=conditioning, **values)


def references(number: int) -> tuple[tuple[Pixels, ...], ...]:
    """Three pictures, different for each number and of different sizes."""
    first, second, third = (picture(3 * number + i, 30 + 9 * i, 50 - 7 * i) for i in range(3))
    return (first, second), (third,)


def request(number: int, mode: str = "text") -> ImageRequest:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[:, : SIZE[0] // 2] = 255
    images = ConditionImages(
        init_image=picture(100 + number, *SIZE) if mode != "text" else None,
        mask_image=mask if mode == "inpaint" else None,
        reference_images=references(number),
    )
    return ImageRequest("a red fox", "", number, images=images)


def conditioning_of(mode: str) -> Conditioning:
    strength = None if mode == "text" else 0.8
    return Conditioning(f"{mode}+reference", strength, None, (), (), NAMES, COUNTS, SCALES)


def by_diffusers(adapted: Adapted, mode: str, number: int, **settings: Any) -> Pixels:
    """The image of `request(number, mode)` by a plain pipeline, called alone."""
    asked = request(number, mode)
    groups = [[Image.fromarray(each) for each in group] for group in references(number)]
    arguments: dict[str, Any] = {"width": SIZE[0], "height": SIZE[1]}
    if asked.images.init_image is not None:
        arguments |= {"image": Image.fromarray(asked.images.init_image), "strength": 0.8}
    if asked.images.mask_image is not None:
        arguments["mask_image"] = Image.fromarray(asked.images.mask_image)
    if adapted.family == "flux":  # diffusers' default fails with several adapters
        arguments["negative_ip_adapter_image"] = [Image.new("RGB", SIZE)] * len(NAMES)
    pipeline = adapted.plain(mode)
    if "width" not in inspect.signature(pipeline.__call__).parameters:  # it takes the picture's
        del arguments["width"], arguments["height"]
    output = pipeline(
        prompt=asked.prompt,
        generator=torch.Generator("cpu").manual_seed(asked.seed),
        ip_adapter_image=groups,
        output_type="np",
        **(arguments | {"num_inference_steps": 3, "guidance_scale": 4.0} | settings),
    )
    return (output.images[0] * 255).round().astype(np.uint8)


MODES = [("sd", mode) for mode in ("text", "image", "inpaint")]
MODES += [("sdxl", "text"), ("sdxl", "image"), ("flux", "text"), ("flux", "inpaint")]


@pytest.mark.parametrize(("family", "mode"), MODES)
def test_an_image_has_the_bits_that_plain_diffusers_gives_it_alone(
    adapted: Callable[[str], Adapted], family: str, mode: str
) -> None:
    own = Sampler(adapted(family).model, 1).sample(
        [request(7, mode)], params(conditioning_of(mode))
    )
    assert np.array_equal(own.pixels[0], by_diffusers(adapted(family), mode, 7))


@pytest.mark.parametrize(("family", "mode"), MODES)
def test_companions_with_other_references_decide_no_pixel(
    adapted: Callable[[str], Adapted], family: str, mode: str
) -> None:
    sampler, settings = Sampler(adapted(family).model, 3), params(conditioning_of(mode))
    first, second, third = (request(number, mode) for number in (1, 2, 3))
    full = sampler.sample([first, second, third], settings).pixels
    turned = sampler.sample([third, first], settings).pixels
    alone = sampler.sample([second], settings).pixels
    assert np.array_equal(full[0], turned[1])
    assert np.array_equal(full[2], turned[0])
    assert np.array_equal(full[1], alone[0])


def test_diffusers_alone_would_mix_the_references_of_a_batch(
    adapted: Callable[[str], Adapted],
) -> None:
    """The fault that `ReferenceEncoder` works around; if it is gone, so may be the workaround."""
    pipeline = adapted("sd").plain(names=["one"])
    pictures = [Image.fromarray(picture(number)) for number in (1, 2)]
    both = [
        pipeline.prepare_ip_adapter_image_embeds([each], None, "cpu", 1, True)[0]
        for each in pictures
    ]
    halves = [each.chunk(2) for each in both]
    embeds = torch.cat([halves[0][0], halves[1][0], halves[0][1], halves[1][1]])
    images = pipeline(
        prompt=["a", "a"],
        generator=[torch.Generator("cpu").manual_seed(1) for _ in pictures],
        ip_adapter_image_embeds=[embeds],
        num_inference_steps=2,
        width=32,
        height=32,
        output_type="np",
    ).images
    assert np.array_equal(images[0], images[1])


@pytest.mark.parametrize("family", ["sd", "flux"])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_may_use_some_of_the_adapters(
    adapted: Callable[[str], Adapted], family: str, name: str
) -> None:
    place = NAMES.index(name)
    conditioning = Conditioning(
        "text+reference", adapters=(name,), num_references=(1,), reference_scales=(SCALES[place],)
    )
    images = ConditionImages(reference_images=((picture(5),),))
    asked = [ImageRequest("a", "", 3, images=images)]
    sampler = Sampler(adapted(family).model, 1)
    sampler.sample([request(1)], params())  # with the other adapter too
    own = sampler.sample(asked, params(conditioning)).pixels[0]
    expected = (
        adapted(family)
        .plain(names=[name])(
            prompt="a",
            generator=torch.Generator("cpu").manual_seed(3),
            width=SIZE[0],
            height=SIZE[1],
            num_inference_steps=3,
            guidance_scale=4.0,
            ip_adapter_image=[Image.fromarray(picture(5))],
            output_type="np",
        )
        .images[0]
    )
    assert np.array_equal(own, (expected * 255).round().astype(np.uint8))


@pytest.mark.parametrize("family", slow_except(KINDS, *list(KINDS)[:2]))
def test_an_image_without_references_has_the_bits_of_a_model_without_adapters(
    adapted: Callable[[str], Adapted], loaded: Callable[[str], LoadedModel], family: str
) -> None:
    asked = [ImageRequest("a red fox", "", 4)]
    without = Sampler(loaded(family), 2).sample(asked, params(TEXT_ALONE)).pixels
    sampler = Sampler(adapted(family).model, 2)
    assert np.array_equal(sampler.sample(asked, params(TEXT_ALONE)).pixels, without)
    with_references = sampler.sample([request(4)], params()).pixels
    assert np.array_equal(sampler.sample(asked, params(TEXT_ALONE)).pixels, without)
    assert np.array_equal(sampler.sample([request(4)], params()).pixels, with_references)
    assert not np.array_equal(without, with_references)


def test_guidance_of_one_uses_no_negative_references(adapted: Callable[[str], Adapted]) -> None:
    settings = params(guidance_scale=1.0)
    own = Sampler(adapted("sd").model, 1).sample([request(7)], settings).pixels[0]
    assert np.array_equal(own, by_diffusers(adapted("sd"), "text", 7, guidance_scale=1.0))


def test_references_act_in_inpainting_with_eight_channels_and_in_what_follows(
    adapted: Callable[[str], Adapted],
) -> None:
    """Such inpainting changes the denoiser's configuration for a call."""
    sampler = Sampler(adapted("sd8").model, 1)
    inpainting, text = request(1, "inpaint"), request(1)
    other = replace(inpainting.images, reference_images=references(2))
    settings = params(conditioning_of("inpaint"))
    before = sampler.sample([text], params()).pixels
    first = sampler.sample([inpainting], settings).pixels
    second = sampler.sample([replace(inpainting, images=other)], settings).pixels
    assert not np.array_equal(first, second)
    assert np.array_equal(sampler.sample([text], params()).pixels, before)


def test_a_scale_acts(adapted: Callable[[str], Adapted]) -> None:
    sampler = Sampler(adapted("sd").model, 1)
    images = [
        sampler.sample(
            [request(1)],
            params(Conditioning("text+reference", None, None, (), (), NAMES, COUNTS, scales)),
        ).pixels
        for scales in ((0.7, 0.4), (0.7, 0.5), (0.0, 0.0))
    ]
    assert not np.array_equal(images[0], images[1])
    without = sampler.sample([ImageRequest("a red fox", "", 1)], params(TEXT_ALONE)).pixels
    assert np.array_equal(images[2], without)


def test_each_distinct_picture_is_encoded_once(
    adapted: Callable[[str], Adapted], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = adapted("sd").model.pipeline
    calls: list[int] = []
    encode = pipeline.encode_image

    def counted(pictures: list[Any], *args: Any) -> Any:
        calls.append(len(pictures))
        return encode(pictures, *args)

    monkeypatch.setattr(pipeline, "encode_image", counted)
    sampler = Sampler(adapted("sd").model, 2)
    for seed in (1, 2):
        rows = [ImageRequest("a", "", seed + i, images=request(1).images) for i in range(2)]
        sampler.sample(rows, params())
    assert calls == [2, 1]


def test_an_image_with_other_references_than_its_settings_say_is_refused(
    adapted: Callable[[str], Adapted],
) -> None:
    with pytest.raises(SamplingError, match=r"reference images, but \(2, 1\) are expected"):
        Sampler(adapted("sd").model, 1).sample([ImageRequest("a", "", 1)], params())


@pytest.mark.parametrize("has_others", [True, False])
def test_an_adapter_that_the_model_does_not_have_is_refused(
    adapted: Callable[[str], Adapted], loaded: Callable[[str], LoadedModel], has_others: bool
) -> None:
    model = adapted("sd").model if has_others else loaded("sd")
    known = "one, two" if has_others else "none"
    conditioning = Conditioning(
        "text+reference", adapters=("three",), num_references=(1,), reference_scales=(1.0,)
    )
    images = ConditionImages(reference_images=((picture(1),),))
    with pytest.raises(SamplingError, match=f"'three': the model's IP-Adapters are: {known}"):
        Sampler(model, 1).sample([ImageRequest("a", "", 1, images=images)], params(conditioning))


def test_a_pipeline_that_no_longer_prepares_its_references_is_named(
    adapted: Callable[[str], Adapted], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted("sd").model
    monkeypatch.setattr(type(model.pipeline), "__call__", lambda self, **values: None)
    encoder = ReferenceEncoder(model)
    with (
        pytest.raises(IncompatibleLibrary, match="no longer uses prepare_ip_adapter_image_embeds"),
        encoder.around_call(model.pipeline, [request(1).images], BOTH),
    ):
        pass


@pytest.mark.parametrize("speed", [{"channels_last": True}, {"deep_features": {"interval": 2}}])
def test_companions_decide_no_pixel_of_an_accelerated_model(
    adapted: Callable[[str], Adapted], speed: dict[str, Any]
) -> None:
    source = adapted("sd")
    spec, files = spec_of(source.folder, source.adapters, speed=SpeedSpec(**speed))
    model = loading.load(source.folder, spec, "cpu", adapters=files)
    sampler = Sampler(model, 2)
    pair = sampler.sample([request(1), request(2)], params()).pixels
    turned = sampler.sample([request(2), request(1)], params()).pixels
    assert np.array_equal(pair, turned[::-1])
    text = sampler.sample([ImageRequest("a", "", 1)], params(TEXT_ALONE)).pixels
    plain_spec = ModelSpec(source=str(source.folder), speed=SpeedSpec(**speed))
    without = Sampler(loading.load(source.folder, plain_spec, "cpu"), 2)
    assert np.array_equal(
        text, without.sample([ImageRequest("a", "", 1)], params(TEXT_ALONE)).pixels
    )


def test_the_first_step_with_deep_features_is_that_of_plain_diffusers(
    adapted: Callable[[str], Adapted],
) -> None:
    source = adapted("sd")
    speed = SpeedSpec(deep_features={"interval": 2})
    spec, files = spec_of(source.folder, source.adapters, speed=speed)
    sampler = Sampler(loading.load(source.folder, spec, "cpu", adapters=files), 1)
    one_step = params(num_inference_steps=1)
    shallow = sampler.sample([request(7)], one_step).pixels[0]
    assert np.array_equal(shallow, by_diffusers(source, "text", 7, num_inference_steps=1))
    assert not np.array_equal(
        sampler.sample([request(7)], params()).pixels[0], by_diffusers(source, "text", 7)
    )


def test_a_lora_and_adapters_act_together_as_in_plain_diffusers(
    adapted: Callable[[str], Adapted], tmp_path: Path
) -> None:
    source = adapted("sd")
    lora = tiny_loras.save(tiny_models.sd(), tmp_path / "ink")
    spec, files = spec_of(
        source.folder, source.adapters, row_loras=[{"source": str(lora), "name": "ink"}]
    )
    file = next(lora.glob("*.safetensors"))
    model = loading.load(source.folder, spec, "cpu", [file], files)
    sampler = Sampler(model, 1)
    plain = source.plain()
    plain.load_lora_weights(lora)
    groups = [[Image.fromarray(each) for each in group] for group in references(7)]
    expected = plain(
        prompt="a red fox",
        generator=torch.Generator("cpu").manual_seed(7),
        width=SIZE[0],
        height=SIZE[1],
        num_inference_steps=3,
        guidance_scale=4.0,
        ip_adapter_image=groups,
        output_type="np",
    ).images[0]
    own = sampler.sample([request(7)], params(lora="ink")).pixels[0]
    assert np.array_equal(own, (expected * 255).round().astype(np.uint8))
    without = sampler.sample([request(7)], params()).pixels[0]
    assert np.array_equal(without, by_diffusers(source, "text", 7))


CONTROLLED = {
    ("sd", "text"): "StableDiffusionControlNetPipeline",
    ("sd", "image"): "StableDiffusionControlNetImg2ImgPipeline",
    ("sd", "inpaint"): "StableDiffusionControlNetInpaintPipeline",
    ("sdxl", "text"): "StableDiffusionXLControlNetPipeline",
    ("sdxl", "image"): "StableDiffusionXLControlNetImg2ImgPipeline",
    ("sdxl", "inpaint"): "StableDiffusionXLControlNetInpaintPipeline",
    ("flux", "text"): "FluxControlNetPipeline",
}
"""Family, mode -> the class that samples it with ControlNets."""


def tiny_controlnet(pipeline: Any) -> Any:
    """A ControlNet of the shape of a pipeline's denoiser, none of whose weights is zero."""
    torch.manual_seed(0)
    if hasattr(pipeline, "unet"):
        control = diffusers.ControlNetModel.from_unet(
            pipeline.unet, conditioning_embedding_out_channels=(8, 8)
        )
    else:
        config = dict(pipeline.transformer.config) | {"num_layers": 1, "num_single_layers": 1}
        control = diffusers.FluxControlNetModel.from_config(config)
    for weight in control.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape) * 0.5 / weight[0].numel() ** 0.5
    return control.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mode"), CONTROLLED)
@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed.*:FutureWarning")
def test_references_act_with_controlnets_as_in_plain_diffusers(
    adapted: Callable[[str], Adapted], family: str, mode: str
) -> None:
    source = adapted(family)
    base, name = source.model.pipeline, CONTROLLED[family, mode]
    control = tiny_controlnet(tiny_models.MAKERS[family]())
    plain = controlled(name, source.plain(), control)
    own = controlled(name, base, control)
    asked = [request(number, mode) for number in (1, 2)]
    pictures = [each.images for each in asked]
    conditioning = conditioning_of(mode)
    groups = [[Image.fromarray(each) for each in group] for group in references(1)]
    black = {"negative_ip_adapter_image": [Image.new("RGB", SIZE)] * 2} if family == "flux" else {}
    values = controlled_arguments(asked[0], mode, plain)
    expected = plain(ip_adapter_image=groups, **values, **black).images
    values = controlled_arguments(asked[0], mode, own)  # with generators as they begin
    with ReferenceEncoder(source.model).around_call(own, pictures[:1], conditioning) as found:
        accepted = inspect.signature(own.__call__).parameters
        alone = own(**values, **{k: v for k, v in found.items() if k in accepted}).images
    assert np.array_equal(alone, expected)
    turned = []
    for order in ((0, 1), (1, 0)):
        batch = [pictures[place] for place in order]
        values = controlled_arguments([asked[place] for place in order], mode, own)
        with ReferenceEncoder(source.model).around_call(own, batch, conditioning) as found:
            turned.append(own(**values, **{k: v for k, v in found.items() if k in accepted}).images)
    assert np.array_equal(turned[0], turned[1][::-1])
    assert not np.array_equal(turned[0][0], turned[0][1])


def controlled(name: str, base: Any, control: Any) -> Any:
    kind = getattr(diffusers, name)
    parts = {**base.config, **base.components, "controlnet": control}
    accepted = inspect.signature(kind.__init__).parameters
    pipeline = kind(**{key: value for key, value in parts.items() if key in accepted})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def controlled_arguments(
    asked: ImageRequest | list[ImageRequest], mode: str, pipeline: Any
) -> dict[str, Any]:
    batch = asked if isinstance(asked, list) else [asked]
    control = [Image.fromarray(picture(200 + each.seed, *SIZE)) for each in batch]
    values: dict[str, Any] = {
        "prompt": [each.prompt for each in batch],
        "generator": [torch.Generator("cpu").manual_seed(each.seed) for each in batch],
        "num_inference_steps": 3,
        "width": SIZE[0],
        "height": SIZE[1],
        "output_type": "np",
        "control_image": control,
    }
    if mode != "text":
        values["image"] = [Image.fromarray(each.images.init_image) for each in batch]
        values["strength"] = 0.8
    if mode == "inpaint":
        values["mask_image"] = [Image.fromarray(each.images.mask_image) for each in batch]
    if "control_image" not in inspect.signature(pipeline.__call__).parameters:
        values["image"] = values.pop("control_image")
    return values
