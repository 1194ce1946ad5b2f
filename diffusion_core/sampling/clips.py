"""Clips of models that make clips: what their batches may ask for, and the arguments of a call."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.clip_rules import CLIP_CLASSES, FPS_ARGUMENTS, ClipRules
from nightpress.diffusion_core.models.pipeline_folder import call_parameters
from nightpress.diffusion_core.sampling import walks
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams


def check(rules: ClipRules, requests: Sequence[ImageRequest], params: SamplingParams) -> None:
    """Check that a model can make clips with these settings.

    Args:
        rules: of the model.
        requests: of a batch.
        params: what they share.

    Raises:
        SettingsError: it cannot; the message names the setting, and what is allowed.
    """
    if params.num_frames is None:
        default = rules.default_num_frames
        raise SettingsError(f"num_frames: this model makes clips; its default is {default}")
    if reason := rules.why_not(params.num_frames) or why_not_fps(rules, params.fps):
        raise SettingsError(reason)
    if params.passes:
        raise SettingsError("passes: a clip is not sampled again, larger")
    walks.require_no_ends(requests, "this model makes clips of its own")
    mode = params.conditioning.mode
    if mode not in rules.modes:
        raise SettingsError(f"mode {mode!r}: this model has the modes {', '.join(rules.modes)}")
    if params.conditioning.strength is not None:
        raise SettingsError("strength: init_image is the first frame of a clip, and has none")
    texts = {text for each in requests for text in (each.prompt, each.negative_prompt)}
    if not rules.takes_prompt and texts != {""}:
        raise SettingsError("prompt: this model reads no prompt; leave it empty")


def why_not_fps(rules: ClipRules | None, fps: float | None) -> str | None:
    """Why a model cannot be told these frames a second; None if it can, or if there are none.

    Args:
        rules: of the model; None if it makes still images.
        fps: those of the model's input, not those of a file.
    """
    if fps is None:
        return None
    if rules is None or not rules.takes_fps:
        return f"fps {fps:g}: the frames a second are no input of this model"
    if not 1 <= fps <= 120:
        return f"fps {fps:g}: must be 1 to 120"
    if not rules.takes_prompt and fps != int(fps):  # SVD embeds the number, as it was trained
        return f"fps {fps:g}: this model takes whole numbers"
    return None


def samples_alone(pipeline_class: str, conditioning: Conditioning) -> bool:
    """Whether each clip is sampled in a call of its own.

    Those from a picture are, since most classes take one picture for a call; and those whose frames
    are decoded in chunks, which would reach across clips.
    """
    kind = CLIP_CLASSES.get(pipeline_class)
    return kind is not None and (kind.by_frame or conditioning.mode != "text")


def chunk_size(pipeline: Any, speed: SpeedSpec) -> int | None:
    """The most images to decode at once; None for all, or where the pipeline itself splits them."""
    return None if _splits_frames(type(pipeline)) else speed.vae_batch_size


def _splits_frames(pipeline_class: Any) -> bool:
    """Whether frames attend to each other in a decoder, so that the class makes the chunks."""
    name: str = pipeline_class.__name__
    return name == "StableVideoDiffusionPipeline"


def arguments(
    pipeline_class: Any,
    images: Sequence[ConditionImages],
    params: SamplingParams,
    generators: list[torch.Generator],
    speed: SpeedSpec,
) -> dict[str, Any]:
    """The arguments of a call for clips, beside those of images.

    Args:
        pipeline_class: the class that is called.
        images: the pictures of each clip; of a single one, unless its mode is `text`.
        params: the settings of the batch.
        generators: (B,) of the clips.
        speed: the model's, for the most frames to decode at once.
    """
    found: dict[str, Any] = {"num_frames": params.num_frames}
    accepted = call_parameters(pipeline_class)
    if params.fps is not None:
        whole = params.fps == int(params.fps)
        fps = int(params.fps) if whole else params.fps
        found |= {name: fps for name in FPS_ARGUMENTS if name in accepted}
    if params.conditioning.mode != "text":
        # LTX draws noise before it decodes, and takes no list there.
        found["generator"] = generators[0]
        for name, picture in (
            ("image", images[0].init_image),
            ("last_image", images[0].last_image),
        ):
            if picture is not None:
                found[name] = Image.fromarray(picture)
    if speed.vae_batch_size is not None and _splits_frames(pipeline_class):
        found["decode_chunk_size"] = speed.vae_batch_size
    return found
