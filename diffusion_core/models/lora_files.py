"""LoRAs on a model: how a job names them, what their files hold, and how a pipeline loads them.

Owns which of several files is meant, which files can be read as a LoRA, and whether every layer of
a LoRA was loaded. The layers are peft's, and the file layouts are those of diffusers. Importing
this loads no framework; before a LoRA is loaded, only the header of its file is read.
"""

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsafeWeights,
    UnsupportedModel,
    as_model_error,
)
from nightpress.diffusion_core.models.lora_names import needs_rewriting
from nightpress.diffusion_core.models.lora_switching import Adapter, RowLoras, num_layers_with
from nightpress.diffusion_core.models.tensor_headers import listed, read_headers
from nightpress.diffusion_core.models.weight_files import WEIGHT_SUFFIXES
from nightpress.diffusion_core.silence_libraries import errors_only

if TYPE_CHECKING:
    from nightpress.diffusion_core.models.lora_keys import Trace

LORA_FILE = "pytorch_lora_weights.safetensors"
"""diffusers' name for the file in a LoRA's folder."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}$"
NAME_IN_WORDS = (
    "must begin with a letter from a to z or A to Z or a digit, and go on with up to 127 such "
    "letters, digits, spaces, dots, underscores and hyphens"
)
_OVERWRITTEN = {
    "_transformer_norm_layers": "load_lora_weights",
    "_overwritten_params": "_maybe_expand_transformer_param_shape_or_error_",
}
"""Attribute of a transformer with the weights that a LoRA has overwritten -> what sets it."""

NOTICE_OVERWRITTEN = "notice a row LoRA that overwrites weights of the model"
COUNT_LAYERS = "check that every layer of a LoRA was loaded"


AdapterSource = Annotated[
    str,
    Field(
        min_length=1,
        description="A folder, a safetensors file, a hub id (`@revision`), or a URL.",
    ),
]
"""Where the weights of an adapter are."""


class LoraSpec(BaseModel):
    """One LoRA and its scale."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    source: AdapterSource
    weight_name: Annotated[
        str | None, Field(min_length=1, description="File name, if the source holds several files.")
    ] = None
    scale: Annotated[float, Field(description="Weight of the adapter; 0 turns it off.")] = 1.0
    name: Annotated[
        str | None,
        Field(
            pattern=NAME,
            json_schema_extra={"patternErrorMessage": NAME_IN_WORDS},
            description="Name in the images' metadata; the file's name unless set.",
        ),
    ] = None

    @property
    def label(self) -> str:
        """The name by which rows and metadata call it: `name`, or one made from the source."""
        if self.name:
            return self.name
        path = PurePosixPath(self.weight_name or self.source.rstrip("/").partition("@")[0])
        folder = path.parent.name if path.name == LORA_FILE and path.parent.name else ""
        return folder or path.name.removesuffix(".safetensors")


def by_source(value: Any) -> Any:
    """A model or an adapter as a mapping, where a job file gives its source alone."""
    return {"source": value} if isinstance(value, str) else value


NamedLora = Annotated[LoraSpec, BeforeValidator(by_source, json_schema_input_type=str | LoraSpec)]
"""A LoRA as a job file writes it: its source alone, or a mapping."""


@dataclass(frozen=True)
class LoraInfo:
    """What decides the effect of a LoRA on the pixels, and its name; the same of other adapters."""

    name: str
    sha256: str
    """SHA-256 of the LoRA file, or over all files of a ControlNet or an IP-Adapter."""
    scale: float


class WeightSource(Protocol):
    """What a job says about where a LoRA or a textual inversion is."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def weight_name(self) -> str | None: ...  # noqa: D102


def weight_name(
    names: Sequence[str], spec: WeightSource, allow_pickle: bool, kind: str = "LoRA"
) -> str:
    """Choose the file of a folder or repository that holds the LoRA.

    The file that the job names; else diffusers' own file name; else the only file there is.

    Args:
        names: the files, relative to the folder, with `/` between parts.
        spec: the LoRA as the job names it.
        allow_pickle: whether the file may be a pickle.
        kind: what it is, as errors call it.

    Raises:
        ModelNotFound: the named file is missing, or none is named and there are none or several.
        UnsafeWeights: the file is a pickle, and that is not allowed.
    """
    weights = sorted(n for n in names if n.endswith(WEIGHT_SUFFIXES))
    if spec.weight_name is not None:
        if spec.weight_name not in weights:
            raise ModelNotFound(
                f"{kind} {spec.source!r}: no file {spec.weight_name!r} (`weight_name`); "
                f"{_found(weights)}"
            )
        return _require_safe(spec, spec.weight_name, allow_pickle, kind)
    top = [name for name in weights if "/" not in name]
    safe = [name for name in top if name.endswith(".safetensors")]
    candidates = [LORA_FILE] if LORA_FILE in safe else safe or top
    if not candidates:
        raise ModelNotFound(f"{kind} {spec.source!r}: no weight file; {_found(weights)}")
    if len(candidates) > 1:
        raise ModelNotFound(
            f"{kind} {spec.source!r}: there are several weight files; set `weight_name` to one of: "
            f"{listed(candidates)}"
        )
    return _require_safe(spec, candidates[0], allow_pickle, kind)


def check_lora_files(
    specs: Sequence[LoraSpec], files: Sequence[Path], pipeline: Any, allow_pickle: bool
) -> list[tuple[LoraSpec, Path]]:
    """Pair LoRAs with their files, each checked by `check_lora_file`.

    Raises:
        ModelError: there is not one file for each, or a file cannot be used.
    """
    if len(files) != len(specs):
        raise ModelError(f"{len(files)} files for {len(specs)} LoRAs; expected one each")
    loras = list(zip(specs, files, strict=True))
    for spec, file in loras:
        check_lora_file(file, spec, pipeline, allow_pickle)
    return loras


def check_lora_file(file: Path, spec: LoraSpec, pipeline: Any, allow_pickle: bool) -> None:
    """Refuse, without loading it, a file that cannot be a LoRA for a pipeline class.

    Raises:
        ModelNotFound: there is no such file.
        UnsafeWeights: it is a pickle, and that is not allowed.
        UnsupportedModel: the pipeline takes no LoRA, or the file's layout cannot be read.
        ModelError: peft is not installed, or the file is damaged.
    """
    if not file.is_file():
        raise ModelNotFound(f"LoRA {spec.source!r}: no such file: {file}")
    if not hasattr(pipeline, "load_lora_weights"):
        raise UnsupportedModel(f"LoRA {spec.source!r}: {pipeline.__name__} takes no LoRAs")
    require_peft()
    _require_safe(spec, file.name, allow_pickle)
    if file.suffix == ".safetensors":
        _check_layout(spec, list(read_headers(file)))


def require_peft() -> None:
    """Raise ModelError if peft, whose layers hold LoRAs, is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise ModelError("LoRAs need peft; install it with: pip install 'nightpress[lora]'")


def load_loras(
    pipeline: Any,
    loras: Sequence[tuple[LoraSpec, Path]],
    model: str,
    allow_pickle: bool,
    row_loras: Sequence[tuple[LoraSpec, Path]] = (),
) -> RowLoras:
    """Load LoRAs into a pipeline, in this order, each with its scale.

    Args:
        pipeline: a diffusers pipeline, on its device.
        loras: those of every image, each with its file; they are active from now on.
        model: the model's name in error messages.
        allow_pickle: whether a file may be a pickle.
        row_loras: those that rows may name; they are active when a row asks for them.

    Raises:
        ModelError: a LoRA does not fit, the model lacks some of its layers, or a row LoRA
            overwrites weights of the model itself.
    """
    always = [
        _load_lora(pipeline, lora, f"adapter_{number}", model, allow_pickle)
        for number, lora in enumerate(loras)
    ]
    of_rows = _load_row_loras(pipeline, row_loras, model, allow_pickle)
    with _silenced():
        by_label = {spec.label: own for (spec, _), own in zip(row_loras, of_rows, strict=True)}
        return RowLoras(pipeline, always, by_label)


def _load_row_loras(
    pipeline: Any, loras: Sequence[tuple[LoraSpec, Path]], model: str, allow_pickle: bool
) -> list[Adapter]:
    if not loras:
        return []
    before = _overwritten_weights(pipeline)
    adapters = [
        _load_lora(pipeline, lora, f"row_{number}", model, allow_pickle)
        for number, lora in enumerate(loras)
    ]
    after = _overwritten_weights(pipeline)
    if any(now is not then for now, then in zip(after, before, strict=True)):
        labels = ", ".join(spec.label for spec, _ in loras)
        raise ModelError(
            f"row LoRAs {labels}: one of them overwrites weights of the model itself, as control "
            "LoRAs do, and so would change every image"
        )
    return adapters


def _load_lora(
    pipeline: Any, lora: tuple[LoraSpec, Path], name: str, model: str, allow_pickle: bool
) -> Adapter:
    spec, file = lora
    misfit = f"LoRA {spec.source!r} does not fit {type(pipeline).__name__} {model}"
    with as_model_error(misfit), _silenced(), _traced(pipeline, file) as traces:
        pipeline.load_lora_weights(
            str(file.parent),
            weight_name=file.name,
            adapter_name=name,
            local_files_only=True,
            use_safetensors=None if allow_pickle else True,
        )
    _require_effect(pipeline, name, misfit, traces[0])
    return Adapter(name, spec.scale)


def _overwritten_weights(pipeline: Any) -> list[Any]:
    """The weights that diffusers keeps because a LoRA has overwritten them, or None, for each part.

    Read against diffusers 0.42.1. Relies on FLUX's loader being the only one that may overwrite
    weights, and keeping them in the attributes in `_OVERWRITTEN`.
    """
    loader = patching.require("diffusers.loaders", "FluxLoraLoaderMixin", NOTICE_OVERWRITTEN)
    for attribute, method in _OVERWRITTEN.items():
        setter = patching.require(loader, method, NOTICE_OVERWRITTEN)
        patching.require_reference(setter, attribute, NOTICE_OVERWRITTEN)
    parts = [part for part in pipeline.components.values() if hasattr(part, "__dict__")]
    return [vars(part).get(name) for part in parts for name in _OVERWRITTEN]


def _require_effect(pipeline: Any, name: str, misfit: str, trace: "Trace") -> None:
    """Refuse a LoRA some of whose tensors are not in the model, which diffusers only logs."""
    from nightpress.diffusion_core.models import lora_keys

    placed = sum(num_layers_with(name, part) for part in pipeline.components.values())
    idle = lora_keys.without_effect(pipeline, name, trace)
    if idle or not placed:
        described = lora_keys.describe_idle(idle or trace.names, trace.names)
        raise ModelError(f"{misfit}: {described}")


@contextlib.contextmanager
def _traced(pipeline: Any, file: Path) -> Iterator[list["Trace"]]:
    """Yield a list that holds, after loading, what became of the tensors of a LoRA file.

    Read against diffusers 0.42.1. Relies on `load_lora_weights` calling `self.lora_state_dict`,
    which takes a path or the tensors themselves, and returns a mapping, or a tuple that begins
    with one.

    Raises:
        IncompatibleLibrary: a LoRA was loaded without it.
        ModelError: it left tensors out.
    """
    from nightpress.diffusion_core.models import lora_keys, lora_layouts

    traces: list[Trace] = []
    translate = patching.require(pipeline, "lora_state_dict", COUNT_LAYERS)

    def traced(*args: Any, **kwargs: Any) -> Any:
        tensors = lora_keys.read_tensors(file)
        rewrites = needs_rewriting(tensors)
        translated: Callable[..., Any] = partial(translate, **kwargs)
        if rewrites:
            translated = lora_layouts.translation(pipeline, translated, tensors)
        traces.append(lora_keys.trace(translated, tensors))
        if idle := lora_keys.left_out(pipeline, traces[0]):
            raise ValueError(lora_keys.describe_idle(idle, tensors))
        return translated(tensors) if rewrites else translate(*args, **kwargs)

    with patching.shadowed(pipeline, "lora_state_dict", traced):
        yield traces
    if not traces:
        raise patching.incompatible(
            pipeline, "load_lora_weights no longer calls lora_state_dict", COUNT_LAYERS
        )


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Hide the libraries' logs and peft's warnings; what matters becomes an error here."""
    from diffusers.utils import logging

    with errors_only(), warnings.catch_warnings():
        logging.set_verbosity(logging.CRITICAL)
        warnings.simplefilter("ignore")
        yield


def _check_layout(spec: LoraSpec, names: Sequence[str]) -> None:
    rewritten = needs_rewriting(names)
    if any("dora_scale" in name for name in names) and not rewritten:
        raise UnsupportedModel(
            f"LoRA {spec.source!r}: it is a DoRA, whose magnitudes diffusers would ignore"
        )
    if not rewritten and not any("lora" in name or "lokr_" in name for name in names):
        raise UnsupportedModel(
            f"LoRA {spec.source!r}: the file holds no LoRA; its tensors are {listed(sorted(names))}"
        )


def _require_safe(spec: WeightSource, name: str, allow_pickle: bool, kind: str = "LoRA") -> str:
    if not name.endswith(".safetensors") and not allow_pickle:
        raise UnsafeWeights(
            f"{kind} {spec.source!r}: {name} is not a safetensors file, and loading a pickle runs "
            "code; set `model.allow_pickle: true` if you trust it"
        )
    return name


def _found(names: Sequence[str]) -> str:
    return f"found: {listed(names)}" if names else "found none"
