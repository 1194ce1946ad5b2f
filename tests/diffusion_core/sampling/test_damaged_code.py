"""Only compiled code that a killed process left incomplete is removed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch._inductor.exc import InductorError
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from nightpress.diffusion_core.acceleration.compilation import (
    keep_compiled_code,
    remove_damaged_code,
)
from nightpress.diffusion_core.errors import SamplingError
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=2, guidance_scale=4.0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    folder = tmp_path / "inductor" / "fm"
    folder.mkdir(parents=True)
    return folder


def unreadable(library: Path, words: str = "file too short") -> InductorError:
    """The error that torch raises for a library that it cannot load."""
    return InductorError(ImportError(f"{library}: {words}"), None)


def test_a_half_written_library_is_removed(cache: Path) -> None:
    library = cache / "abc.main.so"
    library.write_bytes(b"")
    assert remove_damaged_code(unreadable(library))
    assert not library.exists()
    assert not remove_damaged_code(unreadable(library))


def test_no_other_error_and_no_other_folder_removes_a_file(cache: Path, tmp_path: Path) -> None:
    library, elsewhere = cache / "abc.main.so", tmp_path / "libc.so"
    for path in (library, elsewhere):
        path.write_bytes(b"")
    for error in (
        None,
        ValueError(f"{library}: file too short"),
        InductorError(ValueError(f"{library}: file too short"), None),
        unreadable(elsewhere),
    ):
        assert not remove_damaged_code(error)
    assert library.exists()
    assert elsewhere.exists()


def test_a_batch_that_runs_into_damaged_code_is_sampled_without_it(
    cache: Path, loaded: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = Sampler(loaded("sd"), 1)
    request = ImageRequest("a red fox", "", 1)
    whole = sampler.sample([request], PARAMS).pixels
    libraries = [cache / f"{name}.main.so" for name in "ab"]
    for library in libraries:
        library.write_bytes(b"")
    run = Sampler._run

    def failing(self: Sampler, *args: Any) -> Any:
        for library in libraries:
            if library.exists():
                raise SamplingError("no such kernel") from unreadable(library)
        return run(self, *args)

    monkeypatch.setattr(Sampler, "_run", failing)
    assert (sampler.sample([request], PARAMS).pixels == whole).all()
    assert not any(library.exists() for library in libraries)


@pytest.mark.parametrize("given", [None, "torch's own", "/fast/disk"])
def test_the_cache_folder_that_torch_sets_does_not_count_as_chosen(
    given: str | None, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", given or "")
    if given is None:
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    elif given == "torch's own":
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    keep_compiled_code()
    kept = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert kept == (given if given == "/fast/disk" else str(own_cache / "inductor"))
