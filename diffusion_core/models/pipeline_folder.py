"""What diffusers pipelines have in common, read from their classes and configuration files.

Owns the rules by which any text-to-image pipeline of the library can be described without
loading a weight. Knows nothing of the weights themselves.
"""

import inspect
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsupportedModel,
    in_one_line,
)

NEEDED_ARGUMENTS = ("prompt", "height", "width", "num_inference_steps", "generator", "output_type")
"""What `__call__` must take for a pipeline to be driven."""

FOREIGN_INPUTS = ("mask_image", "control_image", "images", "reference_image", "source_embeds")
"""Arguments of pipelines that cannot do with a prompt alone."""

PICTURE_IS_OPTIONAL = (
    "Flux2KleinPipeline",
    "Flux2Pipeline",
    "FluxKontextPipeline",
    "GlmImagePipeline",
    "QwenImage21Pipeline",
    "ZImageOmniPipeline",
)
"""Pipelines that take an `image` and do without; in all others it is what they work on."""


MULTIPLY_BY_GUIDANCE = frozenset(
    {
        "PixArtAlphaPipeline",
        "PixArtSigmaPipeline",
        "SanaPipeline",
        "StableDiffusion3Pipeline",
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
    }
)
"""Pipelines that do nothing with a guidance scale above 1 but multiply by it, unless their denoiser
is told the scale; only these very classes, whatever is derived from them."""


@dataclass(frozen=True)
class PipelineFolder:
    """A folder that a diffusers pipeline was saved to."""

    path: Path
    index: dict[str, Any]
    """`model_index.json`."""

    @classmethod
    def read(cls, path: Path) -> "PipelineFolder":
        """Read the folder's index.

        Raises:
            ModelNotFound: no folder, or no `model_index.json` in it.
            ModelError: an index that is damaged.
        """
        if not path.is_dir():
            raise ModelNotFound(f"{path}: no such model folder")
        if not (path / "model_index.json").is_file():
            raise ModelNotFound(f"{path}: no model_index.json, so no saved diffusers pipeline")
        return cls(path, read_json(path / "model_index.json"))

    @property
    def class_name(self) -> str:
        """The pipeline class that the index names."""
        name = self.index.get("_class_name")
        if not isinstance(name, str):
            raise UnsupportedModel(
                f"{self.path}: model_index.json names the class {name!r}; pipelines that bring "
                "their own code are not driven"
            )
        return name

    @property
    def components(self) -> dict[str, str]:
        """Component -> class name, of those that are loaded from their own folder."""
        return {
            name: entry[1]
            for name, entry in self.index.items()
            if isinstance(entry, list)
            and len(entry) == 2
            and all(isinstance(e, str) for e in entry)
        }

    @cached_property
    def denoiser(self) -> dict[str, Any]:
        """Configuration of the transformer or U-Net; empty if it has neither."""
        return self.config("transformer") or self.config("unet")

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        """The scheduler's configuration, under the class that the index names."""
        values = self.config("scheduler", "scheduler_config.json")
        return values | {"_class_name": self.components.get("scheduler")}

    def config(self, component: str, file: str = "config.json") -> dict[str, Any]:
        """A component's configuration, what the file leaves out filled in by its class."""
        path = self.path / component / file
        if component not in self.components or not path.is_file():
            return {}
        import diffusers

        owner = getattr(diffusers, self.components[component], None)
        parameters = inspect.signature(owner.__init__).parameters.values() if owner else ()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        return defaults | read_json(path)


def skeleton(folder: PipelineFolder) -> SimpleNamespace:
    """The denoiser and the VAE without weights, under the pipeline's names for them.

    Raises:
        ModelError: a configuration that its class does not take.
    """
    import diffusers
    import torch

    networks = {}
    for name in ("transformer", "unet", "vae"):
        owner = getattr(diffusers, folder.components.get(name, ""), None)
        if owner is not None:
            with in_one_line(f"{folder.path}: {name}: no {owner.__name__}"), torch.device("meta"):
                networks[name] = owner.from_config(folder.config(name))
    return SimpleNamespace(**networks)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping from a file.

    Raises:
        ModelError: it cannot be read, or is something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: expected a mapping of keys")
    return values


def text_to_image_class(folder: PipelineFolder) -> Any:
    """The diffusers class that the folder names.

    Raises:
        UnsupportedModel: unknown to the installed diffusers, or it needs more than a prompt.
    """
    import diffusers

    name = folder.class_name
    owner = getattr(diffusers, name, None)
    if not (inspect.isclass(owner) and issubclass(owner, diffusers.DiffusionPipeline)):
        raise UnsupportedModel(
            f"{folder.path}: {name} is no pipeline of the installed diffusers "
            f"{diffusers.__version__}"
        )
    if reason := _why_not_text_to_image(owner):
        raise UnsupportedModel(f"{folder.path}: {name} is no text-to-image pipeline: it {reason}")
    return owner


def _why_not_text_to_image(owner: Any) -> str | None:
    parameters = call_parameters(owner)
    if missing := [name for name in NEEDED_ARGUMENTS if name not in parameters]:
        return f"takes no {', '.join(missing)}"
    if film := [name for name in parameters if "video" in name or "frames" in name]:
        return f"makes films ({film[0]})"
    foreign = [name for name in FOREIGN_INPUTS if name in parameters]
    if "image" in parameters and owner.__name__ not in PICTURE_IS_OPTIONAL:
        foreign.append("image")
    foreign += [name for name in inspect.signature(owner.__init__).parameters if "control" in name]
    foreign += [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and name != "prompt"
    ]
    return f"needs {', '.join(dict.fromkeys(foreign))}" if foreign else None


def call_parameters(owner: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a pipeline class's `__call__`, without self."""
    parameters = dict(inspect.signature(owner.__call__).parameters)
    parameters.pop("self", None)
    return parameters


def call_default(owner: Any, name: str) -> Any:
    """The default of one argument of `__call__`; None where it has none."""
    parameter = call_parameters(owner).get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def takes_negative_prompt(owner: Any) -> bool:
    """Whether guidance steers away from a second prompt unless it is told otherwise.

    FLUX has the argument, but its guidance is distilled: `true_cfg_scale` of 1 leaves it unused.
    """
    if "negative_prompt" not in call_parameters(owner):
        return False
    scale = call_default(owner, "true_cfg_scale")
    return scale is None or scale > 1


def vae_factor(folder: PipelineFolder) -> int:
    """Pixels along one side of one latent."""
    config = folder.config("vae")
    if not config:
        return 8
    for stages in ("temperal_downsample", "temporal_downsample"):
        if isinstance(config.get(stages), (list, tuple)):
            return int(2 ** len(config[stages]))
    for blocks in ("block_out_channels", "encoder_block_out_channels"):
        if isinstance(config.get(blocks), (list, tuple)):
            return int(2 ** (len(config[blocks]) - 1))
    return 8


def size_multiple(folder: PipelineFolder, owner: Any) -> int:
    """Widths and heights that the pipeline makes are multiples of this many pixels."""
    patch = folder.denoiser.get("patch_size") or 1
    patch = max(patch) if isinstance(patch, (list, tuple)) else int(patch)
    # FLUX and its kin pack 2 x 2 latents into one token; some call that their patch size too.
    patch = max(patch, 2) if hasattr(owner, "_pack_latents") else patch
    least = 32 if owner.__name__.startswith("Sana") else 8
    return math.lcm(least, vae_factor(folder) * patch)


def native_size(folder: PipelineFolder, owner: Any) -> tuple[int, int] | None:
    """(width, height) in pixels that the model was made for; None when its files do not say."""
    sample_size = folder.denoiser.get("sample_size")
    if sample_size is None and hasattr(owner, "_pack_latents"):
        sample_size = 128  # what FLUX and its kin write into their constructors
    if sample_size is None:
        return None
    sides = sample_size if isinstance(sample_size, (list, tuple)) else (sample_size, sample_size)
    factor = vae_factor(folder)
    return int(sides[1]) * factor, int(sides[0]) * factor
