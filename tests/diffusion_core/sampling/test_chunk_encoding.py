"""Weighted and long prompts: against A1111's definition, plain diffusers and literal text."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_models
from support.slow_cases import slow_except

from nightpress.diffusion_core.errors import IncompatibleLibrary, UnsupportedModel
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.chunk_encoding import name_last_norm
from nightpress.diffusion_core.sampling.prompt_embeddings import Conditioner
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams
from nightpress.diffusion_core.sampling.walks import BetweenPrompts

Saved = Callable[[str], Path]
Loaded = Callable[[str], LoadedModel]
Plain = Callable[..., Any]

CHUNKS = {"long": "chunks", "weights": "a1111"}
PARAMS = SamplingParams(width=64, height=32, num_inference_steps=2, guidance_scale=4.0)
LONG = "a red fox, asleep under two trees, " * 4
FAMILIES = ("sd", "sdxl")


@pytest.fixture(scope="session")
def load(saved: Saved) -> Callable[..., LoadedModel]:
    """Family, keys of `model.prompts` -> its tiny model."""

    @functools.cache
    def make(family: str, **prompts: Any) -> LoadedModel:
        folder = saved(family)
        return loading.load(folder, ModelSpec(source=str(folder), prompts=prompts), "cpu")

    return make


@pytest.fixture(scope="session")
def off_centre(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Family -> a tiny model; see `tiny_models.off_centre`."""

    @functools.cache
    def save(family: str) -> Path:
        return tiny_models.save(family, tmp_path_factory.mktemp(family), centred=False)

    return save


def tensors(arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in arguments.items() if value is not None}


Pieces = Sequence[tuple[str, float]]


def reference(pipeline: Any, chunks: Sequence[Pieces]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The sequence and pooled embeddings of chunks of weighted pieces, token by token.

    Each text encoder reads each chunk; its vectors are multiplied by the weights of their tokens,
    and then all by one number, so that their mean is what it was.
    """
    sequence, pooled = [], None
    for pieces in chunks:
        columns = []
        for suffix in ("", "_2"):
            encoder = getattr(pipeline, f"text_encoder{suffix}", None)
            if encoder is None:
                continue
            tokenizer = getattr(pipeline, f"tokenizer{suffix}")
            ids, weights = [tokenizer.bos_token_id], [1.0]
            for text, weight in pieces:
                own = tokenizer(text, add_special_tokens=False).input_ids
                ids += own
                weights += [weight] * len(own)
            ids.append(tokenizer.eos_token_id)
            ids += [tokenizer.pad_token_id] * (77 - len(ids))
            weights += [1.0] * (77 - len(weights))
            output = encoder(torch.tensor([ids]), output_hidden_states=True)
            is_xl = hasattr(pipeline, "text_encoder_2")
            vectors = (output.hidden_states[-2] if is_xl else output.last_hidden_state)[0].clone()
            before = float(vectors.double().mean())
            for token in range(77):
                vectors[token] *= weights[token]
            vectors *= before / float(vectors.double().mean())
            columns.append(vectors)
            if suffix == "_2" and pooled is None:
                pooled = output.text_embeds
        sequence.append(torch.cat(columns, -1))
    return torch.cat(sequence)[None], pooled


CASES: list[tuple[str, list[Pieces]]] = [
    ("a (red:1.3) fox", [[("a ", 1.0), ("red", 1.3), (" fox", 1.0)]]),
    ("((red)) [fox], \\(a\\)", [[("red", 1.21), (" ", 1.0), ("fox", 1 / 1.1), (", (a)", 1.0)]]),
    ("(a:-0.5) b", [[("a", -0.5), (" b", 1.0)]]),
    ("a (b:0) BREAK (c:1.5)", [[("a ", 1.0), ("b", 0.0)], [("c", 1.5)]]),
    ("x " * 80, [[("x " * 75, 1.0)], [("x " * 5, 1.0)]]),
]


@pytest.mark.parametrize("family", slow_except(FAMILIES, "sdxl"))
@pytest.mark.parametrize(("text", "pieces"), CASES)
@torch.inference_mode()
def test_embeddings_are_those_of_the_published_definition(
    family: str, text: str, pieces: list[Pieces], off_centre: Saved
) -> None:
    folder = off_centre(family)
    model = loading.load(folder, ModelSpec(source=str(folder), prompts=CHUNKS), "cpu")
    conditioner = Conditioner(model)
    sequence, pooled = reference(model.pipeline, pieces)
    found = tensors(conditioner.arguments([text], [text], True))
    for prefix in ("", "negative_"):
        torch.testing.assert_close(found[f"{prefix}prompt_embeds"], sequence, rtol=1e-5, atol=1e-6)
        if pooled is not None:
            assert torch.equal(found[f"{prefix}pooled_prompt_embeds"], pooled)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_long_prompt_is_its_chunks_one_after_the_other(
    family: str, load: Callable[..., LoadedModel], plain: Plain
) -> None:
    pipeline = plain(family)
    halves = "a red fox, asleep, " * 4, "under two trees of the very same sort"
    sequence, pooled = reference(pipeline, [[(half, 1.0)] for half in halves])
    conditioner = Conditioner(load(family, long="chunks"))
    found = tensors(conditioner.arguments(["".join(halves)], [""], True))
    assert found["prompt_embeds"].shape[1] == 2 * 77
    torch.testing.assert_close(found["prompt_embeds"], sequence, rtol=1e-5, atol=1e-6)
    if pooled is not None:
        assert torch.equal(found["pooled_prompt_embeds"], pooled)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompts", [CHUNKS, {"weights": "a1111"}, {"long": "chunks"}])
def test_without_weights_the_embedding_is_that_of_literal_text_bit_for_bit(
    family: str, prompts: dict[str, Any], load: Callable[..., LoadedModel], loaded: Loaded
) -> None:
    texts, negatives = ["a red fox, asleep", "b", ""], ["blur, no hats", "", "x"]
    literal = tensors(Conditioner(loaded(family)).arguments(texts, negatives, True))
    read = tensors(Conditioner(load(family, **prompts)).arguments(texts, negatives, True))
    assert literal.keys() == read.keys()
    assert all(torch.equal(literal[name], read[name]) for name in literal)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shorter_prompt_is_filled_up_with_empty_chunks(
    family: str, load: Callable[..., LoadedModel], plain: Plain
) -> None:
    conditioner = Conditioner(load(family, **CHUNKS))
    alone = tensors(conditioner.arguments(["fox"], ["hat"], True))
    found = tensors(conditioner.arguments(["fox"], [f"hat BREAK {'b' * 80}"], True))
    empty = tensors(conditioner.arguments([""], [""], False))["prompt_embeds"]
    expected = torch.cat([alone["prompt_embeds"], empty, empty], 1)
    assert torch.equal(found["prompt_embeds"], expected)
    other = tensors(conditioner.arguments([LONG], ["hat"], True))
    count = other["prompt_embeds"].shape[1] // 77
    assert count > 1
    filled = torch.cat([alone["negative_prompt_embeds"], *[empty] * (count - 1)], 1)
    assert torch.equal(other["negative_prompt_embeds"], filled)


def test_the_zeros_of_an_empty_negative_prompt_are_zeros_in_every_chunk(
    load: Callable[..., LoadedModel],
) -> None:
    model = load("sdxl", **CHUNKS)
    assert model.pipeline.config.force_zeros_for_empty_prompt
    found = tensors(Conditioner(model).arguments([LONG], [""], True))
    assert found["negative_prompt_embeds"].shape == found["prompt_embeds"].shape
    assert not found["negative_prompt_embeds"].any()


def test_an_unused_negative_prompt_decides_nothing(load: Callable[..., LoadedModel]) -> None:
    conditioner = Conditioner(load("sd", **CHUNKS))
    assert conditioner.num_chunks(["a"], [LONG], guided=False) == 1
    assert conditioner.num_chunks(["a"], [LONG], guided=True) == 2
    (found,) = tensors(conditioner.arguments(["a"], [LONG], False)).values()
    assert found.shape[1] == 77


MIXED = (
    ImageRequest("a (red:1.4) fox", "", 11),
    ImageRequest(LONG, "blur", 12),
    ImageRequest("two ships", f"(hats:1.2), {LONG}", 13),
    ImageRequest("7", "", 14),
    ImageRequest(LONG + LONG, "", 15),
)


@pytest.mark.parametrize("family", slow_except(FAMILIES, "sdxl"))
def test_an_image_does_not_depend_on_companions_with_other_numbers_of_chunks(
    family: str, load: Callable[..., LoadedModel]
) -> None:
    model = load(family, **CHUNKS)
    sampler = Sampler(model, 5)
    counts = [sampler.num_chunks(request, PARAMS) for request in MIXED]
    assert len(set(counts)) == 3
    together = sampler.sample(MIXED, PARAMS)
    backwards = Sampler(model, 5)
    backwards.prepare(MIXED[::-1], PARAMS)
    reverse = backwards.sample(MIXED[::-1], PARAMS)
    for place, request in enumerate(MIXED):
        alone = Sampler(model, 5).sample([request], PARAMS).pixels[0]
        assert np.array_equal(together.pixels[place], alone)
        assert np.array_equal(reverse.pixels[len(MIXED) - 1 - place], alone)


@pytest.mark.parametrize("turned", [False, True], ids=["growing", "shrinking"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_walk_between_prompts_of_other_numbers_of_chunks_fills_up_the_shorter(
    family: str, turned: bool, load: Callable[..., LoadedModel]
) -> None:
    model = load(family, **CHUNKS)
    ends = [ImageRequest("two ships", "", 3), ImageRequest(LONG + LONG, "", 3)]
    start, end = ends[::-1] if turned else ends
    walk = dataclasses.replace(start, to_prompt=end.prompt)
    sampler = Sampler(model, 2)
    counts = [sampler.num_chunks(each, PARAMS) for each in (start, end)]
    assert counts[0] != counts[1]
    clip = sampler.sample([walk], dataclasses.replace(PARAMS, num_frames=5)).pixels[0]
    stills = [Sampler(model, 2).sample([each], PARAMS).pixels[0] for each in (start, end)]
    np.testing.assert_array_equal(clip[0], stills[0])
    np.testing.assert_array_equal(clip[-1], stills[1])
    alone = Sampler(model, 2).sample([walk], dataclasses.replace(PARAMS, num_frames=3)).pixels[0]
    np.testing.assert_array_equal(clip[::2], alone)
    assert all(np.any(one != two) for one, two in itertools.pairwise(clip))


def test_an_embedding_between_prompts_is_that_of_the_shorter_with_empty_chunks(
    load: Callable[..., LoadedModel],
) -> None:
    conditioner = Conditioner(load("sd", **CHUNKS))

    def embedding(prompt: str | BetweenPrompts) -> torch.Tensor:
        (found,) = tensors(conditioner.arguments([prompt], [""], False)).values()
        return found

    short, long, empty = (embedding(text) for text in ("two ships", LONG, ""))
    chunks = long.shape[1] // 77
    assert chunks > 1
    filled = torch.cat([short, *[empty] * (chunks - 1)], dim=1)
    for between, at in ((("two ships", LONG), 0.25), ((LONG, "two ships"), 0.75)):
        found = embedding(BetweenPrompts(*between, at))
        torch.testing.assert_close(found, torch.lerp(filled, long, 0.25), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_short_literal_prompts_have_the_same_bits(
    family: str, load: Callable[..., LoadedModel], loaded: Loaded
) -> None:
    requests = [ImageRequest("a red fox", "", 1), ImageRequest("b", "hats", 2)]
    literal = Sampler(loaded(family), 2).sample(requests, PARAMS)
    read = Sampler(load(family, **CHUNKS), 2).sample(requests, PARAMS)
    assert np.array_equal(np.stack(literal.pixels), np.stack(read.pixels))
    weighted = dataclasses.replace(requests[0], prompt="a (red:1.5) fox")
    changed = Sampler(load(family, **CHUNKS), 2).sample([weighted], PARAMS)
    assert not np.array_equal(changed.pixels[0], literal.pixels[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompts", [{}, CHUNKS])
@torch.inference_mode()
def test_clip_skip_is_that_of_diffusers(
    family: str, prompts: dict[str, Any], load: Callable[..., LoadedModel], plain: Plain
) -> None:
    pipeline = plain(family)
    if not hasattr(pipeline.text_encoder, "text_model"):  # where diffusers looks for the last norm
        object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    expected = pipeline.encode_prompt(
        "a red fox",
        device=torch.device("cpu"),
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt="hats",
        clip_skip=1,
    )
    model = load(family, clip_skip=1, **prompts)
    found = tensors(Conditioner(model).arguments(["a red fox"], ["hats"], True))
    assert torch.equal(found["prompt_embeds"], expected[0])
    assert torch.equal(found["negative_prompt_embeds"], expected[1])
    without = tensors(Conditioner(load(family)).arguments(["a red fox"], ["hats"], True))
    assert not torch.equal(found["prompt_embeds"], without["prompt_embeds"])


@pytest.mark.parametrize("family", ["sd3", "flux", "pixart", "sana"])
@pytest.mark.parametrize("prompts", [{"weights": "a1111"}, {"long": "chunks"}, {"clip_skip": 1}])
def test_a_model_with_another_text_encoder_is_refused_by_name(
    family: str, prompts: dict[str, Any], saved: Saved, load: Callable[..., LoadedModel]
) -> None:
    ((key, value),) = prompts.items()
    message = rf"model\.prompts\.{key}: {value} works with Stable Diffusion 1\.x, 2\.x and XL"
    with pytest.raises(UnsupportedModel, match=message):
        loading.describe(saved(family), ModelSpec(source=str(saved(family)), prompts=prompts))
    with pytest.raises(UnsupportedModel, match=message):
        load(family, **prompts)


@pytest.mark.parametrize(("family", "most"), [("sd", "2 layers"), ("sdxl", "1 layer")])
def test_more_layers_than_there_are_cannot_be_left_out(
    family: str, most: str, saved: Saved
) -> None:
    folder = saved(family)
    spec = ModelSpec(source=str(folder), prompts={"clip_skip": 3})
    with pytest.raises(UnsupportedModel, match=f"clip_skip: 3 is more than the {most} that"):
        loading.describe(folder, spec)
    allowed = ModelSpec(source=str(folder), prompts={"clip_skip": 1})
    assert loading.describe(folder, allowed).fingerprint


def test_an_upgrade_that_moves_the_last_norm_fails_in_words() -> None:
    class Encoder:
        """A text encoder with its last norm somewhere else."""

    with pytest.raises(IncompatibleLibrary, match=r"Encoder\.final_layer_norm"):
        name_last_norm(Encoder())
