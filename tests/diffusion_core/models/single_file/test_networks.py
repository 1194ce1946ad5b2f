"""The tensors of a file get their places from diffusers' converters, all of them or none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ldm_checkpoints, tiny_models
from support.ldm_checkpoints import write

from nightpress.diffusion_core.errors import IncompatibleLibrary, ModelError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.single_file.folder import make_folder
from nightpress.diffusion_core.models.spec import ModelSpec

Saved = Callable[[str], Path]
SPEC = ModelSpec(source="x.safetensors")


@pytest.fixture
def made(saved: Saved, plain: Callable[[str], Any], tmp_path: Path) -> Path:
    """The folder of the tiny Stable Diffusion in one file."""
    file = write(ldm_checkpoints.sd1(plain("sd")), tmp_path / "x.safetensors")
    folder = tmp_path / "made"
    folder.mkdir()
    make_folder(file, saved("sd"), folder)
    return folder


def test_the_folder_holds_configurations_and_a_link_and_no_weights(made: Path) -> None:
    weights = list(made.rglob("*.safetensors"))
    assert [path.name for path in weights] == ["nightpress-checkpoint.safetensors"]
    assert weights[0].is_symlink()
    model = PipelineFolder.read(made)
    assert model.checkpoint == weights[0]
    assert model.shown.endswith("/x.safetensors")
    assert model.facts["family"] == "SD 1.x"


def test_every_tensor_is_that_of_the_folder(made: Path, plain: Callable[[str], Any]) -> None:
    pipeline = loading.load(made, SPEC, "cpu").pipeline
    for name in ("unet", "vae", "text_encoder"):
        expected = plain("sd").components[name].state_dict()
        found = pipeline.components[name].state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)


def test_weights_that_are_no_numbers_are_refused(
    saved: Saved, plain: Callable[[str], Any], tmp_path: Path
) -> None:
    tensors = ldm_checkpoints.sd1(plain("sd"))
    tensors["model.diffusion_model.out.2.bias"] = torch.full((4,), float("nan"))
    folder = tmp_path / "made"
    folder.mkdir()
    make_folder(write(tensors, tmp_path / "x.safetensors"), saved("sd"), folder)
    with pytest.raises(ModelError, match=r"x\.safetensors: .* unet: 1 of its .* NaN or infinity"):
        loading.load(folder, SPEC, "cpu")


@pytest.mark.parametrize(
    "name",
    [
        "single_file_utils.convert_open_clip_checkpoint",
        "single_file_model.SINGLE_FILE_LOADABLE_CLASSES",
        "single_file_model._get_single_file_loadable_mapping_class",
    ],
)
def test_an_upgrade_that_moves_a_converter_is_named(
    name: str,
    saved: Saved,
    plain: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    file = write(ldm_checkpoints.sdxl(plain("sdxl")), tmp_path / "x.safetensors")
    make_folder(file, saved("sdxl"), folder)
    loading.check_weights(folder, SPEC)
    monkeypatch.delattr(f"diffusers.loaders.{name}")
    with pytest.raises(IncompatibleLibrary, match="give the tensors of a single file their places"):
        loading.check_weights(folder, SPEC)


@pytest.mark.parametrize("component", ["vae", "text_encoder"])
def test_tensors_under_diffusers_own_names_need_no_converter(
    component: str, saved: Saved, plain: Callable[[str], Any], tmp_path: Path
) -> None:
    pipeline = plain("sd")
    prefixes = {"vae": ldm_checkpoints.VAE, "text_encoder": ldm_checkpoints.SD1_CLIP}
    prefix = prefixes[component]
    tensors = ldm_checkpoints.sd1(pipeline)
    others = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    own = pipeline.components[component].state_dict()
    renamed = {prefix + name: value for name, value in own.items()}
    folder = tmp_path / "made"
    folder.mkdir()
    make_folder(write(others | renamed, tmp_path / "x.safetensors"), saved("sd"), folder)
    loading.check_weights(folder, SPEC)


def test_tiny_models_have_the_names_that_are_inverted() -> None:
    assert set(ldm_checkpoints.sd1(tiny_models.sd())) >= {
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.middle_block.1.proj_in.weight",
        "first_stage_model.decoder.mid.attn_1.q.weight",
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    }
