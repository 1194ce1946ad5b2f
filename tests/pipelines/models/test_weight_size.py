"""Bytes of a model's weights: what diffusers would load of the files, and nothing else."""

from pathlib import Path, PurePosixPath

import fsspec
import pytest

from nightpress.diffusion_core.errors import UnsafeWeights
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.models.weight_size import bytes_of, weight_bytes

FILES = {
    "model_index.json": 7,
    "unet/diffusion_pytorch_model.safetensors": 400,
    "unet/diffusion_pytorch_model.fp16.safetensors": 200,
    "unet/diffusion_pytorch_model.bin": 400,
    "unet/config.json": 3,
    "text_encoder/model.safetensors": 100,
    "scheduler/scheduler_config.json": 5,
    "single-file.safetensors": 700,
}


def write(folder: Path, files: dict[str, int]) -> None:
    for name, num_bytes in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"0" * num_bytes)


@pytest.mark.parametrize(("variant", "expected"), [(None, 500), ("fp16", 300)])
def test_a_folder_counts_the_files_of_its_variant(
    tmp_path: Path, variant: str | None, expected: int
) -> None:
    write(tmp_path, FILES)
    assert weight_bytes(ModelSpec(source=str(tmp_path), variant=variant), {}) == expected


def test_a_url_counts_what_its_listing_says_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    memory = fsspec.filesystem("memory")
    for name, num_bytes in FILES.items():
        memory.pipe(f"/sized/models/one/{name}", b"0" * num_bytes)
    assert weight_bytes(ModelSpec(source="memory://sized/models/one"), {}) == 500
    assert list(tmp_path.iterdir()) == []


def test_a_hub_model_that_is_not_here_has_no_known_size() -> None:
    assert weight_bytes(ModelSpec(source="nobody/nothing-of-this-name"), {}) is None


def test_pickles_that_may_not_be_loaded_are_refused() -> None:
    files = {PurePosixPath("unet/diffusion_pytorch_model.bin"): 400}
    with pytest.raises(UnsafeWeights):
        bytes_of(files, ModelSpec(source="somewhere"))
    assert bytes_of(files, ModelSpec(source="somewhere", allow_pickle=True)) == 400
