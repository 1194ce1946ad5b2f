"""A model: how a job names it, what is known about it before it is loaded, and how it is loaded."""

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import as_model_error
from nightpress.diffusion_core.models import networks, pipeline_folder, samplers, weight_files
from nightpress.diffusion_core.models.folder_defaults import defaults
from nightpress.diffusion_core.models.lora_files import (
    LoraInfo,
    LoraSpec,
    NamedLora,
    check_lora_files,
    load_loras,
)
from nightpress.diffusion_core.models.lora_switching import RowLoras
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.prompts import (
    PromptLimits,
    PromptsSpec,
    limits_from_folder,
    limits_of,
)
from nightpress.diffusion_core.silence_libraries import errors_only, no_progress_bars

DType = Literal["auto", "float32", "bfloat16", "float16"]


class ModelSpec(BaseModel):
    """A job's choice of model, precision, LoRAs and acceleration."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: Annotated[
        str,
        Field(min_length=1, description="`builtin`, a folder, a hub id (`@revision`), or a URL."),
    ] = "builtin"
    revision: Annotated[str | None, Field(description="Branch, tag or commit of a hub id.")] = None
    variant: Annotated[
        str | None, Field(description="Variant of the weight files, such as fp16.")
    ] = None
    dtype: Annotated[
        DType, Field(description="auto: float32 on a CPU, bfloat16 on an accelerator.")
    ] = "auto"
    allow_pickle: Annotated[
        bool, Field(description="Load weights that are not safetensors. Unpickling runs code.")
    ] = False
    loras: Annotated[
        tuple[NamedLora, ...],
        Field(
            strict=False,
            description="LoRAs on every image, each a source or a mapping with scale, name, ...",
        ),
    ] = ()
    row_loras: Annotated[
        tuple[NamedLora, ...],
        Field(
            strict=False,
            description="LoRAs that rows may name in their column `lora`; off for other rows.",
        ),
    ] = ()
    speed: Annotated[SpeedSpec, Field(description="Ways to sample faster; none unless set.")] = (
        SpeedSpec()
    )
    prompts: Annotated[
        PromptsSpec, Field(description="What becomes of prompts that the model cannot take.")
    ] = PromptsSpec()

    @property
    def all_loras(self) -> tuple[LoraSpec, ...]:
        """The LoRAs of every image, then the row LoRAs."""
        return (*self.loras, *self.row_loras)

    @model_validator(mode="after")
    def _loras_keep_their_effect(self) -> Self:
        for name in ("fuse_qkv_projections", "quantization"):
            if self.all_loras and getattr(self.speed, name):
                raise ValueError(f"speed.{name} would ignore the loras; use one of the two")
        return self

    @model_validator(mode="after")
    def _row_loras_have_distinct_names(self) -> Self:
        numbers = Counter(lora.label for lora in self.row_loras)
        for label, number in numbers.items():
            if not label or label != label.strip():
                raise ValueError(f"row_loras: no row can name {label!r}; give that LoRA a `name`")
            if number > 1:
                raise ValueError(
                    f"row_loras: {number} are called {label!r}; give each a `name` of its own"
                )
        return self


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a model from its folder, without loading it."""

    source: str
    fingerprint: str
    """SHA-256 over every weight and configuration file that decides a pixel of every image.

    It covers `loras`, and not `row_loras`: an image's metadata names its own.
    """
    pipeline: str
    """Name of the diffusers pipeline class."""
    size_multiple: int
    """Widths and heights must be multiples of this many pixels."""
    width: int | None
    """The model's native size in pixels; None if its configuration does not say."""
    height: int | None
    num_inference_steps: int
    """The default number of denoising steps."""
    guidance_scale: float
    """The default guidance scale."""
    samplers: tuple[str, ...]
    """The sampler names that fit what the model predicts."""
    takes_negative_prompt: bool
    own_sampler: str = "default"
    """The sampler that `default` stands for, or the class name of the model's scheduler if no
    sampler's name does; `default` in the records of runs that were begun without it."""
    max_steps: int = 1000
    """The most denoising steps; some samplers take fewer, see `schedulers.max_steps`."""
    loras: tuple[LoraInfo, ...] = ()
    """The LoRAs that are active for every image."""
    row_loras: tuple[LoraInfo, ...] = ()
    """The LoRAs that are active for images whose row names them, with the row's scale or this."""
    prompts: PromptLimits = field(default_factory=PromptLimits, compare=False, repr=False)
    """How much of a prompt the model reads; it is not recorded with a run."""

    @property
    def identity(self) -> str:
        """A hash that all machines of a run must agree on: of `fingerprint` and the row LoRAs."""
        if not self.row_loras:
            return self.fingerprint
        content = json.dumps(
            [self.fingerprint, [[lora.name, lora.sha256] for lora in self.row_loras]]
        )
        return hashlib.sha256(content.encode()).hexdigest()

    def sampler_that_runs(self, scheduler: str) -> str:
        """What a row's sampler is called once it has run: `default` gets its proper name."""
        return self.own_sampler if scheduler == "default" else scheduler

    def loras_of(self, lora: str | None, scale: float | None) -> tuple[LoraInfo, ...]:
        """The LoRAs that are active for an image, in order.

        Args:
            lora: the name of the LoRA in the image's row; None if there is none.
            scale: the scale in the row; None for the LoRA's own.
        """
        if lora is None:
            return self.loras
        (own,) = (info for info in self.row_loras if info.name == lora)
        return (*self.loras, own if scale is None else replace(own, scale=scale))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, without `prompts`."""
        values = asdict(replace(self, prompts=PromptLimits()))
        return {name: value for name, value in values.items() if name != "prompts"}

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
    """A pipeline in memory, ready to sample, and what its sampler needs to know."""

    pipeline: Any
    """The diffusers pipeline, on its device."""
    device: str
    dtype: str
    """Type of the weights, such as `float32`."""
    size_multiple: int
    scheduler_config: Mapping[str, Any]
    """Configuration of the model's own scheduler, `_class_name` included."""
    takes_negative_prompt: bool
    speed: SpeedSpec = field(default_factory=SpeedSpec)
    """The acceleration: applied to the pipeline, or to be applied around each of its calls."""
    row_loras: RowLoras = field(default_factory=RowLoras)
    """Switches between the LoRAs in the pipeline."""
    prompts: PromptLimits = field(default_factory=PromptLimits)
    """How much of a prompt the model reads."""


@errors_only()
def describe(
    folder: Path, spec: ModelSpec, lora_files: Sequence[Path] = (), elsewhere: bool = False
) -> ModelInfo:
    """Describe a saved pipeline without loading it; every weight file is hashed.

    Args:
        folder: the pipeline's folder.
        spec: the model as the job names it.
        lora_files: one file for each of `spec.all_loras`.
        elsewhere: another machine will sample, so what this one lacks does not matter.

    Raises:
        ModelNotFound: the folder, its `model_index.json` or a component's files are missing.
        UnsafeWeights: the weights are pickles, and `spec.allow_pickle` is off.
        UnsupportedModel: no text-to-image pipeline of this diffusers, or it takes no LoRAs.
        ModelError: a configuration file is damaged, or the model does not support `spec.speed`.
    """
    model, pipeline_class = _read(folder)
    loras, row_loras = _lora_infos(spec, lora_files, pipeline_class)
    check_speed(model, pipeline_class, spec, elsewhere)
    width, height = pipeline_folder.native_size(model, pipeline_class) or (None, None)
    steps, guidance_scale = defaults(folder, pipeline_class)
    names = _samplers(model, pipeline_class)
    return ModelInfo(
        source=spec.source,
        fingerprint=_fingerprint(model, spec, loras),
        pipeline=model.class_name,
        size_multiple=pipeline_folder.size_multiple(model, pipeline_class),
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        samplers=names,
        own_sampler=samplers.own_sampler(model.scheduler, names),
        takes_negative_prompt=pipeline_folder.takes_negative_prompt(pipeline_class),
        max_steps=int(model.scheduler.get("num_train_timesteps", 1000)),
        loras=loras,
        row_loras=row_loras,
        prompts=limits_from_folder(model, pipeline_class),
    )


def bare_fingerprint(folder: Path, spec: ModelSpec) -> str:
    """The fingerprint of a saved pipeline without LoRAs; much faster than all of `describe`.

    Args:
        folder, spec: as for `describe`.

    Raises:
        ModelError: as `describe` raises it for files that are missing, damaged or not allowed.
    """
    return _fingerprint(PipelineFolder.read(folder), spec, ())


def check_weights(folder: Path, spec: ModelSpec) -> None:
    """Check, without loading a weight, that the files hold exactly the weights of the model.

    Raises:
        ModelError: they do not; the message names the component and its first such tensors.
    """
    model = PipelineFolder.read(folder)
    networks.check_networks(model, spec.variant, spec.allow_pickle)


@errors_only()
def load(
    folder: Path, spec: ModelSpec, device: str, lora_files: Sequence[Path] = ()
) -> LoadedModel:
    """Load a saved pipeline and its LoRAs onto a device, without using the network.

    Args:
        folder: the pipeline's folder.
        spec: the model as the job names it.
        device: torch's name of the device, such as `cpu`, `cuda` or `cuda:0`.
        lora_files: one file for each of `spec.all_loras`.

    Raises:
        ModelNotFound, UnsafeWeights, UnsupportedModel: as `describe`.
        ModelError: diffusers cannot load it, or a LoRA or `spec.speed` does not fit; the message
            is one line.
    """
    model, pipeline_class = _read(folder)
    loras = check_lora_files(spec.all_loras, lora_files, pipeline_class, spec.allow_pickle)
    dtype = resolve_dtype(spec.dtype, device)
    pipeline = _load_pipeline(model, pipeline_class, spec, dtype, device)
    number = len(spec.loras)
    scheduler = pipeline.scheduler
    switching = load_loras(
        pipeline, loras[:number], str(folder), spec.allow_pickle, row_loras=loras[number:]
    )
    _accelerate(pipeline, pipeline_class, spec)
    pipeline.set_progress_bar_config(disable=True)
    return LoadedModel(
        pipeline=pipeline,
        device=device,
        dtype=dtype,
        size_multiple=pipeline_folder.size_multiple(model, pipeline_class),
        scheduler_config={**scheduler.config, "_class_name": type(scheduler).__name__},
        takes_negative_prompt=pipeline_folder.takes_negative_prompt(pipeline_class),
        speed=spec.speed,
        row_loras=switching,
        prompts=limits_of(model.components, pipeline.components.get, pipeline_class),
    )


def _read(folder: Path) -> tuple[PipelineFolder, Any]:
    """A pipeline's folder and class."""
    model = PipelineFolder.read(folder)
    return model, pipeline_folder.text_to_image_class(model)


def _load_pipeline(
    model: PipelineFolder, pipeline_class: Any, spec: ModelSpec, dtype: str, device: str
) -> Any:
    import torch

    weight_files.used_files(model.path, model.components, spec.variant, spec.allow_pickle)
    kind = getattr(torch, dtype)
    parts = networks.load_networks(model, spec.variant, spec.allow_pickle, kind)
    failure = f"{model.path}: cannot load {model.class_name}"
    with as_model_error(failure), no_progress_bars():
        pipeline = pipeline_class.from_pretrained(
            model.path,
            dtype=kind,
            local_files_only=True,
            use_safetensors=None if spec.allow_pickle else True,
            **parts,
            **_fixed_arguments(pipeline_class),
        ).to(device)
    networks.require_finite(pipeline, failure)
    return pipeline


def resolve_dtype(dtype: DType, device: str) -> str:
    """Resolve `auto`: float32 on a CPU, bfloat16 on an accelerator."""
    if dtype != "auto":
        return dtype
    return "float32" if device == "cpu" else "bfloat16"


def check_speed(
    model: PipelineFolder, pipeline_class: Any, spec: ModelSpec, elsewhere: bool = False
) -> None:
    """Check, without loading a weight, that a model supports `spec.speed`.

    Args:
        model: the folder of a saved pipeline.
        pipeline_class: the pipeline's class.
        spec: the model as the job names it.
        elsewhere: another machine will sample, so what this one lacks does not matter.

    Raises:
        ModelError: it does not support one of the choices; the message says what it does.
    """
    if spec.speed.chosen():
        from nightpress.diffusion_core.acceleration import apply

        with no_progress_bars():
            unloaded = pipeline_folder.skeleton(model)
            apply.check_speed(_parts(unloaded, pipeline_class, spec, elsewhere), spec.speed)


def _accelerate(pipeline: Any, pipeline_class: Any, spec: ModelSpec) -> None:
    if spec.speed.chosen():
        from nightpress.diffusion_core.acceleration import apply

        apply.apply_speed(_parts(pipeline, pipeline_class, spec), spec.speed)


def _parts(pipeline: Any, pipeline_class: Any, spec: ModelSpec, elsewhere: bool = False) -> Any:
    from nightpress.diffusion_core.acceleration.apply import Parts

    negative = pipeline_folder.takes_negative_prompt(pipeline_class)
    return Parts(pipeline, pipeline_class, spec.dtype, negative, elsewhere)


def _lora_infos(
    spec: ModelSpec, files: Sequence[Path], pipeline_class: Any
) -> tuple[tuple[LoraInfo, ...], tuple[LoraInfo, ...]]:
    """The LoRAs of every image, and those that rows may name."""
    infos = tuple(
        LoraInfo(lora.label, weight_files.fingerprint_of_file(file), lora.scale)
        for lora, file in check_lora_files(spec.all_loras, files, pipeline_class, spec.allow_pickle)
    )
    return infos[: len(spec.loras)], infos[len(spec.loras) :]


def _fingerprint(model: PipelineFolder, spec: ModelSpec, loras: Sequence[LoraInfo]) -> str:
    """A hash of everything that decides the pixels of every image; the order of LoRAs counts."""
    used = weight_files.used_files(model.path, model.components, spec.variant, spec.allow_pickle)
    fingerprint = weight_files.fingerprint(model.path, used)
    if not loras:
        return fingerprint
    content = json.dumps([fingerprint, [[lora.sha256, lora.scale] for lora in loras]])
    return hashlib.sha256(content.encode()).hexdigest()


def _samplers(model: PipelineFolder, pipeline_class: Any) -> tuple[str, ...]:
    lcm_only = "original_inference_steps" in pipeline_folder.call_parameters(pipeline_class)
    return samplers.compatible_samplers(model.scheduler, pipeline_class.__name__, lcm_only)


def _fixed_arguments(pipeline_class: Any) -> dict[str, Any]:
    """Constructor arguments whose default depends on which other packages are installed."""
    takes = inspect.signature(pipeline_class.__init__).parameters
    return {"add_watermarker": False} if "add_watermarker" in takes else {}
