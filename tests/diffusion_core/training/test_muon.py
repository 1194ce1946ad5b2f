"""Muon orthogonalizes matrices, leaves other weights to AdamW, and divides its work exactly."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from support import tiny_models
from torch import Tensor, distributed, multiprocessing, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nightpress.diffusion_core.training import muon
from nightpress.diffusion_core.training.denoiser import FAMILIES
from nightpress.diffusion_core.training.muon import (
    UPDATE_RMS,
    Muon,
    assign_owners,
    orthogonalize_all,
    stack_limit,
    stacks,
    uses_muon,
    zeropower_via_newtonschulz5,
)
from nightpress.diffusion_core.training.optimizers import (
    Optimization,
    learning_rate,
    new_optimizer,
    set_learning_rate,
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


HIDDEN = {
    "UNet2DConditionModel": {"down_blocks", "mid_block", "up_blocks"},
    "PixArtTransformer2DModel": {"transformer_blocks"},
    "SD3Transformer2DModel": {"transformer_blocks"},
    "FluxTransformer2DModel": {"transformer_blocks", "single_transformer_blocks"},
    "SanaTransformer2DModel": {"transformer_blocks"},
}
"""Class of a denoiser -> the parts that hold its hidden layers."""


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_muon_updates_the_matrices_inside_the_blocks_of_a_denoiser(family: str) -> None:
    pipeline = tiny_models.MAKERS[family]()
    denoiser = pipeline.components.get("transformer") or pipeline.unet
    for prefix in ("", "denoiser."):
        for name, weight in denoiser.named_parameters():
            part, *inner = name.split(".")
            last = inner[-1] if inner else ""
            is_hidden = (
                part in HIDDEN[type(denoiser).__name__]
                and weight.ndim > 1
                and last == "weight"
                and not any(layer.startswith("norm") for layer in inner)
                and "time_emb_proj" not in inner  # modulation
            )
            assert uses_muon(prefix + name, weight) == is_hidden, name


def test_every_denoiser_that_can_be_trained_is_among_these() -> None:
    assert set(FAMILIES) <= set(HIDDEN)


CONDITIONED = {
    "time_cond_proj_dim": 8,
    "class_embed_type": "timestep",
    "encoder_hid_dim": 8,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "cross_attention_dim": 64,
}
"""Settings of a U-Net with every kind of embedding."""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("UNet2DConditionModel", {}),
        ("UNet2DConditionModel", CONDITIONED),
        ("PixArtTransformer2DModel", {"num_layers": 1}),
    ],
)
def test_muon_updates_attention_feed_forward_and_convolutions_inside_blocks_only(
    name: str, settings: dict[str, Any]
) -> None:
    assert name in FAMILIES
    with torch.device("meta"):
        denoiser = getattr(diffusers, name)(**settings)
    hidden = re.compile(
        r"blocks?\.(\d+\.)?.*(attn\d\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|proj_in|proj_out|conv\d?"
        r"|conv_shortcut)\.weight$"
    )
    weights = dict(denoiser.named_parameters())
    expected = {key for key, value in weights.items() if value.ndim > 1 and hidden.search(key)}
    assert {key for key, value in weights.items() if uses_muon(key, value)} == expected
    assert expected


@pytest.mark.parametrize(
    "name",
    [
        "proj_out_1",
        "proj_out_2",
        "down_blocks.0.resnets.0.time_emb_proj",
        "label_emb.0.0",
        "guidance_in.in_layer",
        "vector_in.in_layer",
        "time_embedding.cond_proj",
        "time_proj",
        "encoder_hid_proj",
        "t_block.1",
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table",
    ],
)
def test_adamw_updates_other_names_of_embeddings_modulation_and_ends(name: str) -> None:
    for prefix in ("", "denoiser."):
        assert not uses_muon(f"{prefix}{name}.weight", torch.zeros(8, 8))


def test_adamw_updates_the_tables_and_ends_of_pixart() -> None:
    for name in ("scale_shift_table", "proj_out.weight", "pos_embed.proj.weight"):
        assert not uses_muon(name, torch.zeros(8, 8))
    assert not uses_muon("transformer_blocks.3.scale_shift_table", torch.zeros(6, 8))
    assert uses_muon("single_transformer_blocks.3.proj_out.weight", torch.zeros(8, 8))


@pytest.mark.parametrize("kind", ["constant_with_warmup", "cosine", "warmup_stable_decay"])
def test_updates_of_both_kinds_follow_the_schedule(kind: Any) -> None:
    settings = Optimization(
        "muon", 0.1, kind, lr_warmup_steps=3, lr_decay_steps=4, max_train_steps=10, weight_decay=0.0
    )
    weights = {"a.weight": nn.Parameter(torch.zeros(6, 6)), "bias": nn.Parameter(torch.zeros(6))}
    optimizer = new_optimizer(settings, weights)
    gradient = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    for step in range(10):
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        weights["a.weight"].grad, weights["bias"].grad = gradient.clone(), torch.ones(6)
        set_learning_rate(optimizer, settings, step)
        optimizer.step()
        moved = {name: weight.detach() - before[name] for name, weight in weights.items()}
        rate = learning_rate(settings, step)
        rms = float(moved["a.weight"].square().mean().sqrt())
        assert rms == pytest.approx(UPDATE_RMS * rate, rel=0.15, abs=1e-9)
        torch.testing.assert_close(moved["bias"], torch.full((6,), -rate / 2))
    assert learning_rate(settings, 0) == pytest.approx(0.1 / 3)
    expected = {"constant_with_warmup": 0.1, "cosine": 0.00495, "warmup_stable_decay": 0.025}
    assert learning_rate(settings, 9) == pytest.approx(expected[kind], rel=0.01)


def test_a_training_that_began_under_another_rule_goes_on_as_it_began() -> None:
    def weights() -> dict[str, nn.Parameter]:
        values = torch.linspace(-1, 1, 16).view(4, 4)
        return {f"{n}.weight": nn.Parameter(values.clone()) for n in ("proj_out", "hidden")}

    began = weights()
    old = Muon({f"blocks.0.{name}": weight for name, weight in began.items()}, lr=0.1)
    resumed = weights()
    new = Muon(resumed, lr=0.1)
    for optimizer, named, steps in ((old, began, 2), (new, resumed, 0)):
        take_steps(optimizer, named, steps)
    for mine, theirs in zip(resumed.values(), began.values(), strict=True):
        mine.data.copy_(theirs.data)
        new.state[mine] = {key: value.clone() for key, value in old.state[theirs].items()}
    new.follow_state()
    for optimizer, named in ((old, began), (new, resumed)):
        take_steps(optimizer, named, 2)
    for name in began:
        assert torch.equal(began[name], resumed[name])


def take_steps(optimizer: Muon, weights: dict[str, nn.Parameter], num: int) -> None:
    for _ in range(num):
        for weight in weights.values():
            weight.grad = weight.detach().sin() + 0.1
        optimizer.step()


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


def some_weights(number: int, device: str = "cpu") -> dict[str, nn.Parameter]:
    """So many matrices, kernels and biases, with gradients."""
    shapes = {"to_q.weight": (8, 6), "conv.weight": (6, 8, 3, 3), "to_q.bias": (8,)}
    random, weights = torch.Generator().manual_seed(3), {}
    for name, shape in shapes.items():
        for block in range(number):
            weight = nn.Parameter(torch.randn(shape, generator=random).to(device))
            weight.grad = torch.randn(shape, generator=random).to(device)
            weights[f"blocks.{block}.{name}"] = weight
    return weights


def step_one_by_one(
    weight: nn.Parameter, state: dict[str, Tensor], is_matrix: bool, lr: float
) -> None:
    """A step of Muon for a matrix, and of AdamW for another weight."""
    gradient = weight.grad
    assert gradient is not None
    if is_matrix:
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(gradient))
        buffer.lerp_(gradient, 1 - muon.MOMENTUM)
        update = zeropower_via_newtonschulz5(gradient.lerp(buffer, muon.MOMENTUM).flatten(1))
        weight.mul_(1 - lr * 0.01)
        scale = UPDATE_RMS * max(update.shape) ** 0.5
        weight.add_(update.view(weight.shape).float(), alpha=-lr * scale)
        return
    mean, square = (state.setdefault(name, torch.zeros_like(gradient)) for name in ("m", "v"))
    state["step"] = step = state.get("step", torch.zeros(())) + 1
    mean.lerp_(gradient, 1 - 0.9)
    square.lerp_(gradient.square(), 1 - 0.99)
    root = (square / (1 - 0.99 ** float(step))).sqrt() + 1e-8
    weight.addcdiv_(mean / (1 - 0.9 ** float(step)), root, value=-lr)


def test_on_a_cpu_a_step_has_the_bits_of_weights_that_are_updated_one_by_one() -> None:
    together, alone = some_weights(3), some_weights(3)
    optimizer, states = Muon(together, lr=0.1), {name: dict[str, Tensor]() for name in alone}
    for _ in range(3):
        optimizer.step()
        with torch.no_grad():
            for name, weight in alone.items():
                step_one_by_one(weight, states[name], uses_muon(name, weight), 0.1)
    assert all(torch.equal(together[name], alone[name]) for name in alone)


class CountedKernels(TorchDispatchMode):
    """Counts the operations that an accelerator would start a kernel for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        is_there = any(each.is_meta for each in tree_leaves(args) if isinstance(each, Tensor))
        if is_there and not func.is_view and "empty" not in str(func):
            self.names[str(func)] += 1
        return made


def test_an_accelerator_starts_few_kernels_however_many_weights_there_are() -> None:
    """Those that orthogonalize a stack come once a stack, all others once a step."""
    counted = []
    for number in (8, muon.MAX_STACK):
        weights = some_weights(number, "meta")
        optimizer = Muon(weights, lr=0.1)
        optimizer.step()
        with CountedKernels() as kernels:
            optimizer.step()
        counted.append(kernels.names)
    few, many = counted
    assert few == many
    assert few.total() < 70, few


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


def test_matrices_of_one_shape_share_stacks_that_are_bounded() -> None:
    shapes = [(6, 9), (4, 4), (6, 9), (9, 6), (6, 9), (4, 4)]
    matrices = [torch.zeros(shape) for shape in shapes]
    assert stacks(matrices, 2 * 6 * 9) == [[0, 2], [4], [1, 5], [3]]
    assert stacks(matrices, 0) == [[0], [2], [4], [1], [5], [3]]
    assert [len(group) for group in stacks([torch.zeros(1, 1)] * 40, 1 << 20)] == [16, 16, 8]


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (4, 4), (16, 16, 3)])
def test_a_matrix_in_a_stack_gets_the_update_that_it_gets_alone(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(5)
    matrices = [torch.randn(shape, generator=generator).flatten(1) for _ in range(5)]
    matrices.insert(2, torch.randn(3, 5, generator=generator))
    alone = orthogonalize_all(matrices)
    monkeypatch.setattr(muon, "stack_limit", lambda device: 3 * matrices[0].numel())
    together = orthogonalize_all(matrices)
    assert [each.shape for each in together] == [each.shape for each in matrices]
    for mine, other in zip(alone, together, strict=True):
        torch.testing.assert_close(mine, other, atol=0.02, rtol=0.02)


def test_on_a_cpu_matrices_are_orthogonalized_one_by_one() -> None:
    assert stack_limit(torch.device("cpu")) == 0
    assert stack_limit(torch.device("cuda:1")) > 0


@pytest.mark.slow
def test_several_workers_get_the_result_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # new processes import this file
    alone = _orthogonalized()
    multiprocessing.spawn(_orthogonalize_in_a_group, args=(2, str(tmp_path)), nprocs=2)
    for rank in range(2):
        together: list[Tensor] = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def _orthogonalized() -> list[Tensor]:
    """The results one by one, and those in stacks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(muon, "stack_limit", lambda device: 1 << 20)
        in_stacks = orthogonalize_all(_matrices())
    return orthogonalize_all(_matrices()) + in_stacks


def _matrices() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(m, n, generator=generator)
        for m, n in ((6, 9), (9, 6), (4, 4), (1, 7), (4, 4), (6, 9), (4, 4))
    ]


def _orthogonalize_in_a_group(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size
    )
    torch.save(_orthogonalized(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
