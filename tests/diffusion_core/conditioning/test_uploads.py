"""The inputs of a batch reach the device in one copy, with the values that they had."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from nightpress.diffusion_core.conditioning import uploads
from nightpress.diffusion_core.conditioning.spec import Pixels
from nightpress.diffusion_core.conditioning.uploads import (
    ALIGNMENT_BYTES,
    STAGED,
    PictureStage,
    upload_pictures,
    upload_rows,
)


def columns() -> dict[str, list[torch.Tensor]]:
    """Three images: embeddings in half precision, a mask of odd length, and a pooled vector."""
    generator = torch.Generator().manual_seed(0)
    return {
        "prompt_embeds": [torch.randn(1, 7, 3, generator=generator).bfloat16() for _ in range(3)],
        "prompt_attention_mask": [torch.arange(7).view(1, 7) % (n + 2) == 0 for n in range(3)],
        "pooled_prompt_embeds": [torch.randn(1, 5, generator=generator) for _ in range(3)],
    }


class Device:
    """Stands for an accelerator: its memory is other host memory, and it counts copies to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[torch.Tensor] = []
        device = self

        class Buffer(torch.Tensor):
            def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
                assert kwargs == {"non_blocking": True}
                device.sent.append(self.as_subclass(torch.Tensor).clone())
                return device.sent[-1]

        monkeypatch.setattr(
            uploads,
            "staging_buffer",
            lambda num_bytes, _: torch.empty(num_bytes, dtype=torch.uint8).as_subclass(Buffer),
        )


def test_all_inputs_of_a_batch_are_one_copy_with_their_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(monkeypatch)
    arrived = upload_rows(columns(), "cuda")
    assert len(device.sent) == 1
    assert list(arrived) == list(columns())
    for name, rows in columns().items():
        assert torch.equal(arrived[name], torch.cat(rows))
        assert arrived[name].dtype == rows[0].dtype
        assert arrived[name].data_ptr() - device.sent[0].data_ptr() == (
            arrived[name].storage_offset() * arrived[name].element_size()
        )
        assert arrived[name].storage_offset() * arrived[name].element_size() % ALIGNMENT_BYTES == 0


def test_on_a_cpu_inputs_are_joined_and_share_no_memory_with_the_rows() -> None:
    given = columns()
    joined = upload_rows(given, "cpu")
    for name, rows in given.items():
        assert torch.equal(joined[name], torch.cat(rows))
        assert joined[name].data_ptr() not in {row.data_ptr() for row in rows}


def test_rows_of_different_shapes_cannot_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    Device(monkeypatch)
    rows = [torch.zeros(1, 4), torch.zeros(1, 5)]
    for device in ("cpu", "cuda"):
        with pytest.raises((RuntimeError, ValueError)):
            upload_rows({"prompt_embeds": rows}, device)


def pictures(*shape: int) -> list[Pixels]:
    """Two pictures that together have every value, and cannot be written to."""
    made = [np.resize(np.arange(256, dtype=np.uint8)[::step], shape) for step in (1, -1)]
    for each in made:
        each.flags.writeable = False
    return made


@pytest.mark.parametrize("shape", [(20, 32, 3), (20, 32)])
def test_pictures_become_values_between_0_and_1(shape: tuple[int, ...]) -> None:
    values = upload_pictures(pictures(*shape), "cpu")
    assert values.shape == (2, 3 if len(shape) == 3 else 1, 20, 32)
    assert values.dtype == torch.float32
    for value, picture in zip(values, pictures(*shape), strict=True):
        expected = picture.reshape(20, 32, -1).transpose(2, 0, 1).astype(np.float32)
        assert np.array_equal(value.numpy(), expected / np.float32(255))


@pytest.mark.parametrize("shape", [(20, 32, 3), (20, 32)])
def test_an_accelerator_gets_the_bytes_of_pictures_and_computes_the_same_values(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, full = Device(monkeypatch), torch.full
    monkeypatch.setattr(torch, "full", lambda size, value, device: full(size, value))
    values = upload_pictures(pictures(*shape), "cuda")
    assert [each.numel() for each in device.sent] == [2 * math.prod(shape)]
    expected = upload_pictures(pictures(*shape), "cpu")
    assert torch.equal(values, expected)
    assert values.stride() == expected.stride()


@pytest.mark.gpu
def test_a_gpu_computes_the_bits_of_a_cpu() -> None:
    on_gpu = upload_pictures(pictures(20, 32, 3), "cuda")
    assert torch.equal(on_gpu.cpu(), upload_pictures(pictures(20, 32, 3), "cpu"))


def noise(seed: int, shape: tuple[int, ...] = (4, 6, 3)) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_pictures_that_were_joined_ahead_are_uploaded_once_with_the_same_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, stage, prepared = Device(monkeypatch), PictureStage(), list[int]()

    def inverted(pictures: Sequence[Pixels]) -> list[Pixels]:
        prepared.append(len(pictures))
        return [255 - each for each in pictures]

    full = torch.full
    monkeypatch.setattr(torch, "full", lambda size, value, device: full(size, value))
    pictures = [noise(0), noise(1)]
    with ThreadPoolExecutor(1) as other:
        other.submit(stage.join, pictures, "cuda", inverted, "inverted").result()
    assert (prepared, device.sent) == ([2], [])
    ahead = stage.upload(pictures, "cuda", inverted, "inverted")
    assert (prepared, len(device.sent)) == ([2], 1)
    now = stage.upload(pictures, "cuda", inverted, "inverted")
    assert prepared == [2, 2]
    assert torch.equal(ahead, now)
    assert torch.equal(ahead, upload_pictures(inverted(pictures), "cpu"))


def test_other_pictures_and_another_preparation_are_not_taken_for_what_was_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Device(monkeypatch)
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda size, value, device: full(size, value))
    stage, pictures, equal = PictureStage(), [noise(0)], [noise(0) + 1]
    stage.join(pictures, "cuda", lambda given: [255 - each for each in given], "inverted")
    assert torch.equal(stage.upload(pictures, "cuda"), upload_pictures(pictures, "cpu"))
    assert torch.equal(stage.upload(equal, "cuda"), upload_pictures(equal, "cpu"))


def test_a_stage_keeps_a_few_lists_and_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    Device(monkeypatch)
    stage = PictureStage()
    for seed in range(STAGED + 2):
        stage.join([noise(seed)], "cuda")
    assert len(stage._joined) == STAGED
