"""The inputs of a batch reach the device in one copy, with the values that they had."""

from typing import Any

import pytest
import torch

from nightpress.diffusion_core.conditioning import uploads
from nightpress.diffusion_core.conditioning.uploads import ALIGNMENT_BYTES, upload_rows


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
