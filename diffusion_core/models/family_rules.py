"""What differs between the classes of diffusers that make images or clips, read against 0.42.1.

Owns how guidance reaches each class, whose rows may share a batch, which arguments of a call are
always the same, and which classes are refused. The table in this package's README measures it.
"""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nightpress.diffusion_core.models.clip_rules import REFUSED_CLIPS
from nightpress.diffusion_core.models.pipeline_folder import (
    PipelineFolder,
    call_default,
    call_parameters,
)

REFUSED = {
    "AmusedPipeline": "passes one generator to its scheduler, and not one for each image",
    "Cosmos2TextToImagePipeline": "cannot do without a safety checker (cosmos_guardrail) that "
    "fetches models of its own and stops a whole call for one prompt",
    "GlmImagePipeline": "draws its image tokens from torch's global random numbers, not from a "
    "row's seed",
    "OnnxStableDiffusionPipeline": "runs in ONNX Runtime and not in torch",
    "PRXPipeline": "has a text encoder (T5GemmaEncoder) that this transformers does not export",
    "StableCascadeCombinedPipeline": "has a decoder (PaellaVQModel) that this diffusers cannot "
    "load from a folder",
    "StableDiffusionGLIGENPipeline": "needs gligen_phrases and gligen_boxes",
    "StableDiffusionGLIGENTextImagePipeline": "needs gligen_phrases and gligen_boxes",
    "StableDiffusionLDM3DPipeline": "makes depth maps beside its images",
    "StableDiffusionOnnxPipeline": "runs in ONNX Runtime and not in torch",
    "StableDiffusionPanoramaPipeline": "mixes up the prompts of a batch",
    "StableDiffusionParadigmsPipeline": "runs with the parallel schedulers of diffusers only",
    "VersatileDiffusionTextToImagePipeline": "changes its own U-Net when it is made",
    "WuerstchenCombinedPipeline": "has networks (PaellaVQModel, WuerstchenDiffNeXt, "
    "WuerstchenPrior) that this diffusers cannot load from a folder",
    "WuerstchenPriorPipeline": "makes embeddings instead of images",
}
"""Text-to-image classes that cannot be sampled a row at a time -> why; completes "it ..."."""

NEEDED_PACKAGES = {
    "BriaFibo2Pipeline": "torchvision",
    "Flux2Pipeline": "torchvision",
    "LongCatImagePipeline": "torchvision",
    "NucleusMoEImagePipeline": "torchvision",
    "OmniGenPipeline": "torchvision",
    "PRXPixelPipeline": "ftfy",
    "WanImageToVideoPipeline": "ftfy",
    "QwenImage21Pipeline": "torchvision",
}
"""Class -> a package without which its calls or its processor's class fail, though diffusers does
not ask for it."""

CLEANS_PROMPTS = {"WanPipeline": "ftfy"}
"""Class -> a package that changes its prompts where it is installed, and that it does without."""

PADS_TO_FIXED_LENGTH = frozenset(
    {
        "ChromaPipeline",
        "CogView3PlusPipeline",
        "Flux2KleinPipeline",
        "Flux2Pipeline",
        "HiDreamImagePipeline",
        "HunyuanDiTPAGPipeline",
        "HunyuanDiTPipeline",
        "LDMTextToImagePipeline",
        "Krea2Pipeline",
        "OvisImagePipeline",
        "SemanticStableDiffusionPipeline",
        "StableUnCLIPPipeline",
    }
)
"""Classes that encode prompts themselves, all to one length: their rows may share a batch. Others
pad to the longest prompt of a call, or decide something for a whole call, so theirs may not."""

ENCODE_THEMSELVES = frozenset({"CogView3PlusPipeline", "PRXPixelPipeline", "StableUnCLIPPipeline"})
"""Classes that embeddings do not suffice: CogView replaces that of a negative prompt by zeros, PRX
makes none for a given prompt, and unCLIP also reads the prompt's text."""

RETURNS_RAW_TENSORS = frozenset(
    {
        "IFPipeline",
        "Kandinsky3Pipeline",
        "KandinskyCombinedPipeline",
        "KandinskyV22CombinedPipeline",
        "PRXPixelPipeline",
    }
)
"""Classes that return tensors in -1..1, which a safety checker has not seen, and arrays in 0..1."""

FIXED_ARGUMENTS: dict[str, Any] = {
    # Binning would sample the nearest size of a table, and resize.
    "use_resolution_binning": False,
    # What cleaning does depends on the packages installed, and pixels must not.
    "clean_caption": False,
    # A language model would rewrite the prompt, with random numbers of no row's seed.
    "enable_prompt_rewrite": False,
    "use_pe": False,
    "prompt_upsampling": False,
    # One guidance scale for all steps, not both a scale and a schedule.
    "guidance_schedule": None,
}
"""Arguments of `__call__` that are the same for every image, where a class has them."""


def refusals() -> dict[str, str]:
    """Class names that cannot be sampled here -> why; completes "it ..."."""
    lacking = {
        name: f"needs the package {package}, which is not installed"
        for name, package in NEEDED_PACKAGES.items()
        if importlib.util.find_spec(package) is None
    }
    return REFUSED | REFUSED_CLIPS | lacking


@dataclass(frozen=True)
class Guidance:
    """How a row's guidance scale and negative prompt reach a pipeline."""

    argument: str | None = "guidance_scale"
    """The argument of `__call__` that takes the scale; `guider` if that component does, and None
    if nothing does."""
    default: float = 1.0
    """The scale of rows that give none; what the pipeline itself does by default."""
    takes_negative_prompt: bool = True
    off_at: float = 1.0
    """The largest scale that is no guidance at all."""
    empty_negative_prompt: str = ""
    """What rows without a negative prompt get where there is guidance: some pipelines have none
    without a negative prompt. "" for the pipeline's own default."""
    switch_off: bool = False
    """Whether `true_cfg_scale` must be passed as 1, since the scale is an input of the denoiser."""


def guidance_of(model: PipelineFolder, pipeline_class: Any) -> Guidance:
    """How guidance works in a saved model.

    Args:
        model: its folder, whose configuration decides where the scale is an input of the network.
        pipeline_class: its class.
    """
    parameters = call_parameters(pipeline_class)
    negative = "negative_prompt" in parameters
    is_input = bool(model.denoiser.get("guidance_embeds"))
    if "distilled_guidance_scale" in parameters:
        return _guider(model, pipeline_class, is_input)
    if "true_cfg_scale" in parameters:
        return _true_cfg(pipeline_class, is_input)
    if "max_guidance_scale" in parameters:  # SVD: that of the last frame; that of the first is 1
        scale = call_default(pipeline_class, "max_guidance_scale")
        return Guidance("max_guidance_scale", float(scale), takes_negative_prompt=False)
    if "guidance_scale" not in parameters:
        if "prior_guidance_scale" not in parameters:
            return Guidance(argument=None, takes_negative_prompt=False)
        scale = call_default(pipeline_class, "prior_guidance_scale")
        return Guidance("prior_guidance_scale", float(scale), negative)
    if _is_distilled(model, pipeline_class):
        return Guidance(argument=None, takes_negative_prompt=False)
    off_at = guidance_off_at(pipeline_class.__name__)
    return Guidance("guidance_scale", _default(pipeline_class), negative, off_at)


def guidance_off_at(pipeline_class: str) -> float:
    """The largest scale that is no guidance at all, by the name of a class."""
    return 0.0 if pipeline_class in GUIDED_ABOVE_0 else 1.0


GUIDED_ABOVE_0 = ("Krea2Pipeline", "ZImageOmniPipeline", "ZImagePipeline")
"""Classes that add the scaled difference to the guided prediction, so that 0 is no guidance."""


def _guider(model: PipelineFolder, pipeline_class: Any, is_input: bool) -> Guidance:
    """HunyuanImage: an input of the network, or a component."""
    if is_input:
        scale = call_default(pipeline_class, "distilled_guidance_scale")
        return Guidance("distilled_guidance_scale", float(scale), takes_negative_prompt=False)
    settings = model.config("guider", "guider_config.json")
    if not settings:
        return Guidance(argument=None, takes_negative_prompt=False)
    return Guidance("guider", float(settings.get("guidance_scale", 1.0)))


def _true_cfg(pipeline_class: Any, is_input: bool) -> Guidance:
    """FLUX.1 and Qwen-Image, whose classifier-free guidance is not called `guidance_scale`.

    Theirs needs a negative prompt, and " " is what Qwen-Image's makers give where there is none.
    """
    has_scale = "guidance_scale" in call_parameters(pipeline_class)
    if is_input and has_scale:
        scale = call_default(pipeline_class, "guidance_scale")
        return Guidance(default=float(scale or 1.0), takes_negative_prompt=False, switch_off=True)
    if pipeline_class.__name__.startswith("Qwen"):
        scale = call_default(pipeline_class, "true_cfg_scale")
        return Guidance("true_cfg_scale", float(scale), empty_negative_prompt=" ")
    return Guidance(argument=None, takes_negative_prompt=False)


def _is_distilled(model: PipelineFolder, pipeline_class: Any) -> bool:
    """Whether the class ignores the scale of this model."""
    if pipeline_class.__name__ == "LatentConsistencyModelPipeline":
        return model.denoiser.get("time_cond_proj_dim") is None
    return bool(model.index.get("is_distilled"))


def _default(pipeline_class: Any) -> float:
    """The default scale; where the pipeline has a schedule instead, its first value."""
    scale = call_default(pipeline_class, "guidance_scale")
    schedule = call_default(pipeline_class, "guidance_schedule")
    if scale is None and schedule:
        return float(schedule[0])
    return 1.0 if scale is None else float(scale)


def shares_batches(pipeline_class: Any) -> bool:
    """Whether images of a class that encodes prompts itself may share a call."""
    return pipeline_class.__name__ in PADS_TO_FIXED_LENGTH


def guidance_arguments(guidance: Guidance, scale: float) -> Mapping[str, Any]:
    """The arguments of `__call__` that carry a guidance scale."""
    if guidance.argument in (None, "guider"):
        return {}
    switched = {"true_cfg_scale": 1.0} if guidance.switch_off else {}
    return {str(guidance.argument): scale, **switched}


def output_type(pipeline_class: Any) -> str:
    """The `output_type` with which a class returns images in 0..1."""
    return "np" if pipeline_class.__name__ in RETURNS_RAW_TENSORS else "pt"


def step_arguments(num_inference_steps: int) -> Mapping[str, Any]:
    """The arguments of `__call__` that depend on the number of steps.

    SANA-Sprint has a default for a timestep between two steps, and refuses it with other numbers.
    """
    return {} if num_inference_steps == 2 else {"intermediate_timesteps": None}


def make_ready(pipeline: Any, guidance: Guidance, scale: float, size: tuple[int, int]) -> None:
    """Set what is a property of the pipeline and not an argument of its call.

    Args:
        pipeline: the pipeline, which is changed.
        guidance: how guidance works in it.
        scale: the guidance scale of the call.
        size: (width, height) in pixels. Kandinsky 5 replaces those not in its list, HiDream those
            without its own number of pixels.
    """
    if guidance.argument == "guider":
        for name in ("guider", "ocr_guider"):
            guider = getattr(pipeline, name, None)
            if guider is not None:
                setattr(pipeline, name, guider.new(guidance_scale=scale))
    if hasattr(pipeline, "decoder_pipe"):  # a cascade, whose last stage has kept the loaded one
        pipeline.decoder_pipe.scheduler = pipeline.scheduler
    if isinstance(getattr(pipeline, "resolutions", None), list):
        pipeline.resolutions = [size]
    if type(pipeline).__name__ == "HiDreamImagePipeline":
        # The least more, so that rounding down keeps the size.
        side = math.sqrt(size[0] * size[1]) / pipeline.vae_scale_factor
        pipeline.default_sample_size = side * (1 + 1e-9)
