"""Loading the networks of a pipeline, each of them complete to the tensor.

diffusers and transformers fill what a weight file lacks with random numbers, leave out what a
configuration does not ask for, and log both. Here either is an error that names the tensors.
"""

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from nightpress.diffusion_core.errors import (
    IncompatibleLibrary,
    ModelError,
    ModelNotFound,
    UnsafeWeights,
    as_model_error,
    naming,
)
from nightpress.diffusion_core.models import weight_files
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.single_file import networks as single_file
from nightpress.diffusion_core.models.single_file.reading import SingleFile
from nightpress.diffusion_core.models.tensor_headers import TensorHeader, listed, read_all_headers
from nightpress.diffusion_core.silence_libraries import errors_only, no_progress_bars

OTHER_PARTS = re.compile(
    r"^(?:model\.)?(?:vision_model|vision_tower|visual|visual_projection|text_projection|"
    r"multi_modal_projector|logit_scale|logit_bias|decoder|lm_head)(?:\.|$)"
)
"""Matches the tensors of published models that have more parts than the text encoder in them."""

OTHER_PARTS_OF_VISION = re.compile(r"^(?:text_model|text_projection|logit_scale)(?:\.|$)")
"""Matches the tensors of a whole CLIP that its image encoder does not have."""


def load_networks(
    model: PipelineFolder, variant: str | None, allow_pickle: bool, dtype: Any
) -> dict[str, Any]:
    """Load every network of a saved pipeline onto the CPU, by the pipeline's names.

    Args:
        model: the pipeline's folder.
        variant: of the weight files; None for the plain ones.
        allow_pickle: whether pickled weights may be read.
        dtype: torch's type of the weights.

    Raises:
        ModelError: a network cannot be loaded, or its files do not hold exactly its weights; the
            message is one line.
    """
    return {
        name: load_one(model, name, variant, allow_pickle, dtype) for name in network_names(model)
    }


def network_names(model: PipelineFolder) -> list[str]:
    """The components of a saved pipeline that are networks."""
    return [name for name, _ in _network_classes(model)]


def load_one(
    model: PipelineFolder,
    name: str,
    variant: str | None,
    allow_pickle: bool,
    dtype: Any,
    dequantize: bool = False,
) -> Any:
    """Load one network of a saved pipeline, as `load_networks` does.

    Args:
        model, variant, allow_pickle: as for `load_networks`.
        name: the pipeline's name of the network.
        dtype: torch's type of the weights; None for that of their files.
        dequantize: give the weights that a GGUF file has quantised this type, too.

    Raises:
        ModelError: as `load_networks`.
    """
    kind = dict(_network_classes(model))[name]
    checkpoint = _checkpoint(model)
    with _named(model, name):
        if checkpoint is not None and single_file.is_in_checkpoint(model, name):
            return single_file.load_network(checkpoint, model, name, kind, dtype, dequantize)
        files = weight_files.weight_files(model.path / name, variant, allow_pickle)
        return load_network(kind, model.path / name, files, dtype=dtype)


def check_networks(model: PipelineFolder, variant: str | None, allow_pickle: bool) -> None:
    """Check without loading a weight that the files of each network hold exactly its weights.

    Without accelerate, which makes networks without weights, only the headers of the files and
    their indexes are checked; `load_networks` checks the rest. It also checks
    what a single pickle lacks.

    Raises:
        ModelError: as `load_networks`.
    """
    checkpoint = _checkpoint(model)
    for name, kind in _network_classes(model):
        with _named(model, name):
            if checkpoint is not None and single_file.is_in_checkpoint(model, name):
                single_file.check_network(checkpoint, model, name, kind)
                continue
            files = weight_files.weight_files(model.path / name, variant, allow_pickle)
            check_network(kind, model.path / name, files)


def _checkpoint(model: PipelineFolder) -> SingleFile | None:
    """The model's single file, all of whose tensors have a network; None for any other folder."""
    if model.checkpoint is None:
        return None
    file = single_file.read_checkpoint(model)
    with naming(f"{model.shown}: cannot load {model.class_name}"):
        single_file.check_all_used(file, model)
    return file


def check_network(kind: Any, folder: Path, files: Sequence[Path]) -> None:
    """Check one network as `check_networks` does; the arguments are those of `load_network`."""
    can_skip_weights = importlib.util.find_spec("accelerate") is not None
    headers = read_all_headers(folder, files)
    if can_skip_weights and headers:
        load_network(kind, folder, files, device_map="meta")


def load_network(kind: Any, folder: Path, files: Sequence[Path], **settings: Any) -> Any:
    """Load one network of diffusers or transformers from its files.

    Args:
        kind: its class.
        folder: where `save_pretrained` wrote it.
        files: its weight files, as `weight_files.weight_files` finds them.
        settings: further arguments of `from_pretrained`, such as `dtype`.

    Raises:
        ModelError: a file is damaged, or the files do not hold exactly the network's weights.
    """
    headers = read_all_headers(folder, files)
    if settings.get("dtype") is None and (dtype := _stored_dtype(headers)) is not None:
        settings["dtype"] = dtype  # anything else would be converted on the CPU
    with as_model_error(f"cannot load {kind.__name__}"), no_progress_bars(), errors_only():
        network, report = kind.from_pretrained(
            folder,
            variant=weight_files.variant_of(files[0]),
            use_safetensors=all(file.suffix == ".safetensors" for file in files) or None,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **settings,
        )
    _require_complete(network, report, files, on_meta=settings.get("device_map") == "meta")
    _require_floating(network, headers)
    return network


def require_finite(pipeline: Any, failure: str) -> None:
    """Refuse a pipeline some of whose weights are not numbers.

    Args:
        pipeline: the pipeline, on its device.
        failure: the beginning of the error's message.

    Raises:
        ModelError: a weight is NaN or infinite, in its file or because the type of the weights
            cannot hold it.
    """
    from torch import nn

    for name, network in pipeline.components.items():
        if isinstance(network, nn.Module):
            require_finite_weights(network, f"{failure}: {name}")


def require_finite_weights(network: Any, failure: str) -> None:
    """Refuse a network some of whose weights are not numbers; stored buffers count as weights.

    Raises:
        ModelError: as `require_finite`.
    """
    import torch

    stored = network.state_dict().keys()
    buffers = {key: value for key, value in network.named_buffers() if key in stored}
    tensors = {**dict(network.named_parameters()), **buffers}
    weights = {key: value for key, value in tensors.items() if _can_test(value)}
    wrong = [
        key
        for key, value in weights.items()
        # One pass without a temporary tensor; NaN is the least and the greatest of all.
        if not torch.stack(torch.aminmax(value.detach())).isfinite().all()
    ]
    if wrong:
        dtype = str(weights[wrong[0]].dtype).removeprefix("torch.")
        raise ModelError(
            f"{failure}: {len(wrong)} of its {len(weights)} weights hold NaN or infinity in "
            f"{dtype}: {listed(wrong)}"
        )


def _can_test(value: Any) -> bool:
    from torch import Tensor, nn

    if type(value) not in (Tensor, nn.Parameter):  # packages' own types of quantised weights
        return False
    is_plain = value.is_floating_point() and value.element_size() > 1  # not in eight bits
    return bool(is_plain and value.numel() and not value.is_meta)


def _require_complete(
    network: Any, report: Mapping[str, Any], files: Sequence[Path], on_meta: bool
) -> None:
    """Refuse a network some of whose weights do not come from its files."""
    kind, where = type(network).__name__, _file_names(files)
    num_tensors = len(network.state_dict())
    lost = set(report["missing_keys"])
    if not on_meta:
        lost |= {name for name, value in network.named_parameters() if value.is_meta}
    misshapen = {
        str(key): (tuple(held), tuple(own)) for key, held, own in report["mismatched_keys"]
    }
    if missing := lost - set(misshapen):
        raise ModelError(
            f"{len(missing)} of the {num_tensors} tensors of {kind} are missing from {where}: "
            f"{listed(missing)}"
        )
    if misshapen:
        first = min(misshapen)
        held, own = misshapen[first]
        raise ModelError(
            f"{where} holds {_tensors(misshapen)} of another shape than config.json gives {kind}: "
            f"{listed(misshapen)}; {first} is {held}, not {own}"
        )
    if surplus := _surplus(network, report["unexpected_keys"]):
        raise ModelError(
            f"{where} holds {_tensors(surplus)} without a place in {kind} as config.json "
            f"describes it: {listed(surplus)}"
        )


def _surplus(network: Any, names: Sequence[str]) -> list[str]:
    """The tensors among `names` that the network should have used.

    Left out are buffers that networks compute today and older files hold, and the other parts of a
    published model of which the pipeline takes one.
    """
    buffers = {name.rpartition(".")[2] for name, _ in network.named_buffers()}
    parts = {name for name, _ in network.named_children()}
    others = OTHER_PARTS_OF_VISION if "vision_model" in parts else OTHER_PARTS
    return [
        name
        for name in names
        if name.rpartition(".")[2] not in buffers
        and not (others.match(name) and parts.isdisjoint(name.split(".")[:2]))
    ]


def _require_floating(network: Any, headers: Mapping[str, TensorHeader]) -> None:
    """Refuse files that hold integers where the network has real numbers."""
    if getattr(network, "hf_quantizer", None) is not None:
        return
    tensors = [*network.named_buffers(), *network.named_parameters()]
    whole = {name.rpartition(".")[2] for name, value in tensors if not value.is_floating_point()}
    wrong = [
        name
        for name, header in headers.items()
        if not header.is_floating and name.rpartition(".")[2] not in whole
    ]
    if wrong:
        raise ModelError(
            f"{len(wrong)} of the {len(headers)} tensors of {type(network).__name__} are stored as "
            f"whole numbers ({headers[min(wrong)].dtype}): {listed(wrong)}"
        )


def _network_classes(model: PipelineFolder) -> Iterator[tuple[str, Any]]:
    """The name and class of each component that diffusers loads as a network."""
    from diffusers import pipelines
    from torch import nn

    for name, class_name in model.components.items():
        library = model.index[name][0]
        if weight_files.NOT_WEIGHTS.search(class_name):
            continue
        with as_model_error(f"{model.shown}: {name}: no class {class_name} in {library}"):
            owner = getattr(pipelines, library, None) or importlib.import_module(library)
            kind = getattr(owner, class_name)
        if issubclass(kind, nn.Module) and hasattr(kind, "from_pretrained"):
            yield name, kind


def _stored_dtype(headers: Mapping[str, TensorHeader]) -> Any:
    """torch's type of the floating-point tensors in a file; None if there are several, or none."""
    import torch

    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    found = {header.dtype for header in headers.values() if header.is_floating}
    return types.get(found.pop()) if len(found) == 1 else None


def _file_names(files: Sequence[Path]) -> str:
    return files[0].name if len(files) == 1 else f"the set of {len(files)} files"


def _tensors(names: Sized) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


@contextlib.contextmanager
def _named(model: PipelineFolder, component: str) -> Iterator[None]:
    """Begin the message of a ModelError with the pipeline and the component."""
    try:
        yield
    except (ModelNotFound, UnsafeWeights, IncompatibleLibrary):
        raise
    except ModelError as error:
        raise ModelError(
            f"{model.shown}: cannot load {model.class_name}: {component}: {error}"
        ) from error
