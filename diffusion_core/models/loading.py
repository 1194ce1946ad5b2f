"""Describing a saved model without loading it, and loading it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import UnsupportedModel, as_model_error
from nightpress.diffusion_core.models import (
    networks,
    pipeline_folder,
    placement,
    quantized_weights,
    samplers,
    weight_files,
)
from nightpress.diffusion_core.models.adapter_files import NO_ADAPTERS, AdapterFiles, ReferenceFiles
from nightpress.diffusion_core.models.clip_rules import CLIP_CLASSES, ClipRules, clip_rules
from nightpress.diffusion_core.models.controlnets import (
    ControlNet,
    check_controlnet_weights,
    describe_controlnets,
    load_controlnets,
)
from nightpress.diffusion_core.models.embeddings import EmbeddingFile, load_embeddings
from nightpress.diffusion_core.models.family_rules import Guidance, guidance_of, refusals
from nightpress.diffusion_core.models.folder_defaults import defaults
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.lora_files import (
    LoraInfo,
    LoraSpec,
    check_lora_files,
    load_loras,
)
from nightpress.diffusion_core.models.lora_switching import RowLoras
from nightpress.diffusion_core.models.mode_facts import default_strengths, supported_modes
from nightpress.diffusion_core.models.model_speed import apply_speed, check_speed
from nightpress.diffusion_core.models.modes import modes_of
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.placement import MemorySpec
from nightpress.diffusion_core.models.precision import resolve_dtype
from nightpress.diffusion_core.models.prompt_loading import (
    checked_embeddings,
    limits_of_folder,
    limits_of_pipeline,
)
from nightpress.diffusion_core.models.prompt_reading import PromptReader
from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.diffusion_core.models.prompts import PromptLimits
from nightpress.diffusion_core.models.reference_switching import References, load_references
from nightpress.diffusion_core.models.references import (
    ReferenceSpec,
    check_encoder_weights,
    check_references,
    reference_info,
)
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.silence_libraries import errors_only, no_progress_bars


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
    guidance: Guidance = field(default_factory=Guidance)
    """How a guidance scale and a negative prompt reach the pipeline."""
    speed: SpeedSpec = field(default_factory=SpeedSpec)
    """The acceleration: applied to the pipeline, or to be applied around each of its calls."""
    row_loras: RowLoras = field(default_factory=RowLoras)
    """Switches between the LoRAs in the pipeline."""
    references: References = field(default_factory=References)
    """Switches between the IP-Adapters in the pipeline."""
    prompts: PromptLimits = field(default_factory=PromptLimits)
    """How much of a prompt the model reads."""
    reading: PromptsSpec = field(default_factory=PromptsSpec)
    """How prompts are read."""
    controlnets: tuple[ControlNet, ...] = ()
    """In the job's order."""
    memory: MemorySpec = field(default_factory=MemorySpec)
    """Whether its networks are moved to the device in turn."""
    clips: ClipRules | None = None
    """The clips that it makes; None for a model of still images."""

    @property
    def reader(self) -> PromptReader:
        """Reads prompts as planning does."""
        return PromptReader(self.reading, self.prompts)

    @property
    def takes_negative_prompt(self) -> bool:
        """Whether a negative prompt has any effect."""
        return self.guidance.takes_negative_prompt


@errors_only()
def describe(
    folder: Path,
    spec: ModelSpec,
    lora_files: Sequence[Path] = (),
    elsewhere: bool = False,
    adapters: AdapterFiles = NO_ADAPTERS,
    device: str | None = None,
) -> ModelInfo:
    """Describe a saved pipeline without loading it; every weight file is hashed.

    Args:
        folder: the pipeline's folder.
        spec: the model as the job names it.
        lora_files: one file for each of `spec.all_loras`.
        elsewhere: another machine will sample, so what this one lacks does not matter.
        adapters: the ControlNets and IP-Adapters that `spec` names.
        device: torch's name of the device of this machine that will sample, where it is known.

    Raises:
        ModelNotFound: the folder, its `model_index.json` or a component's files are missing.
        UnsafeWeights: the weights are pickles, and `spec.allow_pickle` is off.
        UnsupportedModel: no pipeline of this diffusers for images or clips, or it takes no LoRAs.
        ModelError: a configuration file is damaged, or the model does not support `spec.ways`.
    """
    model, pipeline_class = read_model(folder)
    spec, dtype = _resolved(spec, device, folder)
    _require_placeable(model, pipeline_class, spec, elsewhere, device)
    loras = _lora_infos(spec, lora_files, pipeline_class)
    embeddings = checked_embeddings(spec, adapters, model, pipeline_class)
    nets = describe_controlnets(spec.controlnets, adapters.controlnets, model, spec.allow_pickle)
    check_speed(model, pipeline_class, spec, elsewhere, device)
    references = _checked_references(spec, adapters, model, pipeline_class)
    return replace(
        _info(model, pipeline_class, spec, *loras),
        dtype=dtype,
        prompts=limits_of_folder(model, pipeline_class, spec, embeddings),
        embeddings=tuple(each.info for each in embeddings),
        controlnets=nets,
        references=tuple(reference_info(*each) for each in references),
    )


def _require_placeable(
    model: PipelineFolder, pipeline_class: Any, spec: ModelSpec, elsewhere: bool, device: str | None
) -> None:
    """Refuse networks that cannot be where the job wants them, or whose weights nothing reads."""
    placement.require_placement(spec.memory, pipeline_class, model)
    quantized_weights.check_quantized(model, elsewhere, device)


def _resolved(spec: ModelSpec, device: str | None, folder: Path) -> tuple[ModelSpec, str | None]:
    """The model in the precision of its device, if that is known."""
    if device is None:
        return spec, None
    dtype = resolve_dtype(spec.dtype, device, folder)
    return spec.model_copy(update={"dtype": dtype}), dtype


def _info(
    model: PipelineFolder,
    pipeline_class: Any,
    spec: ModelSpec,
    loras: tuple[LoraInfo, ...],
    row_loras: tuple[LoraInfo, ...],
) -> ModelInfo:
    width, height = pipeline_folder.native_size(model, pipeline_class) or (None, None)
    guidance = guidance_of(model, pipeline_class)
    steps, guidance_scale = defaults(model.path, pipeline_class, guidance)
    names = _samplers(model, pipeline_class)
    has = bool(spec.controlnets), bool(spec.references)
    modes = supported_modes(pipeline_class, spec.ways, *has)
    clips = clip_rules(model, pipeline_class, modes)
    modes = clips.modes if clips else modes
    return ModelInfo(
        source=spec.source,
        fingerprint=fingerprint_of(model, spec, loras),
        pipeline=pipeline_class.__name__,
        size_multiple=pipeline_folder.size_multiple(model, pipeline_class),
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        samplers=names,
        modes=modes,
        default_strengths=default_strengths(pipeline_class, modes),
        own_sampler=samplers.own_sampler(model.scheduler, names),
        takes_negative_prompt=guidance.takes_negative_prompt,
        takes_guidance=guidance.argument is not None,
        max_steps=samplers.most_steps(model.scheduler),
        loras=loras,
        row_loras=row_loras,
        family=model.facts.get("family"),
        notes=tuple(model.facts.get("notes", ())),
        clips=clips,
    )


def check_weights(folder: Path, spec: ModelSpec, adapters: AdapterFiles = NO_ADAPTERS) -> None:
    """Check, without loading a weight, that the files hold exactly the weights of the model.

    Raises:
        ModelError: they do not; the message names the component and its first such tensors.
    """
    model = PipelineFolder.read(folder)
    networks.check_networks(model, spec.variant, spec.allow_pickle)
    check_controlnet_weights(spec.controlnets, adapters.controlnets, model, spec.allow_pickle)
    check_encoder_weights(adapters.references)


@errors_only()
def load(
    folder: Path,
    spec: ModelSpec,
    device: str,
    lora_files: Sequence[Path] = (),
    adapters: AdapterFiles = NO_ADAPTERS,
) -> LoadedModel:
    """Load a saved pipeline and what is added to it onto a device, without using the network.

    The arguments are as for `describe`, and torch's name of the device, such as `cuda:0`.

    Raises:
        ModelError: as `describe`, or a part of it cannot be loaded; the message is one line.
    """
    model, pipeline_class = read_model(folder)
    loras = check_lora_files(spec.all_loras, lora_files, pipeline_class, spec.allow_pickle)
    references = _checked_references(spec, adapters, model, pipeline_class)
    embeddings = checked_embeddings(spec, adapters, model, pipeline_class)
    spec = spec.model_copy(update={"dtype": resolve_dtype(spec.dtype, device, folder)})
    pipeline = _load_pipeline(model, pipeline_class, spec, device, embeddings)
    switching = _load_loras(pipeline, spec, loras, model.shown)
    switched = load_references(pipeline, references, model)
    guidance = guidance_of(model, pipeline_class)
    _accelerate_and_place(pipeline, pipeline_class, spec, guidance, device)
    return LoadedModel(
        pipeline=pipeline,
        device=device,
        dtype=spec.dtype,
        size_multiple=pipeline_folder.size_multiple(model, pipeline_class),
        scheduler_config=_scheduler_config(pipeline.scheduler),
        guidance=guidance,
        speed=spec.ways,
        row_loras=switching,
        references=switched,
        prompts=limits_of_pipeline(pipeline, model, spec, embeddings),
        reading=spec.prompts,
        controlnets=_load_controlnets(model, spec, adapters, device),
        memory=spec.memory,
        clips=clip_rules(model, pipeline_class, modes_of(pipeline_class.__name__)),
    )


def _load_loras(
    pipeline: Any, spec: ModelSpec, loras: Sequence[tuple[LoraSpec, Path]], model: str
) -> RowLoras:
    number = len(spec.loras)
    always, of_rows = loras[:number], loras[number:]
    return load_loras(pipeline, always, model, spec.allow_pickle, of_rows)


def _accelerate_and_place(
    pipeline: Any, pipeline_class: Any, spec: ModelSpec, guidance: Guidance, device: str
) -> None:
    apply_speed(pipeline, pipeline_class, spec, guidance, device)
    placement.place(pipeline, spec.memory, device)


def _scheduler_config(scheduler: Any) -> dict[str, Any]:
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


def _checked_references(
    spec: ModelSpec, adapters: AdapterFiles, model: PipelineFolder, pipeline_class: Any
) -> list[tuple[ReferenceSpec, ReferenceFiles]]:
    """The IP-Adapters with their files."""
    return check_references(
        spec.references, adapters.references, model, pipeline_class, spec.allow_pickle
    )


def read_model(folder: Path) -> tuple[PipelineFolder, Any]:
    """A pipeline's folder, and the class as which it is loaded.

    Raises:
        ModelNotFound: there is no saved pipeline in the folder.
        UnsupportedModel: it is not one that can be sampled.
    """
    model = PipelineFolder.read(folder)
    pipeline_class = pipeline_folder.text_to_image_class(model, refusals(), CLIP_CLASSES)
    _require_fit_scheduler(model, pipeline_class)
    return model, pipeline_class


def _require_fit_scheduler(model: PipelineFolder, pipeline_class: Any) -> None:
    """Refuse a scheduler that fails with its pipeline, or whose noise is not that of a row's seed.

    Read against diffusers 0.42.1. Relies on pipelines that pass a generator to `step` making its
    arguments in `prepare_extra_step_kwargs`; most of those for flow matching pass none.
    """
    name = pipeline_class.__name__
    if samplers.is_unfit(model.scheduler, name):
        raise UnsupportedModel(
            f"{model.shown}: its scheduler, {model.scheduler['_class_name']}, does not sample with "
            f"{name}; save it with one that does: {', '.join(samplers.fit_schedulers(name))}"
        )
    passes = patching.refers_to(pipeline_class.__call__, "prepare_extra_step_kwargs")
    if samplers.adds_noise(model.scheduler) and not passes:
        raise UnsupportedModel(
            f"{model.shown}: its scheduler, {model.scheduler['_class_name']}, adds noise in its "
            f"steps, and {name} gives it no generator, so that no image could "
            "be made again; save it with a FlowMatchEulerDiscreteScheduler without "
            "stochastic_sampling"
        )


def _load_pipeline(
    model: PipelineFolder,
    pipeline_class: Any,
    spec: ModelSpec,
    device: str,
    embeddings: Sequence[EmbeddingFile],
) -> Any:
    """The pipeline in a folder, in the type `spec.dtype`."""
    import torch

    weight_files.used_files(model.path, model.components, spec.variant, spec.allow_pickle)
    quantized_weights.check_quantized(model, elsewhere=False, device=device)
    kind = getattr(torch, spec.dtype)
    spread = placement.spread_arguments(spec.memory, device)
    # diffusers itself must load what it spreads.
    parts = {} if spread else networks.load_networks(model, spec.variant, spec.allow_pickle, kind)
    failure = f"{model.shown}: cannot load {model.class_name}"
    with as_model_error(failure), no_progress_bars():
        pipeline = pipeline_class.from_pretrained(
            model.path,
            dtype=kind,
            local_files_only=True,
            use_safetensors=None if spec.allow_pickle else True,
            **parts,
            **spread,
            **pipeline_folder.fixed_arguments(pipeline_class),
        )
        if device == "cpu" or not spec.memory.moves_networks:
            pipeline.to(device)
    networks.require_finite(pipeline, failure)
    pipeline.set_progress_bar_config(disable=True)
    load_embeddings(pipeline, embeddings)  # before LoRAs, whose layers keep the encoders' shapes
    return pipeline


def _load_controlnets(
    model: PipelineFolder, spec: ModelSpec, adapters: AdapterFiles, device: str
) -> tuple[ControlNet, ...]:
    if not spec.controlnets:
        return ()
    import torch

    kind, folders = getattr(torch, spec.dtype), adapters.controlnets
    return load_controlnets(spec.controlnets, folders, model, spec.allow_pickle, kind, device)


def _lora_infos(
    spec: ModelSpec, files: Sequence[Path], pipeline_class: Any
) -> tuple[tuple[LoraInfo, ...], tuple[LoraInfo, ...]]:
    """The LoRAs of every image, and those that rows may name."""
    infos = tuple(
        LoraInfo(lora.label, weight_files.fingerprint_of_file(file), lora.scale)
        for lora, file in check_lora_files(spec.all_loras, files, pipeline_class, spec.allow_pickle)
    )
    return infos[: len(spec.loras)], infos[len(spec.loras) :]


def fingerprint_of(model: PipelineFolder, spec: ModelSpec, loras: Sequence[LoraInfo]) -> str:
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
