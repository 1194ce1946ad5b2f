"""ControlNets of a model: which of them fit it, what is known about them, and loading them.

A ControlNet fits if diffusers has pipelines for it and for the model, and if its configuration
agrees with that of the model's denoiser.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsupportedModel,
    as_model_error,
    naming,
)
from nightpress.diffusion_core.models import networks, weight_files
from nightpress.diffusion_core.models.controlnet_spec import ControlNetSpec
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.models.pipeline_folder import (
    PipelineFolder,
    read_json,
    text_to_image_class,
    vae_factor,
    with_defaults,
)


@dataclass(frozen=True)
class ControlNet:
    """A ControlNet in memory."""

    spec: ControlNetSpec
    network: Any
    """On the model's device; entries of a job with the same files share it."""

    @property
    def is_union(self) -> bool:
        """Whether it is one of SDXL's that take pictures of several kinds."""
        return type(self.network).__name__ == UNION


@dataclass(frozen=True)
class Fit:
    """Which configurations of a class of ControlNets fit a model."""

    same: tuple[str, ...]
    """Keys whose value must be the denoiser's, unless it is None."""
    agreeing: tuple[str, ...] = ()
    """Keys in which all ControlNets of a job must agree, as pipelines read them from the first."""
    num_modes: str | None = None
    """Key with the number of kinds of pictures; its value is None if there is one kind."""


UNION = "ControlNetUnionModel"

_OF_UNET = (
    "in_channels",
    "cross_attention_dim",
    "block_out_channels",
    "layers_per_block",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "class_embed_type",
    "num_class_embeds",
)
_OF_TRANSFORMER = ("in_channels", "patch_size", "joint_attention_dim", "pooled_projection_dim")
_GUESS = ("global_pool_conditions",)

FITS: dict[str, dict[str, Fit]] = {
    "StableDiffusionPipeline": {"ControlNetModel": Fit(_OF_UNET, _GUESS)},
    "StableDiffusionXLPipeline": {
        "ControlNetModel": Fit(_OF_UNET, _GUESS),
        UNION: Fit(_OF_UNET, _GUESS, "num_control_type"),
    },
    "StableDiffusion3Pipeline": {
        "SD3ControlNetModel": Fit(
            _OF_TRANSFORMER, ("force_zeros_for_pooled_projection", "joint_attention_dim")
        )
    },
    "FluxPipeline": {
        "FluxControlNetModel": Fit(
            ("in_channels", "joint_attention_dim", "pooled_projection_dim", "axes_dims_rope"),
            ("guidance_embeds", "conditioning_embedding_channels"),
            "num_mode",
        )
    },
    "QwenImagePipeline": {"QwenImageControlNetModel": Fit((*_OF_TRANSFORMER, "axes_dims_rope"))},
}
"""Pipeline class of a model -> the classes of ControlNets that it takes."""

INPAINTING = ("extra_conditioning_channels", "extra_condition_channels")
"""Keys that are above 0 for a ControlNet whose control image is a picture with its mask."""


@dataclass(frozen=True)
class _Saved:
    """A ControlNet as it was saved."""

    spec: ControlNetSpec
    folder: Path
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    """Its weights."""
    fit: Fit

    @property
    def class_name(self) -> str:
        return str(self.config["_class_name"])

    @property
    def network_class(self) -> Any:
        import diffusers

        return getattr(diffusers, self.class_name)

    @property
    def key(self) -> tuple[Path, ...]:
        """The same for entries of a job that are one network."""
        return tuple(file.resolve() for file in (self.folder, *self.files))

    def info(self) -> LoraInfo:
        """Its name, its scale, and the hash of its configuration and weights."""
        sha256 = weight_files.fingerprint(self.folder, [self.folder / CONFIG, *self.files])
        return LoraInfo(self.spec.label, sha256, self.spec.scale)


CONFIG = "config.json"


def describe_controlnets(
    specs: Sequence[ControlNetSpec],
    folders: Sequence[Path],
    model: PipelineFolder,
    allow_pickle: bool,
) -> tuple[LoraInfo, ...]:
    """The name, hash and scale of each ControlNet of a model; loads no weight.

    Args:
        specs: the ControlNets as the job names them.
        folders: the folder of each.
        model: the folder of the model that they are for.
        allow_pickle: whether pickled weights may be read.

    Raises:
        ModelNotFound: a folder, its configuration or its weights are missing.
        UnsafeWeights: the weights are pickles, and those are not allowed.
        UnsupportedModel: it is not a ControlNet for this model, or they do not go together.
        ModelError: its `control_mode` is missing or out of range, or a preprocessor is missing.
    """
    return tuple(each.info() for each in _read_all(specs, folders, model, allow_pickle))


def check_controlnet_weights(
    specs: Sequence[ControlNetSpec],
    folders: Sequence[Path],
    model: PipelineFolder,
    allow_pickle: bool,
) -> None:
    """Check without loading a weight that the files hold exactly the weights of each ControlNet.

    Raises:
        ModelError: they do not; the message names the ControlNet and its first such tensors.
    """
    for each in _distinct(_read_all(specs, folders, model, allow_pickle)).values():
        with naming(f"ControlNet {each.spec.label!r}"):
            networks.check_network(each.network_class, each.folder, each.files)


def load_controlnets(
    specs: Sequence[ControlNetSpec],
    folders: Sequence[Path],
    model: PipelineFolder,
    allow_pickle: bool,
    dtype: Any,
    device: str,
) -> tuple[ControlNet, ...]:
    """Load the ControlNets of a model onto a device.

    Args:
        specs, folders, model, allow_pickle: as for `describe_controlnets`.
        dtype: torch's type of the weights.
        device: torch's name of the device.

    Raises:
        ModelError: as `describe_controlnets`, or a network cannot be loaded or is not complete.
    """
    saved = _read_all(specs, folders, model, allow_pickle)
    loaded = {}
    for key, each in _distinct(saved).items():
        with naming(f"ControlNet {each.spec.label!r}"):
            network = networks.load_network(
                each.network_class, each.folder, each.files, dtype=dtype
            )
            loaded[key] = network.to(device).eval()
            networks.require_finite_weights(loaded[key], each.class_name)
    return tuple(ControlNet(each.spec, loaded[each.key]) for each in saved)


def _distinct(saved: Sequence[_Saved]) -> dict[tuple[Path, ...], _Saved]:
    return {each.key: each for each in reversed(saved)}


def _read_all(
    specs: Sequence[ControlNetSpec],
    folders: Sequence[Path],
    model: PipelineFolder,
    allow_pickle: bool,
) -> list[_Saved]:
    if len(folders) != len(specs):
        raise ModelError(f"{len(folders)} folders for {len(specs)} ControlNets; expected one each")
    saved = []
    for spec, folder in zip(specs, folders, strict=True):
        with naming(f"ControlNet {spec.label!r}"):
            saved.append(_read(spec, folder, model, allow_pickle))
    _require_agreement(saved)
    return saved


def _read(spec: ControlNetSpec, folder: Path, model: PipelineFolder, allow_pickle: bool) -> _Saved:
    """Read the configuration of a ControlNet and see whether it fits the model."""
    if not (folder / CONFIG).is_file():
        what = "a whole pipeline; " if (folder / "model_index.json").is_file() else ""
        raise ModelNotFound(
            f"{folder}: {what}a ControlNet is a folder with a {CONFIG}, as save_pretrained writes "
            "it; set `subfolder` if it is inside another"
        )
    config = read_json(folder / CONFIG)
    if "num_control_type" in config:  # the first such networks name a class of their own
        config["_class_name"] = UNION
    fit = _fit(config, model)
    config = with_defaults(str(config["_class_name"]), config)
    with as_model_error(f"{folder / CONFIG}: not the configuration of a ControlNet"):
        _require_equal_widths(config, fit, model)
    _require_control_mode(spec, config, fit)
    if spec.preprocess == "canny" and importlib.util.find_spec("cv2") is None:
        raise ModelError(
            "preprocess: canny needs OpenCV; install it with: pip install 'nightpress[canny]'"
        )
    return _Saved(
        spec,
        folder,
        config,
        tuple(weight_files.weight_files(folder, spec.variant, allow_pickle)),
        fit,
    )


def _fit(config: Mapping[str, Any], model: PipelineFolder) -> Fit:
    """What a ControlNet of this class must have.

    Raises:
        UnsupportedModel: the model takes no ControlNets, or none of this class.
    """
    name, found = text_to_image_class(model).__name__, config.get("_class_name")
    fits = FITS.get(name)
    if fits is None:
        raise UnsupportedModel(f"{name} takes no ControlNets; these do: {', '.join(FITS)}")
    if found not in fits:
        raise UnsupportedModel(f"it is {_a(found)}, but {name} takes a {' or '.join(fits)}")
    return fits[str(found)]


def _a(class_name: object) -> str:
    if not isinstance(class_name, str):
        return f"a network without a class in its {CONFIG}"
    return f"an {class_name}" if class_name.startswith("SD") else f"a {class_name}"


def _require_equal_widths(config: Mapping[str, Any], fit: Fit, model: PipelineFolder) -> None:
    """Refuse a ControlNet that was made for a model of other dimensions."""
    if any(config.get(key) for key in INPAINTING):
        raise UnsupportedModel(
            "it is a ControlNet for inpainting, whose control image comes with a mask; that is "
            "not supported"
        )
    denoiser = model.denoiser
    wrong = [
        f"its {key} is {_shown(config[key])}, and the model's is {_shown(denoiser.get(key))}"
        for key in fit.same
        if config.get(key) is not None and _plain(config[key]) != _plain(denoiser.get(key))
    ]
    if (own := _width(config)) != (needed := _width(denoiser)):
        wrong.append(f"it is {own} wide, and the model is {needed}")
    if (own := _hint_factor(config)) is not None and own != (needed := vae_factor(model)):
        wrong.append(
            f"it makes control images {own} times smaller, and the model's VAE images {needed} "
            "times"
        )
    if (channels := config.get("conditioning_embedding_channels")) is not None:
        patch = int(config["patch_size"])  # of control images; latents are packed 2 x 2
        if patch != 2 or channels * patch**2 != config["in_channels"]:
            wrong.append(f"its patches of control images are not {config['in_channels']} wide")
    if config.get("conditioning_channels", 3) != 3:
        wrong.append(
            f"its control images have {config['conditioning_channels']} channels, and pictures 3"
        )
    if wrong:
        raise UnsupportedModel(f"it was made for another model: {'; '.join(wrong)}")


def _width(config: Mapping[str, Any]) -> int | None:
    """The width of a transformer's tokens; None for a U-Net."""
    if "axes_dims_rope" not in config and "joint_attention_dim" not in config:
        return None
    return int(config["num_attention_heads"]) * int(config["attention_head_dim"])


def _hint_factor(config: Mapping[str, Any]) -> int | None:
    """By how much a ControlNet itself shrinks control images; None if the VAE encodes them."""
    channels = config.get("conditioning_embedding_out_channels")
    if config.get("conditioning_embedding_channels") is not None:
        channels = (16, 16, 16, 16)  # fixed in FluxControlNetModel
    return None if channels is None else int(2 ** (len(channels) - 1))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _shown(value: Any) -> str:
    return "not set" if value is None else str(_plain(value))


def _require_control_mode(spec: ControlNetSpec, config: Mapping[str, Any], fit: Fit) -> None:
    """Refuse a `control_mode` that the ControlNet does not have, or that is missing."""
    number = config.get(fit.num_modes) if fit.num_modes is not None else None
    if number is None and spec.control_mode is not None:
        raise ModelError("it takes one kind of picture, so `control_mode` must not be set")
    if number is not None and (spec.control_mode is None or spec.control_mode >= number):
        found = "missing" if spec.control_mode is None else spec.control_mode
        raise ModelError(
            f"it takes {number} kinds of pictures: `control_mode` must be 0 to {number - 1}, not "
            f"{found}"
        )


def _require_agreement(saved: Sequence[_Saved]) -> None:
    """Refuse ControlNets that diffusers cannot use in one job."""
    for other in saved[1:]:
        first, label = saved[0], f"ControlNet {other.spec.label!r}"
        if other.class_name != first.class_name:
            raise UnsupportedModel(
                f"{label}: it is a {other.class_name}, and {first.spec.label!r} a "
                f"{first.class_name}; a job can have only one of the two kinds"
            )
        for key in other.fit.agreeing:
            if other.config.get(key) != first.config.get(key):
                raise UnsupportedModel(
                    f"{label}: its {key} is {_shown(other.config.get(key))}, and that of "
                    f"{first.spec.label!r} is {_shown(first.config.get(key))}; diffusers needs "
                    "the same in all of them"
                )
