"""Muon orthogonalizes matrices, leaves other weights to AdamW, and divides its work exactly."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from nightpress.diffusion_core.training.muon import (
    Muon,
    assign_owners,
    orthogonalize_all,
    uses_muon,
    zeropower_via_newtonschulz5,
)


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (40, 8)])
def test_orthogonalizing_keeps_directions_and_brings_singular_values_near_one(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    orthogonal = zeropower_via_newtonschulz5(matrix).float()
    values = torch.linalg.svdvals(orthogonal)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.25
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    nearest = left @ right
    cosine = (orthogonal * nearest).sum() / orthogonal.norm() / nearest.norm()
    assert float(cosine) > 0.97


def test_the_scale_of_a_matrix_does_not_matter() -> None:
    matrix = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(
        zeropower_via_newtonschulz5(matrix), zeropower_via_newtonschulz5(1000 * matrix), atol=0.06
    )


def test_muon_updates_hidden_matrices_and_kernels_only() -> None:
    assert uses_muon("down.0.conv1.weight", torch.zeros(4, 4, 3, 3))
    assert uses_muon("attn.to_q.weight", torch.zeros(4, 4))
    assert not uses_muon("attn.to_q.bias", torch.zeros(4))
    assert not uses_muon("conv_in.weight", torch.zeros(4, 4, 3, 3))
    assert not uses_muon("embeddings.position_embedding.weight", torch.zeros(4, 4))


def test_other_weights_are_updated_by_adamw() -> None:
    start = torch.linspace(-1, 1, 5)
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon({"bias": mine}, lr=0.1)
    adamw = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(5):
        for parameter, optimizer in ((mine, muon), (theirs, adamw)):
            optimizer.zero_grad()
            (parameter - 3).pow(4).sum().backward()
            optimizer.step()
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_it_minimises_a_quadratic_loss() -> None:
    wanted = torch.randn(6, 6, generator=torch.Generator().manual_seed(2))
    weight = nn.Parameter(torch.zeros(6, 6))
    optimizer = Muon({"weight": weight}, lr=0.2, weight_decay=0.0)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
        optimizer.zero_grad()
        (weight - wanted).square().mean().backward()
        optimizer.step()
    assert float((weight.detach() - wanted).square().mean()) < 1e-3


def test_every_matrix_has_one_owner_and_loads_are_balanced() -> None:
    matrices = [torch.zeros(n, 2 * n) for n in (64, 32, 32, 48, 8, 60, 16)]
    owners = assign_owners(matrices, 2)
    loads = [
        sum(min(m.shape) * m.numel() for m, o in zip(matrices, owners, strict=True) if o == worker)
        for worker in (0, 1)
    ]
    assert max(loads) < 1.3 * min(loads)


def test_several_workers_get_the_result_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # new processes import this file
    alone = orthogonalize_all(_matrices())
    multiprocessing.spawn(_orthogonalize_in_a_group, args=(2, str(tmp_path)), nprocs=2)
    for rank in range(2):
        together: list[Tensor] = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def _matrices() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(m, n, generator=generator) for m, n in ((6, 9), (9, 6), (4, 4), (1, 7))]


def _orthogonalize_in_a_group(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size
    )
    torch.save(orthogonalize_all(_matrices()), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
