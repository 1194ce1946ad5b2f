"""Making the networks of a pipeline from the tensors of a single file, each complete to the tensor.

The tensors get their places from diffusers' own converters. They are followed through these, so
that a tensor without a place, and a place without a tensor, are errors that name them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import ModelError, UnsupportedModel, as_model_error
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder, read_json
from nightpress.diffusion_core.models.single_file import gguf_weights
from nightpress.diffusion_core.models.single_file.folder import component_of_file
from nightpress.diffusion_core.models.single_file.reading import (
    NOT_TAKEN,
    PARTS,
    Part,
    SingleFile,
    read_single_file,
)
from nightpress.diffusion_core.models.tensor_headers import TensorHeader, listed
from nightpress.diffusion_core.silence_libraries import errors_only, no_progress_bars

CONVERT = "give the tensors of a single file their places in its networks"
UTILS, MODELS = "diffusers.loaders.single_file_utils", "diffusers.loaders.single_file_model"

LDM_UNET = next(each.prefix for each in PARTS if each.layout == "denoiser")

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""safetensors' name of a type of real numbers -> torch's."""

Tensors = dict[str, Any]


def is_in_checkpoint(model: PipelineFolder, component: str) -> bool:
    """Whether the weights of a network are in the model's single file, and not in a folder."""
    return model.checkpoint is not None and not any(
        path.suffix in (".safetensors", ".bin") for path in (model.path / component).iterdir()
    )


def read_checkpoint(model: PipelineFolder) -> SingleFile:
    """The tensors of a model's single file.

    Raises:
        ModelError: as `read_single_file`.
    """
    if model.checkpoint is None:
        raise ModelError(f"{model.shown}: there is no single file")
    return read_single_file(model.checkpoint, model.shown)


def check_all_used(file: SingleFile, model: PipelineFolder) -> None:
    """Refuse a file with tensors for which the pipeline has no network.

    Raises:
        ModelError: the message names the first of them.
    """
    taken = {component_of_file(name, model.components) for name in model.components}
    extra = set(file.homeless)
    for component, (_, headers) in file.parts.items():
        if component not in taken:
            extra |= headers.keys()
    if extra:
        raise ModelError(
            f"{len(extra)} of the {len(file.all_headers)} tensors have no place in a "
            f"{model.class_name}: {listed(extra)}"
        )


def check_network(file: SingleFile, model: PipelineFolder, component: str, kind: Any) -> None:
    """Check without loading a weight that the file holds exactly the weights of a network.

    Args:
        file: the tensors of the file.
        model: the folder with the configurations.
        component: the pipeline's name of the network.
        kind: the network's class.

    Raises:
        UnsupportedModel: diffusers has no converter for such a network.
        ModelError: a tensor is missing, surplus, of another shape, or whole numbers.
    """
    import torch

    from nightpress.diffusion_core.models.traced_tensors import TracedTensor

    part, headers = file.parts[component_of_file(component, model.components)]
    tensors: Tensors = {
        name: TracedTensor.of(
            torch.empty(header.shape, dtype=_dtype_of(header), device="meta"),
            frozenset({name}),
            set(),
        )
        for name, header in headers.items()
    }
    own = _skeleton(kind, model.path / component)
    where = kind.__name__
    placed = _converted(tensors, part, kind, own, model.path / component)
    _require_complete(placed, own, headers, where)


def load_network(
    file: SingleFile,
    model: PipelineFolder,
    component: str,
    kind: Any,
    dtype: Any,
    dequantize: bool = False,
) -> Any:
    """Load a network from its tensors in the file onto the CPU.

    Args:
        file, model, component, kind: as for `check_network`.
        dtype: torch's type of the weights that are not quantised; None for that of the file, or the
            widest of several.
        dequantize: give the weights that a GGUF file has quantised this type, too.

    Raises:
        ModelError: as `check_network`, or its class refuses the configuration.
    """
    check_network(file, model, component, kind)
    part, headers = file.parts[component_of_file(component, model.components)]
    folder = model.path / component
    own = _skeleton(kind, folder)
    placed = _converted(_read_tensors(file, headers), part, kind, own, folder)
    kept = {name: placed[name] for name in placed if name in own.state_dict()}
    if file.is_gguf:
        kept = gguf_weights.fit(kept, own, kind.__name__, keep=not dequantize)
    dtype = dtype or _widest(kept.values())
    more = gguf_weights.loading_arguments(kept, dtype) if file.is_gguf else {}
    with as_model_error(f"cannot load {kind.__name__}"), no_progress_bars(), errors_only():
        if hasattr(kind, "config_class"):
            config = kind.config_class.from_pretrained(folder)
            return kind.from_pretrained(None, config=config, state_dict=kept, dtype=dtype).eval()
        more |= {"config": str(model.path), "subfolder": component, "local_files_only": True}
        return kind.from_single_file(kept, dtype=dtype, **more)


def _skeleton(kind: Any, folder: Path) -> Any:
    """The network without weights."""
    import torch

    with as_model_error(f"not a valid {kind.__name__}"), torch.device("meta"), errors_only():
        if hasattr(kind, "config_class"):
            return kind(kind.config_class.from_pretrained(folder))
        return kind.from_config(read_json(folder / "config.json"))


def _converted(tensors: Tensors, part: Part, kind: Any, own: Any, folder: Path) -> Tensors:
    """The tensors by their names in the network.

    Args:
        tensors: those of the part, by their names in the file.
        part: which part of the file they are.
        kind: the network's class.
        own: the network, without weights.
        folder: with its configuration.
    """
    bare = {name.removeprefix(part.prefix): value for name, value in tensors.items()}
    if bare.keys() == own.state_dict().keys():
        return bare
    broken = f"its tensors are not those of a {kind.__name__}"
    with as_model_error(broken), errors_only():
        match part.layout:
            case "clip" | "t5":
                placed = _text_encoder(bare, own)
            case "open_clip":
                placed = _open_clip(bare, own)
            case _:
                placed = _by_diffusers(bare, part, kind, folder)
    has_wrapper = hasattr(own, "text_model") or part.layout not in ("clip", "open_clip")
    return placed if has_wrapper else {k.removeprefix("text_model."): placed[k] for k in placed}


def _text_encoder(bare: Tensors, own: Any) -> Tensors:
    """A text encoder in transformers' own layout, or in that of its first versions."""
    import torch

    inner = ("text_model.", "text_projection", "logit_scale")
    is_old = any(name.startswith(("embeddings.", "final_layer_norm.")) for name in bare)
    placed = {
        f"text_model.{name}" if is_old and not name.startswith(inner) else name: value
        for name, value in bare.items()
    }
    projection = "text_projection.weight"
    if projection in own.state_dict() and projection not in placed:
        # As ComfyUI's files of SD3 have it: the pooled output of this CLIP is not projected.
        width = own.config.hidden_size
        dtype = next(iter(bare.values())).dtype
        placed[projection] = torch.eye(width, dtype=dtype, device=next(iter(bare.values())).device)
    return placed


def _open_clip(bare: Tensors, own: Any) -> Tensors:
    """A text encoder in OpenCLIP's layout.

    Read against diffusers 0.42.1. Relies on `convert_open_clip_checkpoint`, which takes the width
    from the projection, or from the configuration.
    """
    convert = patching.require(UTILS, "convert_open_clip_checkpoint", CONVERT)
    # Under this prefix the converter itself leaves out nothing.
    prefix = "open_clip."
    placed: Tensors = convert(own, {prefix + k: bare[k] for k in bare}, prefix=prefix)
    return placed


def _by_diffusers(bare: Tensors, part: Part, kind: Any, folder: Path) -> Tensors:
    """A denoiser or a VAE, by the converter that diffusers has for its class.

    Read against diffusers 0.42.1. Relies on `SINGLE_FILE_LOADABLE_CLASSES`, on the name of its
    converters' key, on `_get_single_file_loadable_mapping_class`, and on the prefix that the
    converter of U-Nets looks for.
    """
    loadable = patching.require(MODELS, "SINGLE_FILE_LOADABLE_CLASSES", CONVERT)
    find = patching.require(MODELS, "_get_single_file_loadable_mapping_class", CONVERT)
    name = find(kind)
    if name is None:
        raise UnsupportedModel(f"diffusers has no converter for a {kind.__name__}")
    try:
        convert = loadable[name]["checkpoint_mapping_fn"]
    except KeyError as error:
        what = f"{MODELS} has no checkpoint_mapping_fn for {name}"
        raise patching.incompatible(kind, what, CONVERT) from error
    prefix = LDM_UNET if name == "UNet2DConditionModel" else ""
    held = {prefix + key: value for key, value in bare.items()}
    placed: Tensors = convert(checkpoint=held, config=read_json(folder / "config.json"))
    return {key: value for key, value in placed.items() if value is not None}


def _require_complete(
    placed: Tensors, own: Any, headers: Mapping[str, TensorHeader], where: str
) -> None:
    """Refuse tensors that are not exactly the network's."""
    from nightpress.diffusion_core.models.traced_tensors import sources_of

    needed = own.state_dict()
    tied = getattr(own, "_tied_weights_keys", None) or {}
    copies = {copy for copy, source in dict(tied).items() if source in placed}
    if missing := needed.keys() - placed.keys() - copies:
        raise ModelError(
            f"{len(missing)} of the {len(needed)} tensors of {where} are missing: {listed(missing)}"
        )
    wrong = [name for name in needed if name in placed and placed[name].shape != needed[name].shape]
    if wrong:
        first = min(wrong)
        raise ModelError(
            f"{len(wrong)} tensors have another shape than the configuration gives {where}: "
            f"{listed(wrong)}; {first} is {tuple(placed[first].shape)}, not "
            f"{tuple(needed[first].shape)}"
        )
    used = sources_of([placed[name] for name in placed if name in needed])
    left_out = NOT_TAKEN.get(where, frozenset())
    extra = {name for name in headers if name.removeprefix(LDM_UNET) not in left_out} - used
    if extra:
        raise ModelError(
            f"{len(extra)} of its {len(headers)} tensors have no place in {where} as the "
            f"configuration describes it: {listed(extra)}"
        )
    real = [placed[name] for name in needed if name in placed and needed[name].is_floating_point()]
    if whole := {name for name in sources_of(real) if not _is_real(headers[name])}:
        raise ModelError(
            f"{len(whole)} of its {len(headers)} tensors are stored as whole numbers "
            f"({headers[min(whole)].dtype}): {listed(whole)}"
        )


def _is_real(header: TensorHeader) -> bool:
    return header.is_quantized or header.dtype in DTYPES


def _read_tensors(file: SingleFile, headers: Mapping[str, TensorHeader]) -> Tensors:
    """Tensors of a file; those of a safetensors file are in its own pages until they change."""
    from safetensors import safe_open

    if file.is_gguf:
        return gguf_weights.read_tensors(file.path, headers)
    with safe_open(file.path, framework="pt") as tensors:
        return {name: tensors.get_tensor(name) for name in headers}


def _dtype_of(header: TensorHeader) -> Any:
    import torch

    name = "float32" if header.is_quantized else DTYPES.get(header.dtype)
    return torch.int64 if name is None else getattr(torch, name)


def _widest(tensors: Iterable[Any]) -> Any:
    """The type that holds the values of all tensors."""
    import functools

    import torch

    found = {value.dtype for value in tensors if value.is_floating_point()}
    real = {dtype if dtype.itemsize > 1 else torch.bfloat16 for dtype in found}
    return functools.reduce(torch.promote_types, real)
