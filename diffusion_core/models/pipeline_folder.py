"""What is known about a diffusers pipeline from its class and its configuration files.

Owns the rules that describe any text-to-image pipeline of the library without loading a weight.
"""

import functools
import inspect
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsupportedModel,
    as_model_error,
)
from nightpress.diffusion_core.models.modes import FAMILIES, text_to_image_sibling
from nightpress.diffusion_core.models.weight_files import GGUF_SUFFIX, checkpoint_in

NEEDED_ARGUMENTS = ("prompt", "height", "width", "num_inference_steps", "generator", "output_type")
"""Arguments that a pipeline's `__call__` must have."""

FOREIGN_INPUTS = ("mask_image", "control_image", "reference_image", "source_embeds")
"""Arguments of pipelines for which a prompt alone is not enough."""

IMAGE_IS_OPTIONAL = (
    "BriaFibo2Pipeline",
    "Flux2KleinKVPipeline",
    "Flux2KleinPipeline",
    "Flux2Pipeline",
    "FluxKontextPipeline",
    "GlmImagePipeline",
    "QwenImage21Pipeline",
    "StableCascadeCombinedPipeline",
    "ZImageOmniPipeline",
)
"""Pipelines whose argument `image` or `images` is optional; all others with one need it."""

LEAST_MULTIPLES = (
    ("QwenImage21", 32),
    ("Sana", 32),
    ("LTX", 32),
    ("HunyuanVideo", 16),
    ("Kandinsky5", 16),
    ("Kandinsky", 64),
)
"""Start of a class name -> pixels of which widths and heights must be multiples, whatever the VAE
is; the first that fits counts."""

MULTIPLY_BY_GUIDANCE = frozenset(
    {
        "PixArtAlphaPipeline",
        "PixArtSigmaPipeline",
        "SanaPipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3Pipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLPipeline",
    }
)
"""Pipelines that only multiply by a guidance scale above 1, unless the scale is an input of their
denoiser. Subclasses do not count: they may do anything with it."""

AUTOENCODERS = frozenset({"vae", "movq", "vqvae", "vqgan"})
"""What pipelines call the component that decodes latents."""

FACTS = "nightpress-checkpoint.json"
"""In the folder of a model in one file, what is known about the file; see `single_file.folder`."""

NOTHING: Mapping[str, str] = {}

PACK = "find the multiple that widths and heights must have"


@dataclass(frozen=True)
class PipelineFolder:
    """A folder in which a diffusers pipeline was saved."""

    path: Path
    index: dict[str, Any]
    """The content of `model_index.json`."""

    @classmethod
    def read(cls, path: Path) -> "PipelineFolder":
        """Read the folder's index.

        Raises:
            ModelNotFound: there is no folder, or no `model_index.json` in it.
            ModelError: the index is damaged.
        """
        if not path.is_dir():
            raise ModelNotFound(f"{path}: no such model folder")
        if not (path / "model_index.json").is_file():
            raise ModelNotFound(
                f"{path}: not a saved diffusers pipeline: there is no model_index.json"
            )
        return cls(path, read_json(path / "model_index.json"))

    @property
    def checkpoint(self) -> Path | None:
        """The single file with the weights of those networks that have none in their folders."""
        return checkpoint_in(self.path)

    @property
    def is_gguf(self) -> bool:
        """Whether the weights of its denoiser are in a GGUF file."""
        return self.checkpoint is not None and self.checkpoint.suffix == GGUF_SUFFIX

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is known about the single file; empty for any other folder."""
        return read_json(self.path / FACTS) if self.checkpoint is not None else {}

    @property
    def shown(self) -> str:
        """What errors call the model: its single file, or its folder."""
        return str(self.facts.get("source", self.path))

    @property
    def class_name(self) -> str:
        """Name of the pipeline class.

        Raises:
            UnsupportedModel: the index names no class of diffusers.
        """
        name = self.index.get("_class_name")
        if not isinstance(name, str):
            raise UnsupportedModel(
                f"{self.shown}: model_index.json names the class {name!r}; pipelines with code of "
                "their own are not supported"
            )
        return name

    @property
    def components(self) -> dict[str, str]:
        """Component -> class name, for the components that have a folder of their own."""
        return {
            name: entry[1]
            for name, entry in self.index.items()
            if isinstance(entry, list)
            and len(entry) == 2
            and all(isinstance(part, str) for part in entry)
        }

    @cached_property
    def denoiser(self) -> dict[str, Any]:
        """Configuration of the transformer or U-Net; empty if there is neither."""
        return self.config("transformer") or self.config("unet")

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        """The scheduler's configuration, with the class that the index names."""
        values = self.config("scheduler", "scheduler_config.json")
        return values | {"_class_name": self.components.get("scheduler")}

    def config(self, component: str, file: str = "config.json") -> dict[str, Any]:
        """A component's configuration, completed by the defaults of its class."""
        path = self.path / component / file
        if component not in self.components or not path.is_file():
            return {}
        return with_defaults(self.components[component], read_json(path))


def with_defaults(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, completed by the defaults of its class in diffusers, if it has the class."""
    import diffusers

    kind = getattr(diffusers, class_name, None)
    parameters = inspect.signature(kind.__init__).parameters.values() if kind else ()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {**defaults, **config}


def skeleton(folder: PipelineFolder) -> SimpleNamespace:
    """The denoiser and the VAE on the meta device, without weights, by the pipeline's names.

    Raises:
        ModelError: a class rejects its configuration.
    """
    import diffusers
    import torch

    networks = {}
    for name in ("transformer", "unet", "vae"):
        network = getattr(diffusers, folder.components.get(name, ""), None)
        if network is not None:
            invalid = f"{folder.shown}: {name}: not a valid {network.__name__}"
            with as_model_error(invalid), torch.device("meta"):
                networks[name] = network.from_config(folder.config(name))
    return SimpleNamespace(**networks)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON mapping from a file.

    Raises:
        ModelError: the file cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: not a JSON object")
    return values


def class_to_load(folder: PipelineFolder) -> str:
    """The name of the class as which a folder is loaded.

    A folder that was saved by an image or inpainting pipeline is loaded as the text-to-image
    pipeline over the same components, unless its denoiser cannot do without a picture.
    """
    name = text_to_image_sibling(folder.class_name)
    family = FAMILIES.get(name)
    if family is None or not family.makes_text:
        return name
    if is_made_for_inpainting(folder) and "inpaint" in family.classes:
        return family.classes["inpaint"]
    if folder.index.get("requires_aesthetics_score") and "image" in family.classes:
        return family.classes["image"]
    return name


def is_made_for_inpainting(folder: PipelineFolder) -> bool:
    """Whether the denoiser's input has room for the latents, a mask and a masked picture."""
    channels = folder.config("vae").get("latent_channels")
    return channels is not None and folder.denoiser.get("in_channels") == 2 * channels + 1


def text_to_image_class(
    folder: PipelineFolder, refused: Mapping[str, str] = NOTHING, clips: Collection[str] = ()
) -> Any:
    """The diffusers class as which the pipeline in a folder is loaded.

    It makes images or clips from a prompt alone, or is one of `FAMILIES` that needs a picture.

    Args:
        folder: the pipeline's folder.
        refused: names of classes that cannot be sampled -> why; completes "it ...".
        clips: names of classes that make clips and can be sampled.

    Raises:
        UnsupportedModel: the installed diffusers does not have it, or it needs more than that.
    """
    import diffusers

    name = class_to_load(folder)
    pipeline_class = getattr(diffusers, name, None)
    if not (
        inspect.isclass(pipeline_class) and issubclass(pipeline_class, diffusers.DiffusionPipeline)
    ):
        raise UnsupportedModel(
            f"{folder.shown}: {name} is not a pipeline of the installed diffusers "
            f"{diffusers.__version__}"
        )
    needs_picture = name in FAMILIES and not FAMILIES[name].makes_text
    if name in refused:
        raise UnsupportedModel(f"{folder.shown}: {name} is not supported: it {refused[name]}")
    known = needs_picture or name in clips
    reason = None if known else why_not_text_to_image(pipeline_class)
    if reason is not None:
        raise UnsupportedModel(
            f"{folder.shown}: {name} is not a text-to-image pipeline: it {reason}"
        )
    return pipeline_class


def why_not_text_to_image(pipeline_class: Any) -> str | None:
    """Why a class does not make images from a prompt alone; completes "it ..."; None if it does."""
    parameters = call_parameters(pipeline_class)
    if missing := [name for name in NEEDED_ARGUMENTS if name not in parameters]:
        return f"takes no {', '.join(missing)}"
    if video := [name for name in parameters if "video" in name or "frames" in name]:
        return f"makes videos ({video[0]})"
    foreign = [name for name in FOREIGN_INPUTS if name in parameters]
    if pipeline_class.__name__ not in IMAGE_IS_OPTIONAL:
        foreign += [name for name in ("image", "images") if name in parameters]
    takes = inspect.signature(pipeline_class.__init__).parameters
    foreign += [name for name in takes if "control" in name]
    foreign += [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and name != "prompt"
    ]
    return f"needs {', '.join(dict.fromkeys(foreign))}" if foreign else None


def call_parameters(pipeline_class: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a pipeline class's `__call__`, without self; cached for every batch."""
    return dict(_parameters(pipeline_class.__call__))


@functools.cache
def _parameters(call: Any) -> Mapping[str, inspect.Parameter]:
    return {n: each for n, each in inspect.signature(call).parameters.items() if n != "self"}


def call_default(pipeline_class: Any, name: str) -> Any:
    """The default of a parameter of `__call__`; None if it has none."""
    parameter = call_parameters(pipeline_class).get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def fixed_arguments(pipeline_class: Any) -> dict[str, Any]:
    """Constructor arguments whose default depends on which other packages are installed."""
    takes = inspect.signature(pipeline_class.__init__).parameters
    return {"add_watermarker": False} if "add_watermarker" in takes else {}


def vae_factor(folder: PipelineFolder) -> int:
    """The downsampling factor: pixels per latent position, along each side.

    1 for models without an autoencoder, which denoise pixels.
    """
    config = folder.config("vae")
    if not config:
        return 8 if AUTOENCODERS & folder.components.keys() else 1
    if own := config.get("scale_factor_spatial"):
        return int(own)
    if "spatio_temporal_scaling" in config:  # LTX
        own = config.get("spatial_compression_ratio")
        return int(own or config["patch_size"] * 2 ** sum(config["spatio_temporal_scaling"]))
    for stages in ("temperal_downsample", "temporal_downsample"):
        if isinstance(config.get(stages), (list, tuple)):
            return int(2 ** len(config[stages]))
    for blocks in ("block_out_channels", "encoder_block_out_channels"):
        if isinstance(config.get(blocks), (list, tuple)):
            return int(2 ** (len(config[blocks]) - 1))
    return 8


def size_multiple(folder: PipelineFolder, pipeline_class: Any) -> int:
    """The number of pixels of which widths and heights must be multiples."""
    patch = folder.denoiser.get("patch_size") or folder.denoiser.get("all_patch_size") or 1
    patch = max(patch) if isinstance(patch, (list, tuple)) else int(patch)
    # Pipelines like FLUX pack 2 x 2 latents into one token; some call that their patch size too.
    patch = max(patch, 2) if _packs_latents(pipeline_class) else patch
    least = next(
        (n for start, n in LEAST_MULTIPLES if pipeline_class.__name__.startswith(start)), 8
    )
    if pipeline_class.__name__ == "StableVideoDiffusionPipeline":  # its U-Net has no odd sides
        patch = 2 ** (len(folder.denoiser.get("block_out_channels") or (1,)) - 1)
    return math.lcm(least, vae_factor(folder) * patch)


def native_size(folder: PipelineFolder, pipeline_class: Any) -> tuple[int, int] | None:
    """(width, height) in pixels that the model was trained for; None if nothing says so."""
    sample_size = folder.denoiser.get("sample_size")
    if pipeline_class.__name__ == "StableVideoDiffusionPipeline":  # trained for no square
        return _default_size(pipeline_class)
    if "sample_height" in folder.denoiser:  # CogVideoX
        sample_size = (folder.denoiser["sample_height"], folder.denoiser["sample_width"])
    if sample_size is None and (size := _default_size(pipeline_class)):
        return size
    if sample_size is None and _packs_latents(pipeline_class):
        sample_size = 128  # the default size in the constructors of pipelines like FLUX
    if sample_size is None:
        return None
    sides = sample_size if isinstance(sample_size, (list, tuple)) else (sample_size, sample_size)
    factor = vae_factor(folder)
    return int(sides[1]) * factor, int(sides[0]) * factor


def _default_size(pipeline_class: Any) -> tuple[int, int] | None:
    """(width, height) in pixels that a class makes by default; None if `__call__` has no number."""
    square = call_default(pipeline_class, "output_resolution")
    width, height = (call_default(pipeline_class, side) or square for side in ("width", "height"))
    return None if width is None or height is None else (int(width), int(height))


def _packs_latents(pipeline_class: Any) -> bool:
    """Whether a pipeline class packs squares of latents into the tokens of a transformer.

    Read against diffusers 0.42.1. Relies on such classes having the method `_pack_latents`, those
    of FLUX first of all, or `_unpatchify_latents`, as ERNIE-Image has. Ideogram 4 has neither.
    """
    if pipeline_class.__name__.startswith("Flux"):
        patching.require(pipeline_class, "_pack_latents", PACK)
    methods = ("_pack_latents", "_unpatchify_latents")
    packs = any(hasattr(pipeline_class, name) for name in methods)
    if pipeline_class.__name__.startswith("LTX"):  # packs by the patch size of its transformer
        return False
    return packs or pipeline_class.__name__ == "Ideogram4Pipeline"
