"""A model: how a job names it, what can be known before loading it, and the loaded thing."""

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import ModelError, in_one_line
from nightpress.diffusion_core.models import pipeline_folder, samplers, weight_files
from nightpress.diffusion_core.models.lora_files import (
    LoraInfo,
    LoraSpec,
    NamedLora,
    check_lora_file,
    load_loras,
)
from nightpress.diffusion_core.models.lora_switching import RowLoras
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.silence_libraries import no_progress_bars

DType = Literal["auto", "float32", "bfloat16", "float16"]


class ModelSpec(BaseModel):
    """Which model, in which precision, with which LoRAs, and how it is made faster."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: Annotated[
        str,
        Field(min_length=1, description="`builtin`, a folder, a hub id (`@revision`), or a URL."),
    ] = "builtin"
    revision: Annotated[str | None, Field(description="Of a hub id: branch, tag or commit.")] = None
    variant: Annotated[str | None, Field(description="Of the weight files, such as fp16.")] = None
    dtype: Annotated[
        DType, Field(description="auto: float32 on a CPU, bfloat16 on an accelerator.")
    ] = "auto"
    allow_pickle: Annotated[
        bool, Field(description="Load weights that are not safetensors. Unpickling runs code.")
    ] = False
    loras: Annotated[
        tuple[NamedLora, ...],
        Field(strict=False, description="Each by its source alone, or with its scale and name."),
    ] = ()
    row_loras: Annotated[
        tuple[NamedLora, ...],
        Field(
            strict=False,
            description="LoRAs that a row may name in its column `lora`; they work on those alone.",
        ),
    ] = ()
    speed: Annotated[SpeedSpec, Field(description="Ways of sampling faster; none unless set.")] = (
        SpeedSpec()
    )

    @property
    def all_loras(self) -> tuple[LoraSpec, ...]:
        """Those of every image, then those of rows."""
        return (*self.loras, *self.row_loras)

    @model_validator(mode="after")
    def _loras_stay_visible(self) -> Self:
        for name in ("fuse_qkv_projections", "quantization"):
            if self.all_loras and getattr(self.speed, name):
                raise ValueError(f"speed.{name} would leave out the loras; use one of the two")
        return self

    @model_validator(mode="after")
    def _rows_can_name_their_loras(self) -> Self:
        times = Counter(lora.label for lora in self.row_loras)
        for label, number in times.items():
            if not label or label != label.strip():
                raise ValueError(f"row_loras: no row could say {label!r}; give it a `name`")
            if number > 1:
                raise ValueError(
                    f"row_loras: {number} are called {label!r}, and rows could not tell them "
                    "apart; give each a `name`"
                )
        return self


@dataclass(frozen=True)
class ModelInfo:
    """What can be said of a model from its folder, without loading it."""

    source: str
    fingerprint: str
    """sha256 over every weight and configuration file that decides a pixel of every image.

    `loras` are among them. `row_loras` are not: the facts of an image name its own.
    """
    pipeline: str
    """Name of the diffusers pipeline class."""
    size_multiple: int
    """Widths and heights must be multiples of this many pixels."""
    width: int | None
    """Pixels, the model's own size; None when its configuration does not say."""
    height: int | None
    num_inference_steps: int
    """What the pipeline uses when nobody says otherwise."""
    guidance_scale: float
    samplers: tuple[str, ...]
    """The sampler names that fit what the model predicts."""
    takes_negative_prompt: bool
    max_steps: int = 1000
    """The most denoising steps; a sampler may take fewer, see `schedulers.max_steps`."""
    loras: tuple[LoraInfo, ...] = ()
    """They work on every image."""
    row_loras: tuple[LoraInfo, ...] = ()
    """Each works on the images whose row names it, with that row's scale or this one."""

    @property
    def identity(self) -> str:
        """What machines that work together must agree on: the fingerprint, and the rows' LoRAs."""
        if not self.row_loras:
            return self.fingerprint
        decides = json.dumps(
            [self.fingerprint, [[each.name, each.sha256] for each in self.row_loras]]
        )
        return hashlib.sha256(decides.encode()).hexdigest()

    def loras_of(self, lora: str | None, scale: float | None) -> tuple[LoraInfo, ...]:
        """The LoRAs that work on an image, in that order.

        Args:
            lora: the name of its row's own, if it has one.
            scale: in force, where there is a `lora`; None for the LoRA's own.
        """
        if lora is None:
            return self.loras
        (own,) = (each for each in self.row_loras if each.name == lora)
        return (*self.loras, own if scale is None else replace(own, scale=scale))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        loras = {
            name: tuple(LoraInfo(**lora) for lora in values.get(name, ()))
            for name in ("loras", "row_loras")
        }
        return cls(**{**values, "samplers": tuple(values["samplers"]), **loras})


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline in memory, ready to sample, and what its sampler must know of it."""

    pipeline: Any
    """The diffusers pipeline, on its device."""
    device: str
    dtype: str
    """Of the weights, such as `float32`."""
    size_multiple: int
    scheduler_config: Mapping[str, Any]
    """Of the model's own scheduler, `_class_name` included."""
    takes_negative_prompt: bool
    speed: SpeedSpec = field(default_factory=SpeedSpec)
    """What was done to the pipeline, and what is to be done around each of its calls."""
    row_loras: RowLoras = field(default_factory=RowLoras)
    """Which LoRAs work in the pipeline just now."""


class OwnDefaults(BaseModel):
    """`nightpress.json` in a model folder: what its makers advise, over the class's defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    guidance_scale: Annotated[float, Field(ge=0)] | None = None


def describe(
    folder: Path, spec: ModelSpec, lora_files: Sequence[Path] = (), elsewhere: bool = False
) -> ModelInfo:
    """What can be said of a saved pipeline without loading it; every weight file is hashed.

    Args:
        folder: of the pipeline.
        spec: as the job has it.
        lora_files: where the LoRAs of `spec.all_loras` lie, one for each.
        elsewhere: another machine is to sample it, and what this one lacks does not matter.

    Raises:
        ModelNotFound: no folder, no `model_index.json`, or a component's files are missing.
        UnsafeWeights: pickled weights, and `spec.allow_pickle` is off.
        UnsupportedModel: not a text-to-image pipeline of the installed diffusers, or it takes no
            LoRAs and some are asked for.
        ModelError: a configuration file is damaged, or something in `spec.speed` is not for it.
    """
    model = PipelineFolder.read(folder)
    owner = pipeline_folder.text_to_image_class(model)
    infos = _lora_infos(spec, lora_files, owner)
    loras, row_loras = infos[: len(spec.loras)], infos[len(spec.loras) :]
    check_speed(model, owner, spec, elsewhere)
    used = weight_files.used_files(folder, model.components, spec.variant, spec.allow_pickle)
    width, height = pipeline_folder.native_size(model, owner) or (None, None)
    advice = _own_defaults(folder)
    return ModelInfo(
        source=spec.source,
        fingerprint=_with_loras(weight_files.fingerprint(folder, used), loras),
        pipeline=model.class_name,
        size_multiple=pipeline_folder.size_multiple(model, owner),
        width=width,
        height=height,
        num_inference_steps=advice.num_inference_steps
        or int(pipeline_folder.call_default(owner, "num_inference_steps") or 50),
        guidance_scale=_first(
            advice.guidance_scale, pipeline_folder.call_default(owner, "guidance_scale"), 1.0
        ),
        samplers=_samplers(model, owner),
        takes_negative_prompt=pipeline_folder.takes_negative_prompt(owner),
        max_steps=int(model.scheduler.get("num_train_timesteps", 1000)),
        loras=loras,
        row_loras=row_loras,
    )


def load(
    folder: Path, spec: ModelSpec, device: str, lora_files: Sequence[Path] = ()
) -> LoadedModel:
    """Load a saved pipeline onto a device, and its LoRAs into it; the network is never asked.

    Args:
        folder: of the pipeline.
        spec: as the job has it.
        device: As torch names it: `cpu`, `cuda`, `cuda:0`.
        lora_files: where the LoRAs of `spec.all_loras` lie, one for each.

    Raises:
        ModelNotFound, UnsafeWeights, UnsupportedModel: as `describe` does.
        ModelError: diffusers could not load it, or a LoRA or something in `spec.speed` does not
            fit; the message is one line.
    """
    model = PipelineFolder.read(folder)
    owner = pipeline_folder.text_to_image_class(model)
    loras = _checked_loras(spec, lora_files, owner)
    used = weight_files.used_files(folder, model.components, spec.variant, spec.allow_pickle)
    import torch

    dtype: torch.dtype = getattr(torch, resolve_dtype(spec.dtype, device))
    with in_one_line(f"{folder}: cannot load {model.class_name}"), no_progress_bars():
        pipeline = owner.from_pretrained(
            folder,
            dtype=dtype,
            variant=_present_variant(used, spec.variant),
            use_safetensors=None if spec.allow_pickle else True,
            local_files_only=True,
            **_fixed_arguments(owner),
        ).to(device)
    number = len(spec.loras)
    row_loras = load_loras(
        pipeline, loras[:number], str(folder), spec.allow_pickle, of_rows=loras[number:]
    )
    _make_faster(pipeline, owner, spec)
    pipeline.set_progress_bar_config(disable=True)
    return LoadedModel(
        pipeline=pipeline,
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        size_multiple=pipeline_folder.size_multiple(model, owner),
        scheduler_config=_scheduler_config(pipeline.scheduler),
        takes_negative_prompt=pipeline_folder.takes_negative_prompt(owner),
        speed=spec.speed,
        row_loras=row_loras,
    )


def resolve_dtype(dtype: DType, device: str) -> str:
    """The precision in force: `auto` is float32 on a CPU and bfloat16 on an accelerator."""
    if dtype != "auto":
        return dtype
    return "float32" if device == "cpu" else "bfloat16"


def check_speed(
    model: PipelineFolder, owner: Any, spec: ModelSpec, elsewhere: bool = False
) -> None:
    """See, without a weight, that a model can be sampled as `spec.speed` says.

    Args:
        model: the folder of a saved pipeline.
        owner: its class.
        spec: the model as a job has it.
        elsewhere: it will be sampled on another machine, and this one is not asked.

    Raises:
        ModelError: one of the choices cannot be had; what can, is in the message.
    """
    if spec.speed.chosen():
        from nightpress.diffusion_core.acceleration import apply

        with no_progress_bars():
            networks = pipeline_folder.skeleton(model)
            apply.check(_parts(networks, owner, spec, elsewhere), spec.speed)


def _make_faster(pipeline: Any, owner: Any, spec: ModelSpec) -> None:
    if spec.speed.chosen():
        from nightpress.diffusion_core.acceleration import apply

        apply.apply(_parts(pipeline, owner, spec), spec.speed)


def _parts(pipeline: Any, owner: Any, spec: ModelSpec, elsewhere: bool = False) -> Any:
    from nightpress.diffusion_core.acceleration.apply import Parts

    negative = pipeline_folder.takes_negative_prompt(owner)
    return Parts(pipeline, owner, spec.dtype, negative, elsewhere)


def _checked_loras(
    spec: ModelSpec, files: Sequence[Path], owner: Any
) -> list[tuple[LoraSpec, Path]]:
    if len(files) != len(spec.all_loras):
        raise ModelError(f"{spec.source}: {len(spec.all_loras)} LoRAs, and files of {len(files)}")
    loras = list(zip(spec.all_loras, files, strict=True))
    for lora, file in loras:
        check_lora_file(file, lora, owner, spec.allow_pickle)
    return loras


def _lora_infos(spec: ModelSpec, files: Sequence[Path], owner: Any) -> tuple[LoraInfo, ...]:
    return tuple(
        LoraInfo(lora.label, weight_files.fingerprint_of_file(file), lora.scale)
        for lora, file in _checked_loras(spec, files, owner)
    )


def _with_loras(fingerprint: str, loras: Sequence[LoraInfo]) -> str:
    """The model's own fingerprint, unless LoRAs change what it draws; their order counts."""
    if not loras:
        return fingerprint
    decides = json.dumps([fingerprint, [[lora.sha256, lora.scale] for lora in loras]])
    return hashlib.sha256(decides.encode()).hexdigest()


def _own_defaults(folder: Path) -> OwnDefaults:
    path = folder / "nightpress.json"
    if not path.is_file():
        return OwnDefaults()
    try:
        return OwnDefaults.model_validate(pipeline_folder.read_json(path))
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part) for part in detail["loc"])
        raise ModelError(f"{path}: {key}: {detail['msg']}") from error


def _samplers(model: PipelineFolder, owner: Any) -> tuple[str, ...]:
    lcm_only = "original_inference_steps" in pipeline_folder.call_parameters(owner)
    return samplers.fitting(model.scheduler, owner.__name__, lcm_only)


def _fixed_arguments(owner: Any) -> dict[str, Any]:
    """Constructor arguments whose default depends on what else is installed on a machine."""
    takes = inspect.signature(owner.__init__).parameters
    return {"add_watermarker": False} if "add_watermarker" in takes else {}


def _present_variant(used: Iterable[Path], variant: str | None) -> str | None:
    """The variant, or None where no component has it, for which diffusers has only a warning."""
    return variant if any(f".{variant}" in path.name for path in used) else None


def _scheduler_config(scheduler: Any) -> dict[str, Any]:
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


def _first(*values: float | None) -> float:
    return float(next(value for value in values if value is not None))
