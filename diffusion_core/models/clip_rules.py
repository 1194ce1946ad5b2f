"""Which diffusers classes make clips, and how many frames each can make, read against 0.42.1.

The table of video classes in this package's README measures them with tiny models.
"""

from dataclasses import dataclass
from typing import Any, Self

from nightpress.diffusion_core.models.pipeline_folder import (
    PipelineFolder,
    call_default,
    call_parameters,
)

MOST_FRAMES = 1_025
"""The most frames of a clip: 43 s at 24 frames a second."""


@dataclass(frozen=True)
class ClipClass:
    """What a class of diffusers does that its configuration does not say."""

    fps: float
    """Frames a second that its models were trained for."""
    by_frame: bool = False
    """Whether each frame has a latent of its own; frames of a call are decoded in chunks."""
    in_pairs: bool = False
    """Whether its VAE decodes latent frames in pairs, after a first one."""
    takes_prompt: bool = True
    """Whether it reads a prompt."""


CLIP_CLASSES: dict[str, ClipClass] = {
    "AnimateDiffPipeline": ClipClass(8, by_frame=True),
    "AnimateDiffSDXLPipeline": ClipClass(8, by_frame=True),
    "CogVideoXImageToVideoPipeline": ClipClass(8, in_pairs=True),
    "CogVideoXPipeline": ClipClass(8, in_pairs=True),
    "HunyuanVideoPipeline": ClipClass(24),
    "LTXPipeline": ClipClass(25),
    "StableVideoDiffusionPipeline": ClipClass(7, by_frame=True, takes_prompt=False),
    "WanImageToVideoPipeline": ClipClass(16),
    "WanPipeline": ClipClass(16),
}
"""Classes whose folders are loaded for clips."""

FPS_ARGUMENTS = ("fps", "frame_rate")
"""Arguments of `__call__` that take the number of frames per second."""


@dataclass(frozen=True)
class ClipRules:
    """The clips that a model can make."""

    default_num_frames: int
    default_fps: float
    frame_multiple: int = 1
    """Allowed are the numbers `frame_offset` + k * `frame_multiple`, from two frames on."""
    frame_offset: int = 0
    max_frames: int = MOST_FRAMES
    """At most `MOST_FRAMES`; fewer where positions of frames were learned."""
    takes_fps: bool = False
    """Whether the frames a second are an input of the model."""
    takes_prompt: bool = True
    modes: tuple[str, ...] = ("text",)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**values, "modes": tuple(values.get("modes", ("text",)))})

    @property
    def min_frames(self) -> int:
        """The fewest frames: the first allowed number from two on."""
        return self._at_most(self.frame_multiple + 1) if self.frame_offset else 2

    def neighbours(self, num_frames: int) -> tuple[int | None, int | None]:
        """The nearest allowed numbers of frames, at most and at least `num_frames`.

        Both are `num_frames` where it is allowed; None where there is none on that side.
        """
        lower = self._at_most(min(num_frames, self.max_frames))
        higher = max(self.min_frames, lower if lower == num_frames else lower + self.frame_multiple)
        return (
            lower if lower >= self.min_frames else None,
            higher if higher >= num_frames and higher <= self.max_frames else None,
        )

    def why_not(self, num_frames: int) -> str | None:
        """Why a clip cannot have so many frames, with the nearest that it can; None if it can."""
        found = [each for each in self.neighbours(num_frames) if each is not None]
        if num_frames in found:
            return None
        rule = ""
        if self.frame_multiple > 1:
            rule = f"this model makes {self.frame_multiple}k + {self.frame_offset} frames; "
        if num_frames > self.max_frames:
            rule = f"this model makes at most {self.max_frames} frames; "
        return f"num_frames {num_frames}: {rule}use {' or '.join(map(str, found))}"

    def _at_most(self, num_frames: int) -> int:
        """The largest allowed number up to another one; below `frame_offset` there is none."""
        over = (num_frames - self.frame_offset) % self.frame_multiple
        return num_frames - over


def makes_clips(pipeline_class: str) -> bool:
    """Whether folders of a class, by its name, are loaded for clips."""
    return pipeline_class in CLIP_CLASSES


def clip_rules(
    model: PipelineFolder, pipeline_class: Any, modes: tuple[str, ...]
) -> ClipRules | None:
    """The clips that a saved model can make; None if it makes images.

    Args:
        model: its folder.
        pipeline_class: the class that it is loaded as.
        modes: those of the class.
    """
    kind = CLIP_CLASSES.get(pipeline_class.__name__)
    if kind is None:
        return None
    multiple = 1 if kind.by_frame else temporal_factor(model) * (2 if kind.in_pairs else 1)
    rules = ClipRules(
        default_num_frames=0,
        default_fps=kind.fps,
        frame_multiple=multiple,
        frame_offset=0 if kind.by_frame else 1,
        max_frames=_most_frames(model),
        takes_fps=any(name in call_parameters(pipeline_class) for name in FPS_ARGUMENTS),
        takes_prompt=kind.takes_prompt,
        modes=_modes(model, pipeline_class, modes),
    )
    lower, higher = rules.neighbours(_default_num_frames(model, pipeline_class))
    return ClipRules(**{**vars(rules), "default_num_frames": lower or higher})


def temporal_factor(model: PipelineFolder) -> int:
    """Frames per latent frame, after the first one."""
    vae = model.config("vae")
    if "spatio_temporal_scaling" in vae:  # LTX
        own = vae.get("temporal_compression_ratio")
        return int(own or vae["patch_size_t"] * 2 ** sum(vae["spatio_temporal_scaling"]))
    factor = vae.get("scale_factor_temporal") or vae.get("temporal_compression_ratio")
    return int(factor or 4)


def _default_num_frames(model: PipelineFolder, pipeline_class: Any) -> int:
    """What the class makes by default, or what the denoiser was trained for."""
    default = call_default(pipeline_class, "num_frames")
    trained = model.denoiser.get("sample_frames") or model.denoiser.get("num_frames")
    if (
        pipeline_class.__name__ == "CogVideoXImageToVideoPipeline"
    ):  # its default is an older model's
        default = None
    return int(default or trained or 16)


def _most_frames(model: PipelineFolder) -> int:
    """Fewer than `MOST_FRAMES` where the positions of frames are learned or stored in a table."""
    stored = model.config("motion_adapter").get("motion_max_seq_length")
    if stored is None and model.denoiser.get("use_learned_positional_embeddings"):
        stored = model.denoiser.get("sample_frames")
    return min(MOST_FRAMES, int(stored or MOST_FRAMES))


def _modes(model: PipelineFolder, pipeline_class: Any, modes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the class that a model was made for.

    Wan's models for a first and a last picture always read both; others of Wan 2.1 read one, and
    Wan 2.2's smallest ignores the last.
    """
    if pipeline_class.__name__ != "WanImageToVideoPipeline":
        return modes
    if model.denoiser.get("pos_embed_seq_len") is not None:
        return ("first-last",)
    if model.denoiser.get("image_dim") is not None or model.index.get("expand_timesteps"):
        return ("image",)
    return modes


NEEDS_VIDEO = "needs a video to begin with"
CONTROLS = "follows a control video or a camera, which no row can name"
CONTINUES = "makes a clip in pieces that are conditioned on each other, which was not tried"
SOUND = "makes sound beside its frames"
GUARDED = (
    "cannot do without a safety checker (cosmos_guardrail) that fetches models of its own and "
    "stops a whole call for one prompt"
)
UNTRIED = "makes clips, and was not tried here"

REFUSED_CLIPS: dict[str, str] = {
    "AllegroPipeline": UNTRIED,
    "AnimateDiffControlNetPipeline": CONTROLS,
    "AnimateDiffPAGPipeline": UNTRIED,
    "AnimateDiffSparseControlNetPipeline": CONTROLS,
    "AnimateDiffVideoToVideoControlNetPipeline": NEEDS_VIDEO,
    "AnimateDiffVideoToVideoPipeline": NEEDS_VIDEO,
    "AnyFlowFARPipeline": CONTINUES,
    "AnyFlowPipeline": UNTRIED,
    "ChronoEditPipeline": "edits a picture by way of a clip",
    "CogVideoXFunControlPipeline": CONTROLS,
    "CogVideoXVideoToVideoPipeline": NEEDS_VIDEO,
    "ConsisIDPipeline": UNTRIED,
    "Cosmos2VideoToWorldPipeline": GUARDED,
    "Cosmos2_5_PredictBasePipeline": GUARDED,
    "Cosmos2_5_TransferPipeline": GUARDED,
    "Cosmos3OmniPipeline": UNTRIED,
    "CosmosTextToWorldPipeline": GUARDED,
    "CosmosVideoToWorldPipeline": GUARDED,
    "EasyAnimateControlPipeline": CONTROLS,
    "EasyAnimateInpaintPipeline": UNTRIED,
    "EasyAnimatePipeline": UNTRIED,
    "HeliosPipeline": CONTINUES,
    "HeliosPyramidPipeline": CONTINUES,
    "HunyuanSkyreelsImageToVideoPipeline": UNTRIED,
    "HunyuanVideo15ImageToVideoPipeline": "chooses its own size, from the picture",
    "HunyuanVideo15Pipeline": UNTRIED,
    "HunyuanVideoFramepackPipeline": CONTINUES,
    "HunyuanVideoImageToVideoPipeline": UNTRIED,
    "I2VGenXLPipeline": UNTRIED,
    "Kandinsky5I2VPipeline": UNTRIED,
    "Kandinsky5T2VPipeline": UNTRIED,
    "Kandinsky6SRPipeline": NEEDS_VIDEO,
    "Kandinsky6TI2VAPipeline": SOUND,
    "LTX2ConditionPipeline": SOUND,
    "LTX2DFRPipeline": SOUND,
    "LTX2DFRTemporalRefinePipeline": SOUND,
    "LTX2HDRPipeline": SOUND,
    "LTX2ImageToVideoPipeline": SOUND,
    "LTX2InContextPipeline": SOUND,
    "LTX2LatentUpsamplePipeline": NEEDS_VIDEO,
    "LTX2Pipeline": SOUND,
    "LTXConditionPipeline": "is conditioned on frames at any place, which was not tried",
    "LTXI2VLongMultiPromptPipeline": CONTINUES,
    "LTXLatentUpsamplePipeline": NEEDS_VIDEO,
    "LattePipeline": UNTRIED,
    "LucyEditPipeline": NEEDS_VIDEO,
    "MochiPipeline": UNTRIED,
    "MotifVideoImage2VideoPipeline": UNTRIED,
    "MotifVideoPipeline": UNTRIED,
    "PIAPipeline": UNTRIED,
    "SanaImageToVideoPipeline": UNTRIED,
    "SanaVideoPipeline": UNTRIED,
    "SanaWMPipeline": CONTROLS,
    "ShapEImg2ImgPipeline": "makes views of a solid, and no clip",
    "ShapEPipeline": "makes views of a solid, and no clip",
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": CONTINUES,
    "SkyReelsV2DiffusionForcingPipeline": CONTINUES,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": NEEDS_VIDEO,
    "SkyReelsV2ImageToVideoPipeline": UNTRIED,
    "SkyReelsV2Pipeline": UNTRIED,
    "TextToVideoSDPipeline": UNTRIED,
    "TextToVideoZeroPipeline": UNTRIED,
    "TextToVideoZeroSDXLPipeline": UNTRIED,
    "VideoToVideoSDPipeline": NEEDS_VIDEO,
    "WanAnimatePipeline": NEEDS_VIDEO,
    "WanVACEPipeline": UNTRIED,
    "WanVideoToVideoPipeline": NEEDS_VIDEO,
}
"""Classes that make clips and cannot be sampled by rows -> why; completes "it ..."."""
