"""Networks whose files hold quantised weights: what reads them, and whether they are usable here.

An image must not depend on its companions in a batch, so weights that make one scale or one choice
for a whole batch are refused. What is read is `quantization_config` of a network's config.json.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder

PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "torchao": "torchao",
}
"""`quant_method` -> the package that reads such weights."""

EXTRAS = {"bitsandbytes": "bitsandbytes", "torchao": "quantization"}
"""Package -> the extra of nightpress that brings it."""

WEIGHT_ONLY = "WeightOnlyConfig"
"""What the names of torchao's settings end in that leave activations as they are."""

ROW_GRANULARITIES = frozenset({"PerRow", "PerToken"})
"""torchao's granularities that give each row of activations a scale of its own."""


def check_quantized(model: PipelineFolder, elsewhere: bool, device: str | None = None) -> None:
    """Refuse, before anything is loaded, quantised weights that cannot be used.

    Args:
        model: the pipeline's folder.
        elsewhere: another machine will sample, so the packages of this one do not matter.
        device: torch's name of the device, where it is known.

    Raises:
        ModelError: a package or a GPU is missing, or images would depend on their companions.
    """
    if model.is_gguf and not elsewhere:
        _require_packages_of_gguf(model)
    for name, settings in _quantized(model):
        start = f"{model.path}: {name} is quantised"
        method = str(settings.get("quant_method"))
        package = PACKAGES.get(method)
        if package is None:
            known = ", ".join(sorted(set(PACKAGES.values())))
            raise ModelError(f"{start} with {method}; supported are {known}")
        if (reason := _mixes_rows(settings)) is not None:
            raise ModelError(f"{start} with {package}: {reason}")
        if not elsewhere and importlib.util.find_spec(package) is None:
            raise ModelError(
                f"{start} with {package}, which is not installed; install it with: "
                f"pip install 'nightpress[{EXTRAS[package]}]'"
            )
        if package == "bitsandbytes" and device == "cpu":
            raise ModelError(f"{start} with bitsandbytes, which diffusers runs on a GPU only")


def _require_packages_of_gguf(model: PipelineFolder) -> None:
    """Refuse a GGUF file where a package is missing with which diffusers reads it."""
    lacking = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if lacking:
        raise ModelError(
            f"{model.shown}: GGUF files are read with {' and '.join(lacking)}, not installed here; "
            "install with: pip install 'nightpress[gguf]'"
        )


def _quantized(model: PipelineFolder) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each component with quantised weights, and how they are."""
    for name in model.components:
        settings = model.config(name).get("quantization_config")
        if isinstance(settings, Mapping):
            yield name, settings


def _mixes_rows(settings: Mapping[str, Any]) -> str | None:
    """Why an image would depend on the others of its batch; None if it does not."""
    if settings.get("load_in_8bit"):
        return (
            "its 8-bit products choose by the whole batch what stays in 16 bits, so that an image "
            "would depend on its companions; use 4 bits, or torchao"
        )
    types = settings.get("quant_type")
    for each in types.values() if isinstance(types, Mapping) else ():
        name = str(each.get("_type")) if isinstance(each, Mapping) else str(each)
        if name.endswith(WEIGHT_ONLY):
            continue
        if not _granularities(each) <= ROW_GRANULARITIES or not _granularities(each):
            return (
                f"{name} may give all activations of a batch one scale, so that an image would "
                f"depend on its companions; use a {WEIGHT_ONLY}, or granularity PerRow"
            )
    return None


def _granularities(value: Any) -> set[str]:
    """The names of all granularities in torchao's settings, at any depth."""
    if isinstance(value, Mapping):
        own = {str(value["_type"])} if str(value.get("_type")).startswith("Per") else set()
        return own.union(*map(_granularities, value.values()))
    if isinstance(value, list):
        return set().union(*map(_granularities, value))
    return set()
