"""LoRAs on a model: how a job names them, what their files say, and how they get into a pipeline.

Owns which file of several is meant, what makes a file a LoRA that can be read, and whether all of
it found its place. The layers are peft's, the layouts diffusers'. Importing this loads no
framework; what is said of a LoRA before it is loaded comes from its file's header.
"""

import contextlib
import importlib.util
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsafeWeights,
    UnsupportedModel,
    in_one_line,
)
from nightpress.diffusion_core.models.lora_switching import Adapter, RowLoras, num_layers_with

LORA_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file in a LoRA's folder."""

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")

_NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}$"
_LAYER = re.compile(r"^(.+?)[._](lora|lokr)_?(A|B|a|b|up|down|w1|w2|linear_layer|\.)")
"""A tensor of an adapter, and the layer that it belongs to."""


class LoraSpec(BaseModel):
    """One LoRA, and how strongly it works."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    source: Annotated[
        str,
        Field(
            min_length=1,
            description="A folder, a safetensors file, a hub id (`@revision`), or a URL.",
        ),
    ]
    weight_name: Annotated[
        str | None, Field(min_length=1, description="The file, where the source holds several.")
    ] = None
    scale: Annotated[
        float, Field(description="The adapter's weight; 0 leaves it without effect.")
    ] = 1.0
    name: Annotated[
        str | None,
        Field(pattern=_NAME, description="As the images' metadata says it; the file's unless set."),
    ] = None

    @property
    def label(self) -> str:
        """The name in force."""
        if self.name:
            return self.name
        told = self.weight_name or self.source.rstrip("/").partition("@")[0]
        path = PurePosixPath(told)
        folder = path.parent.name if path.name == LORA_FILE and path.parent.name else ""
        return folder or path.name.removesuffix(".safetensors")


def _by_source(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


NamedLora = Annotated[LoraSpec, BeforeValidator(_by_source, json_schema_input_type=str | LoraSpec)]
"""A LoRA as a job file has it: its source alone, or a mapping."""


@dataclass(frozen=True)
class LoraInfo:
    """What decides a LoRA's share in a pixel."""

    name: str
    sha256: str
    """Of its file."""
    scale: float


def weight_name(names: Sequence[str], spec: LoraSpec, allow_pickle: bool) -> str:
    """Which of the files of a folder or repository holds the LoRA.

    The one that the job names; else diffusers' own file name; else the only one there is.

    Args:
        names: relative to the folder, `/` between parts.

    Raises:
        ModelNotFound: it is not there, or there are none, or several and the job names none.
        UnsafeWeights: what is there is pickled, and that is not allowed.
    """
    weights = sorted(n for n in names if n.endswith((".safetensors", *PICKLE_SUFFIXES)))
    if spec.weight_name is not None:
        if spec.weight_name not in weights:
            raise ModelNotFound(
                f"LoRA {spec.source!r} has no weights {spec.weight_name!r}; {_found(weights)}"
            )
        return _require_safe(spec, spec.weight_name, allow_pickle)
    top = [name for name in weights if "/" not in name]
    safe = [name for name in top if name.endswith(".safetensors")]
    candidates = [LORA_FILE] if LORA_FILE in safe else safe or top
    if not candidates:
        raise ModelNotFound(f"LoRA {spec.source!r}: no weights there; {_found(weights)}")
    if len(candidates) > 1:
        raise ModelNotFound(
            f"LoRA {spec.source!r} holds several files; say which one in `weight_name`: "
            f"{_listed(candidates)}"
        )
    return _require_safe(spec, candidates[0], allow_pickle)


def check_lora_file(file: Path, spec: LoraSpec, pipeline: Any, allow_pickle: bool) -> None:
    """Refuse, without loading it, what cannot be a LoRA of that pipeline class.

    Raises:
        ModelNotFound: no such file.
        UnsafeWeights: a pickle, and that is not allowed.
        UnsupportedModel: the pipeline takes no LoRA, or the file's layout cannot be read.
        ModelError: peft is not installed, or the file is damaged.
    """
    if not file.is_file():
        raise ModelNotFound(f"LoRA {spec.source!r}: no such file as {file}")
    if not hasattr(pipeline, "load_lora_weights"):
        raise UnsupportedModel(f"LoRA {spec.source!r}: {pipeline.__name__} takes no LoRAs")
    require_peft()
    _require_safe(spec, file.name, allow_pickle)
    if file.suffix == ".safetensors":
        _check_layout(spec, _tensor_names(file))


def require_peft() -> None:
    """Raise ModelError where peft, which holds the layers, is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise ModelError("LoRAs need peft: pip install 'nightpress[lora]'")


def load_loras(
    pipeline: Any,
    loras: Sequence[tuple[LoraSpec, Path]],
    model: str,
    allow_pickle: bool,
    of_rows: Sequence[tuple[LoraSpec, Path]] = (),
) -> RowLoras:
    """Put LoRAs into a pipeline, in this order, each with its scale.

    Args:
        pipeline: of diffusers, on its device.
        loras: those of every image, each with its file; they work from now on.
        model: what an error calls the model.
        allow_pickle: whether a file may be a pickle.
        of_rows: those that rows name; they work when they are asked for.

    Raises:
        ModelError: one of them does not fit; parts of it, or all, found no layer; one of a row
            changes weights of the model itself.
    """
    always = [
        _load(pipeline, lora, f"adapter_{n}", model, allow_pickle) for n, lora in enumerate(loras)
    ]
    before = _overwritten(pipeline)
    rows = [
        _load(pipeline, lora, f"row_{n}", model, allow_pickle) for n, lora in enumerate(of_rows)
    ]
    if any(now is not then for now, then in zip(_overwritten(pipeline), before, strict=True)):
        labels = ", ".join(spec.label for spec, _ in of_rows)
        raise ModelError(
            f"row LoRAs {labels}: one of them changes weights of the model itself, and so would "
            "work on every image; a control LoRA does"
        )
    with _silent():
        named = {spec.label: adapter for (spec, _), adapter in zip(of_rows, rows, strict=True)}
        return RowLoras(pipeline, always, named)


def _load(
    pipeline: Any, lora: tuple[LoraSpec, Path], name: str, model: str, allow_pickle: bool
) -> Adapter:
    spec, file = lora
    misfit = f"LoRA {spec.source!r} does not fit {type(pipeline).__name__} {model}"
    with in_one_line(misfit), _silent(), _recorded(pipeline) as read:
        pipeline.load_lora_weights(
            str(file.parent),
            weight_name=file.name,
            adapter_name=name,
            local_files_only=True,
            use_safetensors=None if allow_pickle else True,
        )
    _require_all_placed(pipeline, name, misfit, read)
    return Adapter(name, spec.scale)


def _overwritten(pipeline: Any) -> list[Any]:
    """What diffusers keeps of weights that LoRAs have written over, which none but FLUX's may."""
    names = ("_transformer_norm_layers", "_overwritten_params")
    parts = pipeline.components.values()
    return [vars(part).get(name) for part in parts if hasattr(part, "__dict__") for name in names]


def _require_all_placed(pipeline: Any, name: str, misfit: str, read: Sequence[str]) -> None:
    """Diffusers only logs that it left something out; an image must not silently lack it."""
    wanted = sorted({match[1] for key in read if (match := _LAYER.match(key))})
    placed = sum(num_layers_with(name, part) for part in pipeline.components.values())
    if not placed or placed < len(wanted):
        raise ModelError(
            f"{misfit}: {placed} of its {len(wanted)} layers are in the model; it has "
            f"{_listed(wanted or list(read))}"
        )


@contextlib.contextmanager
def _recorded(pipeline: Any) -> Iterator[list[str]]:
    """The tensor names of a LoRA as diffusers has translated them, once it is loaded."""
    names: list[str] = []
    translate = pipeline.lora_state_dict

    def watched(*args: Any, **kwargs: Any) -> Any:
        found = translate(*args, **kwargs)
        names.extend(found[0] if isinstance(found, tuple) else found)
        return found

    pipeline.lora_state_dict = watched
    try:
        yield names
    finally:
        del pipeline.lora_state_dict


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No log lines of diffusers and no warnings of peft: what matters becomes an error here."""
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)


def _tensor_names(file: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: no readable safetensors file ({error})") from error


def _check_layout(spec: LoraSpec, names: Sequence[str]) -> None:
    if any("dora_scale" in name for name in names):
        raise UnsupportedModel(
            f"LoRA {spec.source!r} is a DoRA, whose magnitudes diffusers leaves out"
        )
    if not any("lora" in name or "lokr_" in name for name in names):
        raise UnsupportedModel(
            f"LoRA {spec.source!r}: no LoRA in the file; its tensors are called "
            f"{_listed(sorted(names))}"
        )


def _require_safe(spec: LoraSpec, name: str, allow_pickle: bool) -> str:
    if not name.endswith(".safetensors") and not allow_pickle:
        raise UnsafeWeights(
            f"LoRA {spec.source!r}: {name} is no safetensors file, and loading a pickle runs "
            "code; say `model.allow_pickle: true` if you trust it"
        )
    return name


def _found(names: Sequence[str]) -> str:
    return f"it has {_listed(names)}" if names else "it has none"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
