"""Textual inversions: as plain diffusers loads them, counted, and refused with a reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsafeWeights,
    UnsupportedModel,
)
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.adapter_files import AdapterFiles
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.prompt_embeddings import Conditioner

Saved = Callable[[str], Path]
Plain = Callable[..., Any]
WIDTH = 16


def vectors(number: int, seed: int = 1, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed))


def write(path: Path, content: dict[str, torch.Tensor]) -> Path:
    save_file(content, path)
    return path


def spec_of(model: Path, *files: Path, **keys: Any) -> ModelSpec:
    named = [{"source": str(file), "token": f"<{file.stem}>"} for file in files]
    return ModelSpec.model_validate({"source": str(model), "embeddings": named} | keys)


def described(model: Path, *files: Path, **keys: Any) -> ModelInfo:
    adapters = AdapterFiles(embeddings=files)
    return loading.describe(model, spec_of(model, *files, **keys), adapters=adapters)


def loaded_with(model: Path, *files: Path, **keys: Any) -> LoadedModel:
    adapters = AdapterFiles(embeddings=files)
    return loading.load(model, spec_of(model, *files, **keys), "cpu", adapters=adapters)


def encoded(model: LoadedModel, prompt: str, negative: str = "") -> dict[str, torch.Tensor]:
    found = Conditioner(model).arguments([prompt], [negative], True)
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("name", ["emb_params", "<cat>"], ids=["a1111", "diffusers"])
@torch.inference_mode()
def test_a_word_has_the_vectors_that_plain_diffusers_gives_it(
    number: int, name: str, saved: Saved, plain: Plain, tmp_path: Path
) -> None:
    file = write(tmp_path / "cat.safetensors", {name: vectors(number)})
    pipeline = plain("sd")
    pipeline.load_textual_inversion(str(tmp_path), weight_name=file.name, token="<cat>")
    expected = pipeline.encode_prompt("a <cat> asleep", "cpu", 1, True, "no <cat>")
    found = encoded(loaded_with(saved("sd"), file), "a <cat> asleep", "no <cat>")
    assert torch.equal(found["prompt_embeds"], expected[0])
    assert torch.equal(found["negative_prompt_embeds"], expected[1])
    other = encoded(loaded_with(saved("sd"), file), "a fox")
    assert torch.equal(other["prompt_embeds"], pipeline.encode_prompt("a fox", "cpu", 1, False)[0])


@torch.inference_mode()
def test_sdxl_has_vectors_for_both_of_its_text_encoders(
    saved: Saved, plain: Plain, tmp_path: Path
) -> None:
    content = {"clip_l": vectors(2), "clip_g": vectors(2, seed=2)}
    file = write(tmp_path / "cat.safetensors", content)
    pipeline = plain("sdxl")
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        pipeline.load_textual_inversion(
            content[name],
            token="<cat>",
            tokenizer=getattr(pipeline, f"tokenizer{suffix}"),
            text_encoder=getattr(pipeline, f"text_encoder{suffix}"),
        )
    expected = pipeline.encode_prompt("a <cat>", device="cpu", do_classifier_free_guidance=False)
    found = encoded(loaded_with(saved("sdxl"), file), "a <cat>")
    assert torch.equal(found["prompt_embeds"], expected[0])
    assert torch.equal(found["pooled_prompt_embeds"], expected[2])


def test_all_vectors_count_and_may_have_a_weight(saved: Saved, tmp_path: Path) -> None:
    file = write(tmp_path / "cat.safetensors", {"emb_params": vectors(8)})
    info = described(saved("sd"), file)
    (tokenizer,) = info.prompts.tokenizers
    assert tokenizer.count("a <cat> b") == 10
    assert tokenizer.count("a cat b") == 5
    cut = info.prompts.cut("a " * 70 + "<cat>")
    assert cut is not None
    assert (cut.num_tokens, cut.max_tokens) == (78, 75)
    model = loaded_with(saved("sd"), file, prompts={"weights": "a1111", "long": "chunks"})
    reader = model.reader
    assert reader.num_chunks("a " * 67 + "<cat>") == 1
    assert reader.num_chunks("a " * 68 + "<cat>") == 2  # its vectors are not divided
    ((chunk,),) = reader.chunks("a (<cat>:1.5)")
    assert chunk.weights[1:11] == (1.0, *[1.5] * 8, 1.0)
    assert info.prompts == model.prompts


def test_the_words_that_a_prompt_names_are_known(saved: Saved, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.safetensors", {"v": vectors(2, n)}) for n in (1, 2)]
    reader = loaded_with(saved("sd"), *files, prompts={"weights": "a1111"}).reader
    assert reader.embeddings_in("a fox") == frozenset()
    assert reader.embeddings_in("a (<1>:1.2)") == {"<1>"}
    assert reader.embeddings_in("a <1>", "<2> and <2>") == {"<1>", "<2>"}


def test_its_hash_is_part_of_what_machines_of_a_run_agree_on(saved: Saved, tmp_path: Path) -> None:
    first = write(tmp_path / "cat.safetensors", {"v": vectors(1)})
    info, without = described(saved("sd"), first), described(saved("sd"))
    assert info.fingerprint == without.fingerprint != info.identity
    assert [each.name for each in info.embeddings] == ["<cat>"]
    assert ModelInfo.from_dict(info.as_dict()) == info
    assert "embeddings" not in without.as_dict()
    write(first, {"v": vectors(1, seed=9)})
    assert described(saved("sd"), first).identity != info.identity


@pytest.mark.parametrize(
    ("family", "content", "message"),
    [
        ("sd", {"v": vectors(1, width=24)}, r"v has the shape \[1, 24\], but .* the width 16"),
        ("sd", {"clip_l": vectors(1), "clip_g": vectors(1)}, "it is for Stable Diffusion XL, and"),
        ("sdxl", {"emb_params": vectors(1)}, "for one text encoder, and the model has two text"),
        ("sdxl", {"clip_l": vectors(1), "clip_g": vectors(2)}, "different numbers of vectors"),
        ("sd", {"v": vectors(76)}, "76 vectors do not fit into a prompt's 75"),
        ("sd", {"v": torch.ones(1, WIDTH, dtype=torch.int64)}, "are not floating-point numbers"),
        ("sd", {"v": torch.zeros(0, WIDTH)}, r"v has the shape \[0, 16\]"),
    ],
)
def test_an_embedding_that_does_not_fit_is_refused_without_loading_the_model(
    family: str, content: dict[str, torch.Tensor], message: str, saved: Saved, tmp_path: Path
) -> None:
    file = write(tmp_path / "cat.safetensors", content)
    with pytest.raises(ModelError, match=f"embedding '<cat>': .*{message}") as caught:
        described(saved(family), file)
    assert "\n" not in str(caught.value)


def test_files_that_are_damaged_missing_or_of_another_family_are_refused(
    saved: Saved, tmp_path: Path
) -> None:
    file = tmp_path / "cat.safetensors"
    with pytest.raises(ModelNotFound, match="no such file"):
        described(saved("sd"), file)
    file.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        described(saved("sd"), file)
    write(file, {"v": vectors(1)})
    with pytest.raises(UnsupportedModel, match=r"model\.embeddings work with Stable Diffusion 1"):
        described(saved("flux"), file)
    write(file, {"v": vectors(1) * torch.inf})
    with pytest.raises(ModelError, match="v has values that are not finite"):
        loaded_with(saved("sd"), file)


def test_a_pickle_of_a1111_is_read_only_if_pickles_are_allowed(
    saved: Saved, tmp_path: Path
) -> None:
    file = tmp_path / "cat.pt"
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors(2)}, "name": "x"}
    torch.save(content, file)
    with pytest.raises(UnsafeWeights, match="it is a pickle, and unpickling runs code"):
        described(saved("sd"), file)
    found = encoded(loaded_with(saved("sd"), file, allow_pickle=True), "a <cat>")
    safe = write(tmp_path / "cat.safetensors", {"emb_params": vectors(2)})
    expected = encoded(loaded_with(saved("sd"), safe), "a <cat>")
    assert torch.equal(found["prompt_embeds"], expected["prompt_embeds"])
    torch.save({"step": 5, "other": vectors(1)}, file)
    with pytest.raises(ModelError, match=r"not a readable embedding: .*it holds other, step"):
        described(saved("sd"), file, allow_pickle=True)


def test_a_word_of_the_tokenizer_and_a_word_twice_are_refused(saved: Saved, tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", {"v": vectors(1)})
    folder = saved("sd")
    spec = ModelSpec.model_validate({"source": str(folder), "embeddings": [str(file)]})
    assert spec.embeddings[0].label == "a"
    with pytest.raises(ModelError, match="'a' is a word of the model's tokenizer; set another"):
        loading.describe(folder, spec, adapters=AdapterFiles(embeddings=(file,)))
    with pytest.raises(ValidationError, match="2 are called 'cat'; set a `token` each"):
        ModelSpec.model_validate({"embeddings": ["x/cat.pt", "y/Cat.safetensors"]})
    with pytest.raises(ValidationError, match="no prompt can name 'my cat'; set a `token`"):
        ModelSpec.model_validate({"embeddings": ["x/my cat.pt"]})
