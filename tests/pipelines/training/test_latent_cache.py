"""Cached latents are read row by row, from files that are mapped into memory."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from nightpress.pipelines.errors import DataError
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training import latent_cache
from nightpress.pipelines.training.latent_cache import LatentCache

LATENTS = torch.randn(10, 4, 3, 3, generator=torch.Generator().manual_seed(0)).half()


@pytest.fixture(params=["file", "memory"])
def cache(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LatentCache:
    """Ten latents in chunks of four, in a store on this machine or elsewhere."""
    monkeypatch.setattr(latent_cache, "CHUNK_IMAGES", 4)
    url = str(tmp_path / "run") if request.param == "file" else f"memory://{tmp_path.name}/run"
    made = LatentCache(Store(url), "key", len(LATENTS))
    assert list(made.fill(encode)) == [4, 8, 10]
    return made


def encode(images: Sequence[int]) -> Tensor:
    return LATENTS[list(images)].float()


@pytest.mark.parametrize("images", [[0], [9, 0, 4, 3], [5, 5, 5], list(range(10))])
def test_rows_are_those_that_were_encoded(
    cache: LatentCache, tmp_path: Path, images: list[int]
) -> None:
    rows = cache.open(tmp_path / "scratch").rows(images)
    assert rows.dtype == torch.float16
    assert torch.equal(rows, LATENTS[images])


def test_nothing_is_left_on_this_machine(cache: LatentCache, tmp_path: Path) -> None:
    opened = cache.open(tmp_path / "scratch")
    assert torch.equal(opened.rows([7]), LATENTS[[7]])
    assert not list(tmp_path.glob("scratch/*"))


@pytest.mark.parametrize("cache", ["file"], indirect=True)
def test_local_latents_are_mapped_and_not_read(
    cache: LatentCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(store: Store, path: str) -> bytes:
        raise AssertionError(f"{path} was read whole")

    monkeypatch.setattr(Store, "read", refuse)
    opened = cache.open(tmp_path / "scratch")
    assert torch.equal(opened.rows([1, 8]), LATENTS[[1, 8]])
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert cache.path(0) in mapped.read_text()


def test_a_missing_chunk_is_an_error(cache: LatentCache, tmp_path: Path) -> None:
    cache.store.delete(cache.path(1))
    with pytest.raises(OSError if cache.store.url.startswith("/") else Exception, match="00001"):
        cache.open(tmp_path / "scratch")


def other_shape(num: int) -> bytes:
    return safetensors.torch.save({"latents": torch.zeros(num, 4, 3, 3).half()})


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:4],
        lambda data: data[:40],
        lambda data: data[:-1],
        lambda data: data + b"0",
        lambda data: bytes(len(data)),
        lambda data: b"x" * len(data),
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: data.replace(b"latents", b"patents"),
        lambda data: other_shape(3),
        lambda data: other_shape(5),
        lambda data: safetensors.torch.save({"latents": torch.zeros(())}),
    ],
)
def test_a_damaged_chunk_is_encoded_again(
    cache: LatentCache, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    cache.store.put(cache.path(1), damage(cache.store.read(cache.path(1))))
    encoded: list[int] = []

    def encode_again(images: Sequence[int]) -> Tensor:
        encoded.extend(images)
        return encode(images)

    assert list(cache.fill(encode_again)) == [4]
    assert encoded == [4, 5, 6, 7]
    assert torch.equal(cache.open(tmp_path / "scratch").rows(range(10)), LATENTS)
    assert list(cache.fill(encode_again)) == []


@pytest.mark.parametrize("cache", ["memory"], indirect=True)
def test_a_scratch_folder_that_cannot_be_written_is_named_with_what_to_set(
    cache: LatentCache, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/scratch: cannot write the latents: Not a directory"):
        cache.open(tmp_path / "file" / "scratch")
