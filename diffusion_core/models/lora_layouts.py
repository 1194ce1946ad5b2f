"""LoRA files whose layers diffusers cannot read, rewritten as LoRAs that make the same change.

LoHa and LoKr are products of small matrices too, only not of two: here their factors are multiplied
until two are left, so that peft's plain LoRA layers hold them. DoRA gets its magnitudes back, which
diffusers leaves out. Files of cloneofsimo/lora name no layers; their order does.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nightpress.diffusion_core.models.lora_names import NUMBERED

Tensors = Mapping[str, Any]
Translate = Callable[[Tensors], Any]
"""Takes the tensors of a file by name; returns those for diffusers, or a tuple that begins with
them."""

Factors = tuple[Tensor, Tensor]
"""`up` (out, r) and `down` (r, in), whose product is the change of a layer's weight."""

DOWN = ("_lora.down.weight", ".lora.down.weight")
"""How the name of a U-Net's factor ends, once diffusers has translated it from kohya's layout."""

CLIP_ORDER = ("k_proj", "v_proj", "q_proj", "out_proj")
ATTENTION = tuple(
    f"{attention}.{layer}"
    for attention in ("attn1", "attn2")
    for layer in ("to_q", "to_k", "to_v", "to_out.0")
)
FEED_FORWARD = ("ff.net.0.proj",)
BLOCK_ORDERS = (
    ATTENTION,
    (*ATTENTION, *FEED_FORWARD),
    (*ATTENTION[:4], *FEED_FORWARD, *ATTENTION[4:]),
)
"""The layers of a transformer block in the orders that cloneofsimo/lora has found them in: without
GEGLU, and with it after or between the attentions, by the version of diffusers."""

STAGES = ("down_blocks", "up_blocks", "mid_block")
"""The stages of a U-Net in the order in which it registers them."""


def numbered(values: Sequence[Tensor]) -> dict[str, Tensor]:
    """The tensors of a list by cloneofsimo/lora, which holds `up` and `down` of each layer in turn.

    Raises:
        ValueError: the list holds something else.
    """
    if not values or len(values) % 2 or not all(isinstance(each, Tensor) for each in values):
        raise ValueError("it holds a list that is not the pairs of tensors of cloneofsimo/lora")
    return {
        f"{place // 2}:{'down' if place % 2 else 'up'}": value.detach()
        for place, value in enumerate(values)
    }


def translation(pipeline: Any, translate: Translate, tensors: Tensors) -> Translate:
    """The function that makes diffusers' tensors of those of a file.

    Args:
        pipeline: the pipeline that the LoRA is for.
        translate: diffusers' own translation.
        tensors: the tensors of the file, which decide how it is read.

    Raises:
        ValueError: the file does not fit the pipeline.
    """
    if all(NUMBERED.match(name) for name in tensors):
        layers = _layers_by_order(pipeline, tensors)
        return lambda held: translate(_named(held, layers))

    def act(held: Tensors) -> Any:
        magnitudes = {_layer(n): held[n] for n in held if n.endswith(".dora_scale")}
        pairs = _as_pairs(held)
        result = translate(dict(pairs))
        found, *rest = result if isinstance(result, tuple) else (result,)
        found = _with_kernels(pipeline, found) | _magnitudes(magnitudes, pairs, found)
        return (found, *rest)

    return act


def _layer(name: str) -> str:
    return name.partition(".")[0]


# cloneofsimo/lora


def _layers_by_order(pipeline: Any, tensors: Tensors) -> dict[str, str]:
    """What stands before the colon of the factor, such as `unet:12` or `12` -> the layer's name."""
    counts: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
    for name in tensors:
        match = NUMBERED.match(name)
        assert match is not None  # noqa: S101 - the caller has looked
        part, number = match["part"] or "", int(match["number"])
        if match["factor"] == "up" and name.removesuffix("up") + "down" in tensors:
            down = tensors[name.removesuffix("up") + "down"]
            counts[part][number] = int(tensors[name].shape[0]), int(down.shape[1])
    found: dict[str, str] = {}
    for part, sizes in counts.items():
        prefix = f"{part}:" if part else ""
        names = _matching_order(pipeline, part, [sizes[number] for number in sorted(sizes)])
        pairs = zip(sorted(sizes), names, strict=True)
        found |= {f"{prefix}{number}": name for number, name in pairs}
    return found


def _matching_order(pipeline: Any, part: str, sizes: list[tuple[int, int]]) -> list[str]:
    """The names of the layers whose sizes are these, in one of the known orders."""
    for component, names in _orders(pipeline):
        network = getattr(pipeline, component, None)
        if network is None or part not in ("", component):
            continue
        if [_size(network.get_submodule(name)) for name in names] == sizes:
            return [f"{component}.{name}" for name in names]
    raise ValueError(
        f"its {len(sizes)} layers, in the order of cloneofsimo/lora, are not those of the model's "
        "attention"
    )


def _orders(pipeline: Any) -> Iterator[tuple[str, list[str]]]:
    """Each component with its layers, in each of the orders that there may be."""
    for order in BLOCK_ORDERS:
        blocks = _names_of(getattr(pipeline, "unet", None), "BasicTransformerBlock")
        blocks.sort(key=lambda name: STAGES.index(name.partition(".")[0]))
        yield "unet", [f"{block}.{layer}" for block in blocks for layer in order]
    for component in ("text_encoder", "text_encoder_2"):
        attentions = _names_of(getattr(pipeline, component, None), "CLIPAttention")
        yield component, [f"{name}.{layer}" for name in attentions for layer in CLIP_ORDER]


def _names_of(network: Any, class_name: str) -> list[str]:
    modules = network.named_modules() if isinstance(network, nn.Module) else ()
    return [name for name, module in modules if type(module).__name__ == class_name]


def _size(module: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear layer, also inside peft's layer around it."""
    weight = getattr(module, "base_layer", module).weight
    return int(weight.shape[0]), int(weight.shape[1])


def _named(tensors: Tensors, layers: Mapping[str, str]) -> dict[str, Any]:
    """Tensors under diffusers' names; one of no layer keeps its own, and so has no effect."""
    ends = {"up": "lora_B.weight", "down": "lora_A.weight"}
    named = {}
    for name, value in tensors.items():
        layer, _, factor = name.rpartition(":")
        named[f"{layers[layer]}.{ends[factor]}" if layer in layers else name] = value
    return named


# LoHa and LoKr


def _as_pairs(tensors: Tensors) -> dict[str, Any]:
    """The file in kohya's layout with two factors for each layer, and without magnitudes."""
    layers: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in tensors.items():
        layer, _, factor = name.partition(".")
        layers[layer][factor] = value
    made: dict[str, Any] = {}
    for layer, parts in layers.items():
        kept = {factor: value for factor, value in parts.items() if factor != "dora_scale"}
        factors = _factors(kept)
        if factors is not None:
            kept |= {"lora_up.weight": factors[0], "lora_down.weight": factors[1]}
        made |= {f"{layer}.{factor}": value for factor, value in kept.items()}
    return made


def _factors(parts: dict[str, Any]) -> Factors | None:
    """The two factors of a layer; takes what they are made of out of `parts`."""
    if any(factor.startswith("hada_") for factor in parts):
        return _loha(parts)
    if any(factor.startswith("lokr_") for factor in parts):
        return _lokr(parts)
    return None


def _loha(parts: dict[str, Any]) -> Factors:
    """LoHa: the change is (w1_a w1_b) * (w2_a w2_b), element by element.

    References: Hyeon-Woo et al. 2022 (FedPara), proposition 2; Slyusar 1999 for the products of
    rows and of columns, of which the factors are made.
    """
    a, b = (_taken(parts, f"hada_w{number}_a") for number in (1, 2))
    c, d = (_taken(parts, f"hada_w{number}_b") for number in (1, 2))
    scale = _scale(parts, rank=len(c))
    if "hada_t1" in parts:
        cores = (_taken(parts, "hada_t1"), a, c), (_taken(parts, "hada_t2"), b, d)
        first, second = (_from_core(*each) for each in cores)
        return _of_product(scale * (first * second).flatten(1))
    if len(c) * len(d) >= min(len(a), c.shape[1]):
        return _of_product(scale * (a @ c) * (b @ d))
    up = torch.einsum("or,os->ors", a, b).flatten(1)
    down = torch.einsum("ri,si->rsi", c, d).flatten(0, 1)
    return scale * up, down


def _lokr(parts: dict[str, Any]) -> Factors:
    """LoKr: the change is the Kronecker product of w1 and w2, each whole or of two factors.

    References: Yeh et al. 2024 (LyCORIS), section 3.1; (A B) x (C D) = (A x C)(B x D), Van Loan
    2000, section 2.
    """
    ranks = [len(parts[f"lokr_w{n}_b"]) for n in (1, 2) if f"lokr_w{n}_b" in parts]
    scale = _scale(parts, rank=ranks[-1] if ranks else None)
    if "lokr_t2" in parts:
        core, a, b = (_taken(parts, f"lokr_{name}") for name in ("t2", "w2_a", "w2_b"))
        parts["lokr_w2"] = _from_core(core, a, b)
    (a, b), (c, d) = (_lokr_side(parts, f"lokr_w{number}") for number in (1, 2))
    if len(b) * len(d) >= min(len(a) * len(c), b.shape[1] * d.shape[1]):
        return _of_product(scale * torch.kron(a @ b, c @ d))
    return scale * torch.kron(a, c), torch.kron(b, d)


def _lokr_side(parts: dict[str, Any], name: str) -> Factors:
    """One of the two matrices of a LoKr, (m, n), as two factors; one may be the identity."""
    if name in parts:
        whole = _taken(parts, name).flatten(1)
        return (
            (whole, torch.eye(whole.shape[1]))
            if len(whole) >= whole.shape[1]
            else (
                torch.eye(len(whole)),
                whole,
            )
        )
    return _taken(parts, f"{name}_a"), _taken(parts, f"{name}_b")


def _from_core(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A convolution (o, i, h, w) in Tucker's form: core (r, s, h, w), a (r, o) and b (s, i)."""
    return torch.einsum("rshw,ro,si->oihw", core, a, b)


def _of_product(change: Tensor) -> Factors:
    """A whole change (out, in) as two factors, of which the smaller one is the identity."""
    outputs, inputs = change.shape
    return (torch.eye(outputs), change) if outputs <= inputs else (change, torch.eye(inputs))


def _taken(parts: dict[str, Any], name: str) -> Tensor:
    """A factor in float32, so that products of halves lose nothing."""
    try:
        value: Tensor = parts.pop(name)
    except KeyError:
        raise ValueError(f"one of its layers has no {name}, but others of its factors") from None
    return value.float()


def _scale(parts: dict[str, Any], rank: int | None) -> float:
    """alpha / rank; 1 without an alpha, or where no factor has a rank, as LyCORIS has it."""
    alpha = parts.pop("alpha", None)
    value = None if alpha is None else float(alpha.item())
    return 1.0 if value is None or rank is None else value / rank


# What diffusers' translation lacks


def _with_kernels(pipeline: Any, tensors: Tensors) -> dict[str, Any]:
    """The tensors with the factors of convolutions in the shapes that peft's layers have."""
    return {name: _with_kernel(pipeline, name, value) for name, value in tensors.items()}


def _with_kernel(pipeline: Any, name: str, value: Tensor) -> Tensor:
    layer, _, factor = name.removesuffix(".weight").rpartition(".lora.")
    if value.ndim != 2 or factor not in ("down", "up"):
        return value
    component, _, path = layer.partition(".")
    try:
        module = getattr(pipeline, component).get_submodule(path)
    except AttributeError:  # the model has no such layer, which is found out later
        return value
    module = getattr(module, "base_layer", module)
    if not isinstance(module, nn.Conv2d):
        return value
    shape = (-1, value.shape[1], 1, 1) if factor == "up" else (-1, *module.weight.shape[1:])
    return value.reshape(shape)


def _magnitudes(magnitudes: Tensors, pairs: Tensors, translated: Tensors) -> dict[str, Any]:
    """DoRA's magnitudes (Liu et al. 2024, eq. 5) under the names that diffusers has for them.

    Args:
        magnitudes: layer of the file -> its magnitudes.
        pairs: what was translated; `translated` holds the same tensors under other names.

    Raises:
        ValueError: they are of inputs, which peft has no layers for, or of unknown layers.
    """
    names = {id(value): name for name, value in translated.items() if name.endswith(DOWN)}
    made = {}
    for layer, value in magnitudes.items():
        name = names.get(id(pairs.get(f"{layer}.lora_down.weight")))
        if name is None:
            raise ValueError(f"it is a DoRA, and diffusers would ignore the magnitudes of {layer}")
        if value.shape[0] == 1 and value.numel() > 1:
            raise ValueError(
                f"it is a DoRA with the magnitudes of inputs ({layer}); only those of outputs "
                "(wd_on_output) can be loaded"
            )
        end = next(end for end in DOWN if name.endswith(end))
        made[name.removesuffix(end) + ".lora_magnitude_vector.weight"] = (
            value.flatten() if value.ndim == 2 else value.reshape(1, -1, 1, 1)
        )
    return made
