"""LoRAs that rows name: the bits of each image are those of a model that has its LoRAs alone."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from support import pictures, tiny_loras
from support.slow_cases import slow_except

from nightpress.diffusion_core.errors import ModelError, ModelNotFound, SamplingError, SettingsError
from nightpress.diffusion_core.models import loading, lora_switching
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import LORA_FILE, LoraInfo
from nightpress.diffusion_core.models.lora_switching import Adapter, RowLoras
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling import prompt_embeddings
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=2, guidance_scale=4.0)
REQUESTS = [ImageRequest("a red fox, asleep", "", 11), ImageRequest("two ships", "", 5)]

Saved = Callable[[str], Path]
Plain = Callable[[str], Any]
Made = Callable[..., Path]


@pytest.fixture
def lora(plain: Plain, tmp_path: Path) -> Made:
    """Family -> the folder of a LoRA with random weights."""

    def make(family: str, name: str = "ink", **settings: Any) -> Path:
        return tiny_loras.save(plain(family), tmp_path / name, **settings)

    return make


def spec_of(folder: Path, loras: Sequence[Any] = (), row_loras: Sequence[Any] = ()) -> ModelSpec:
    named = [
        [str(each) if isinstance(each, Path) else each for each in some]
        for some in (loras, row_loras)
    ]
    return ModelSpec(source=str(folder), loras=named[0], row_loras=named[1])


def files(spec: ModelSpec) -> list[Path]:
    return [Path(each.source) / LORA_FILE for each in spec.all_loras]


def load(folder: Path, loras: Sequence[Any] = (), row_loras: Sequence[Any] = ()) -> LoadedModel:
    spec = spec_of(folder, loras, row_loras)
    return loading.load(folder, spec, "cpu", files(spec))


def describe(folder: Path, loras: Sequence[Any] = (), row_loras: Sequence[Any] = ()) -> ModelInfo:
    spec = spec_of(folder, loras, row_loras)
    return loading.describe(folder, spec, files(spec))


def at(folder: Path, scale: float) -> dict[str, Any]:
    return {"source": str(folder), "scale": scale}


def sample(sampler: Sampler, lora: str | None = None, scale: float | None = None) -> np.ndarray:
    return sampler.sample(REQUESTS, replace(PARAMS, lora=lora, lora_scale=scale)).pixels


def alone(folder: Path, *loras: Any) -> np.ndarray:
    """The images of a model with these LoRAs on every image."""
    return sample(Sampler(load(folder, loras), 2))


@pytest.fixture
def switches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Class of a network -> how often its adapters were switched."""
    counts: Counter[str] = Counter()
    switch = lora_switching.activate

    def counted(network: Any, adapters: Sequence[Adapter]) -> None:
        counts[type(network).__name__] += 1
        switch(network, adapters)

    monkeypatch.setattr(lora_switching, "activate", counted)
    return counts


@pytest.mark.parametrize("family", slow_except(tiny_loras.FAMILIES, "sd", "flux"))
def test_each_image_has_the_bits_of_a_model_with_its_own_lora_alone(
    family: str, saved: Saved, lora: Made
) -> None:
    folder = saved(family)
    with_text = family in ("sd", "sdxl")
    ink, clay = lora(family), lora(family, "clay", seed=1, with_text=with_text)
    expected = {
        (None, None): alone(folder),
        ("ink", 0.5): alone(folder, at(ink, 0.5)),
        ("ink", None): alone(folder, at(ink, 0.8)),
        ("clay", -1.0): alone(folder, at(clay, -1.0)),
    }
    assert len({pixels.tobytes() for pixels in expected.values()}) == len(expected)
    sampler = Sampler(load(folder, row_loras=[at(ink, 0.8), clay]), 2)
    there = list(expected)
    for way in (*there, *reversed(there), there[2], there[0], there[3], there[1]):
        np.testing.assert_array_equal(sample(sampler, *way), expected[way], err_msg=str(way))


def test_loras_of_every_image_work_together_with_row_loras(saved: Saved, lora: Made) -> None:
    folder, ink = saved("sd"), lora("sd", with_text=True)
    clay = lora("sd", "clay", seed=1, with_text=True)
    sampler = Sampler(load(folder, loras=[at(ink, 0.5)], row_loras=[clay]), 2)
    for _ in range(2):
        np.testing.assert_array_equal(sample(sampler), alone(folder, at(ink, 0.5)))
        both = alone(folder, at(ink, 0.5), at(clay, 0.3))
        np.testing.assert_array_equal(sample(sampler, "clay", 0.3), both)


def test_two_samplers_of_one_model_do_not_mix_up_their_loras(saved: Saved, lora: Made) -> None:
    loaded = load(saved("sd"), row_loras=[lora("sd", with_text=True)])
    one, other = Sampler(loaded, 2), Sampler(loaded, 2)
    plain, inked = sample(one), sample(other, "ink")
    assert (plain != inked).any()
    np.testing.assert_array_equal(sample(one), plain)
    np.testing.assert_array_equal(sample(other, "ink"), inked)


def test_a_pipeline_that_encodes_prompts_itself_uses_the_row_lora(
    saved: Saved, lora: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_embeddings, "LAYOUTS", ())
    folder, ink = saved("sd"), lora("sd", with_text=True)
    sampler = Sampler(load(folder, row_loras=[ink]), 2)
    for _ in range(2):
        np.testing.assert_array_equal(sample(sampler), alone(folder))
        np.testing.assert_array_equal(sample(sampler, "ink"), alone(folder, ink))


def test_prompts_of_another_lora_may_be_encoded_while_an_image_is_sampled(
    saved: Saved, lora: Made
) -> None:
    folder = saved("sd")
    ink, clay = (lora("sd", name, seed=n, with_text=True) for n, name in enumerate(("ink", "clay")))
    expected = {name: alone(folder, at(each, 1.0)) for name, each in (("ink", ink), ("clay", clay))}
    sampler = Sampler(load(folder, row_loras=[ink, clay]), 2)
    with ThreadPoolExecutor(1) as thread:
        for now, following in (("ink", "clay"), ("clay", "ink"), ("ink", "clay")):
            ahead = thread.submit(sampler.prepare, REQUESTS, replace(PARAMS, lora=following))
            np.testing.assert_array_equal(sample(sampler, now), expected[now])
            ahead.result(60)


def test_networks_are_switched_once_for_each_change(
    saved: Saved, lora: Made, switches: Counter[str]
) -> None:
    clay = lora("sd", "clay", seed=1, with_text=True)
    sampler = Sampler(load(saved("sd"), row_loras=[lora("sd"), clay]), 2)
    switches.clear()
    for lora_of_row, scale in [(None, None), ("ink", None), ("ink", 0.5), ("clay", 0.5)]:
        for _ in range(3):
            sample(sampler, lora_of_row, scale)
    # The encoder has clay alone in it; of its own scale, and of another, ink is no change.
    assert switches == {"UNet2DConditionModel": 3, "CLIPTextModel": 1}
    sample(sampler, "clay", 0.5)
    assert switches.total() == 4


def test_after_a_failed_switch_the_network_is_switched_again(
    saved: Saved, lora: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = Sampler(load(saved("sd"), row_loras=[lora("sd")]), 2)
    plain = sample(sampler)

    def half(network: Any, adapters: Sequence[Adapter]) -> None:
        switch(network, adapters)
        raise RuntimeError("the device is gone")

    switch = lora_switching.activate
    with monkeypatch.context() as broken:
        broken.setattr(lora_switching, "activate", half)
        with pytest.raises(SamplingError, match="the device is gone"):
            sample(sampler, "ink")
    np.testing.assert_array_equal(sample(sampler), plain)


def test_prompts_are_encoded_again_only_for_a_lora_in_an_encoder(
    saved: Saved, lora: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    clay = lora("sd", "clay", seed=1, with_text=True)
    loaded = load(saved("sd"), row_loras=[lora("sd"), clay])
    sampler = Sampler(loaded, 2)
    counts: Counter[str] = Counter()
    forward = type(loaded.pipeline.text_encoder).forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        counts["calls"] += 1
        return forward(*args, **kwargs)

    monkeypatch.setattr(type(loaded.pipeline.text_encoder), "forward", counted)
    seen = []
    for lora_of_row, scale in [
        (None, None),
        ("ink", None),
        ("ink", 0.3),
        ("clay", None),
        ("clay", 1.0),
        ("clay", 0.5),
        (None, None),
    ]:
        sample(sampler, lora_of_row, scale)
        seen.append(counts["calls"])
    once = seen[0]
    assert seen == [once, once, once, 2 * once, 2 * once, 3 * once, 3 * once]


def test_a_lora_that_the_model_does_not_have_is_refused_with_those_it_has(
    saved: Saved, lora: Made
) -> None:
    with_ink = Sampler(load(saved("sd"), row_loras=[lora("sd")]), 2)
    with pytest.raises(SettingsError, match=r"lora 'oil': the model's row LoRAs are: ink$"):
        sample(with_ink, "oil")
    with pytest.raises(SettingsError, match=r"row LoRAs are: none$"):
        sample(Sampler(load(saved("sd")), 2), "ink")
    RowLoras().require(None)


def test_a_model_lists_its_row_loras_and_its_fingerprint_leaves_them_out(
    saved: Saved, lora: Made
) -> None:
    ink, clay = lora("sd"), lora("sd", "clay", seed=1)
    plain = describe(saved("sd"), [at(ink, 0.5)])
    info = describe(saved("sd"), [at(ink, 0.5)], [at(clay, 0.7)])
    assert info.fingerprint == plain.fingerprint == plain.identity
    assert [(each.name, each.scale) for each in info.row_loras] == [("clay", 0.7)]
    assert info.loras == plain.loras
    assert info.loras_of(None, None) == info.loras
    assert info.loras_of("clay", None) == (*info.loras, *info.row_loras)
    assert info.loras_of("clay", 0.1)[-1] == replace(info.row_loras[0], scale=0.1)


def test_machines_must_agree_on_the_files_of_row_loras(saved: Saved, lora: Made) -> None:
    info = describe(saved("sd"), row_loras=[lora("sd")])
    other = replace(info, row_loras=(replace(info.row_loras[0], sha256="0" * 64),))
    louder = replace(info, row_loras=(replace(info.row_loras[0], scale=2.0),))
    assert len({info.identity, other.identity, info.fingerprint}) == 3
    assert louder.identity == info.identity


def test_a_saved_description_keeps_row_loras_and_an_older_one_has_none() -> None:
    info = ModelInfo("m", "f" * 64, "P", 8, 8, 8, 1, 1.0, ("default",), True)
    with_ink = replace(info, row_loras=(LoraInfo("ink", "a" * 64, 0.5),))
    assert ModelInfo.from_dict(json.loads(json.dumps(with_ink.as_dict()))) == with_ink
    older = info.as_dict()
    del older["row_loras"]
    assert ModelInfo.from_dict(older) == info


def test_a_file_that_is_missing_or_does_not_fit_is_refused(
    saved: Saved, lora: Made, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        describe(saved("sd"), row_loras=[str(tmp_path / "none")])
    with pytest.raises(ModelError, match="does not fit StableDiffusionPipeline"):
        load(saved("sd"), row_loras=[lora("sdxl")])


def test_a_lora_that_overwrites_weights_of_the_model_cannot_be_a_row_lora(
    saved: Saved, lora: Made, plain: Plain
) -> None:
    file = lora("flux") / LORA_FILE
    norm = plain("flux").transformer.transformer_blocks[0].attn.norm_q.weight
    own = {"transformer.transformer_blocks.0.attn.norm_q.weight": torch.full_like(norm, 2.0)}
    save_file(load_file(file) | own, file)
    assert load(saved("flux"), loras=[file.parent])
    with pytest.raises(ModelError, match="row LoRAs ink: one of them overwrites weights") as caught:
        load(saved("flux"), row_loras=[file.parent])
    assert "\n" not in str(caught.value)


def test_row_loras_need_distinct_names() -> None:
    same = ["studio/ink@v1", "/loras/ink.safetensors"]
    with pytest.raises(ValidationError, match="row_loras: 2 are called 'ink'"):
        ModelSpec.model_validate({"row_loras": same})
    with pytest.raises(ValidationError, match="no row can name ''"):
        ModelSpec.model_validate({"row_loras": ["."]})
    named = [same[0], {"source": same[1], "name": "ink 2"}]
    spec = ModelSpec.model_validate({"loras": same[:1], "row_loras": named})
    assert [each.label for each in spec.all_loras] == ["ink", "ink", "ink 2"]


@pytest.mark.parametrize(
    "speed",
    [
        {"fuse_qkv_projections": True},
        {"quantization": "int8_weight_only", "compile": "full"},
    ],
)
def test_a_choice_that_would_ignore_row_loras_is_refused_with_row_loras(
    speed: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError, match=r"speed\.\w+ would ignore the loras"):
        ModelSpec.model_validate({"row_loras": ["a.safetensors"], "speed": speed})


@pytest.mark.parametrize("mode", ["image", "inpaint"])
@pytest.mark.parametrize("family", ["sd", pytest.param("flux", marks=pytest.mark.slow)])
def test_a_rows_lora_acts_on_images_that_begin_with_a_picture(
    family: str, mode: str, saved: Saved, lora: Made
) -> None:
    ink = lora(family)
    requests = pictures.requests(mode)[:2]
    settings = pictures.params(mode, 0.7)
    switching = Sampler(load(saved(family), row_loras=[ink]), 2)
    without = switching.sample(requests, settings).pixels
    name = describe(saved(family), row_loras=[ink]).row_loras[0].name
    made = switching.sample(requests, replace(settings, lora=name)).pixels
    expected = Sampler(load(saved(family), [ink]), 2).sample(requests, settings).pixels
    np.testing.assert_array_equal(made, expected)
    assert (made != without).any()
    np.testing.assert_array_equal(switching.sample(requests, settings).pixels, without)
