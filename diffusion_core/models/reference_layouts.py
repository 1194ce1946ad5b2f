"""What the file of an IP-Adapter holds, and whether all of it has a place in a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nightpress.diffusion_core.errors import ModelError, UnsupportedModel, as_model_error
from nightpress.diffusion_core.models import pipeline_folder
from nightpress.diffusion_core.models.modes import modes_of, takes_adapters
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.tensor_headers import TensorHeader, listed, read_headers

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor, as diffusers passes it on, -> its shape."""

FACE_ID = "FaceID"
FLUX = "FLUX"
SD3 = "Stable Diffusion 3"
U_NET = "a U-Net"

FAMILY_BY_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
"""Width of the keys of an adapter for a U-Net -> the published models that have it."""

PREFIXES = {
    "image_proj": ("image_proj.", "ip_adapter_proj_model."),
    "ip_adapter": ("ip_adapter.", "double_blocks."),
}
"""diffusers' name of a part -> how its tensors begin in files, those for FLUX last."""

RENAMED_FOR_FLUX = {
    "ip_adapter_double_stream_k_proj": "to_k_ip",
    "ip_adapter_double_stream_v_proj": "to_v_ip",
    "processor.": "",
}


def check_layouts(
    adapters: Sequence[tuple[str, Path]], encoder: Path, model: PipelineFolder, pipeline_class: Any
) -> None:
    """Refuse adapters that do not fit a model, without loading a weight.

    Args:
        adapters: the name and the weight file of each.
        encoder: the folder of the image encoder.
        model: the folder of a saved pipeline.
        pipeline_class: the pipeline's class.

    Raises:
        UnsupportedModel: the pipeline takes no adapters, or an adapter is for another family.
        ModelError: a file is damaged, or a tensor has no place in the model, or is missing.
    """
    if not takes_adapters(pipeline_class.__name__):
        name = pipeline_class.__name__
        several = "+reference" in "".join(modes_of(name))
        hint = "; it takes reference images as they are" if several else ""
        raise UnsupportedModel(f"IP-Adapter {adapters[0][0]!r}: {name} takes no IP-Adapters{hint}")
    network = _network(pipeline_folder.skeleton(model))
    for name, file in adapters:
        parts = split_parts(name, read_shapes(file))
        _require_family(name, parts, network, pipeline_class.__name__)
        _require_encoder(name, parts["image_proj"], encoder)
        _require_places(name, parts, network, f"{pipeline_class.__name__} {model.path}")


def read_shapes(file: Path) -> Shapes:
    """The tensors of a file, also of a pickle, where the parts are mappings of their own.

    Raises:
        ModelError: the file is damaged.
    """
    if file.suffix == ".safetensors":
        return {name: header.shape for name, header in _floating(file).items()}
    import torch

    with as_model_error(f"{file}: not readable weights"):
        values = torch.load(file, map_location="meta", weights_only=True)
        return {
            f"{part}.{name}": tuple(tensor.shape)
            for part, tensors in values.items()
            for name, tensor in tensors.items()
        }


def _floating(file: Path) -> Mapping[str, TensorHeader]:
    headers = read_headers(file)
    if whole := [name for name, header in headers.items() if not header.is_floating]:
        raise ModelError(f"{file}: {len(whole)} tensors are whole numbers: {listed(whole)}")
    return headers


def split_parts(name: str, shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """`image_proj` and `ip_adapter` -> their tensors, under the names that diffusers gives them.

    Raises:
        UnsupportedModel: the file holds something else.
    """
    parts: dict[str, dict[str, tuple[int, ...]]] = {part: {} for part in PREFIXES}
    others = []
    for key, shape in shapes.items():
        part = next((part for part, begin in PREFIXES.items() if key.startswith(begin)), None)
        if part is None:
            others.append(key)
            continue
        rest = key.partition(".")[2]
        for old, new in RENAMED_FOR_FLUX.items():
            rest = rest.replace(old, new)
        parts[part][rest] = shape
    if others or not all(parts.values()):
        found = listed(others or shapes) or "none"
        raise UnsupportedModel(
            f"IP-Adapter {name!r}: the file must hold an image projection and an adapter, and "
            f"nothing else; other tensors: {found}"
        )
    return parts


def family_of(parts: Mapping[str, Shapes]) -> str:
    """The kind of model that an adapter is made for: `FLUX`, `FaceID`, ... or `a U-Net`."""
    projection, adapter = parts["image_proj"], parts["ip_adapter"]
    is_face = "norm.weight" in projection and "proj.2.weight" in projection
    if any("_lora." in name for name in adapter) or is_face or _begins(projection, "perceiver"):
        return FACE_ID
    if _begins(projection, "time_embedding") or any("norm_ip" in name for name in adapter):
        return SD3
    return FLUX if "0.to_k_ip.bias" in adapter else U_NET


def _begins(shapes: Shapes, text: str) -> bool:
    return any(name.startswith(text) for name in shapes)


def _network(skeleton: Any) -> Any:
    """The network that takes the adapters."""
    unet = getattr(skeleton, "unet", None)
    return getattr(skeleton, "transformer", None) if unet is None else unet


def _require_family(
    name: str, parts: Mapping[str, Shapes], network: Any, pipeline_class: str
) -> None:
    family = family_of(parts)
    if family == FACE_ID:
        raise UnsupportedModel(
            f"IP-Adapter {name!r}: it is a FaceID adapter, which takes the embedding of a face "
            "from another program and not a picture"
        )
    expected = FLUX if pipeline_class.startswith("Flux") else U_NET
    width = next(shape[1] for key, shape in parts["ip_adapter"].items() if key.endswith("weight"))
    known = FAMILY_BY_WIDTH.get(width)
    if family != expected:
        made_for = known if family == U_NET and known else family
        raise UnsupportedModel(f"IP-Adapter {name!r}: it is for {made_for}, not {pipeline_class}")
    own = _width(network)
    if family == U_NET and width != own:
        made_for = f"for {known}: " if known else ""
        raise UnsupportedModel(
            f"IP-Adapter {name!r}: it is {made_for}its keys are {width} wide, and those of this "
            f"{pipeline_class} {own}"
        )


def _width(network: Any) -> int:
    config = network.config
    return int(config.get("cross_attention_dim") or config.get("joint_attention_dim"))


def _require_encoder(name: str, projection: Shapes, folder: Path) -> None:
    """Refuse an image encoder whose embeddings have another width than the adapter takes."""
    from transformers import CLIPVisionConfig

    with as_model_error(f"{folder}: not an image encoder of CLIP"):
        config = CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
    if "proj.weight" in projection:
        wanted, own = projection["proj.weight"][1], config.projection_dim
    else:
        layer = "proj_in.weight" if "proj_in.weight" in projection else "proj.0.weight"
        wanted, own = projection.get(layer, (0, 0))[1], config.hidden_size
    if wanted != own:
        raise ModelError(
            f"IP-Adapter {name!r}: it takes image embeddings {wanted} wide, and the image encoder "
            f"in {folder} gives {own}; name another with `image_encoder`"
        )


def _require_places(name: str, parts: Mapping[str, Shapes], network: Any, misfit_with: str) -> None:
    """Refuse an adapter some of whose tensors have no place in the model, or that lacks some."""
    misfit = f"IP-Adapter {name!r} does not fit {misfit_with}"
    expected = expected_tensors(network)
    held = parts["ip_adapter"]
    if lost := sorted(set(expected) - set(held)):
        raise ModelError(f"{misfit}: {len(lost)} tensors are missing: {listed(lost)}")
    if idle := sorted(set(held) - set(expected)):
        raise ModelError(f"{misfit}: {len(idle)} tensors would have no effect: {listed(idle)}")
    for key, shape in expected.items():
        if held[key] != shape:
            raise ModelError(f"{misfit}: {key} is {held[key]}, not {shape}")
    _load_without_weights(parts, network, misfit)


def expected_tensors(network: Any) -> Shapes:
    """The tensors of an adapter for each attention of a U-Net, or double block of FLUX."""
    if not hasattr(network.config, "cross_attention_dim"):
        inner, width = network.inner_dim, network.config.joint_attention_dim
        return {
            f"{block}.{part}.{kind}": shape
            for block in range(network.config.num_layers)
            for part in ("to_k_ip", "to_v_ip")
            for kind, shape in (("weight", (inner, width)), ("bias", (inner,)))
        }
    layers = [name for name in network.attn_processors if name.endswith("attn2.processor")]
    keys = [network.get_submodule(name.removesuffix(".processor")).to_k.weight for name in layers]
    return {
        f"{2 * number + 1}.{part}.weight": tuple(weight.shape)
        for number, weight in enumerate(keys)
        for part in ("to_k_ip", "to_v_ip")
    }


def _load_without_weights(parts: Mapping[str, Shapes], network: Any, misfit: str) -> None:
    """Let diffusers load an adapter on the meta device; it refuses an incomplete projection."""
    import torch

    with as_model_error(misfit), torch.device("meta"):
        tensors = {
            part: {key: torch.empty(shape) for key, shape in shapes.items()}
            for part, shapes in parts.items()
        }
        network._convert_ip_adapter_image_proj_to_diffusers(
            tensors["image_proj"], low_cpu_mem_usage=False
        )
