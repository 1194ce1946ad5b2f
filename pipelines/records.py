"""Typed records: planned images, the facts of an image, and how each image ended.

This module defines the Arrow schemas of `plan/` and `metadata/`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

import pyarrow as pa

from nightpress.diffusion_core.conditioning.passes import Pass, passes_from
from nightpress.diffusion_core.conditioning.spec import TEXT
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.pipelines.errors import FailureType as FailureType

PLANNED_INPUT_TYPE = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("data", pa.binary()),
        pa.field("sha256", pa.string()),
    ]
)
"""A picture that an image will be made from: where it lies, or its bytes as the manifest has them.
The role is the name of the manifest's column, such as `init_image` or `control_image.depth`;
`sha256` is that of the bytes at `url`, if they were read when the run was planned."""

INPUT_TYPE = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("fit", pa.string(), nullable=False),
    ]
)
"""A picture that an image was made from; `sha256` is null if it could not be read, and `url` if the
manifest held its bytes."""

CLIP_TYPE = pa.struct(
    [
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("to_prompt", pa.string()),
        pa.field("to_seed", pa.int64()),
        pa.field("model_fps", pa.float64()),
    ]
)
"""How an image moves, if it is a clip: its frames, frames a second, where a walk ends, and the
frames a second that the model is told, where they are an input of it."""

PLAN_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("variant", pa.int32(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        *(pa.field(n, pa.string(), nullable=False) for n in ("file", "prompt", "negative_prompt")),
        pa.field("seed", pa.int64(), nullable=False),
        *(
            pa.field(name, pa.int32(), nullable=False)
            for name in ("width", "height", "num_inference_steps")
        ),
        pa.field("guidance_scale", pa.float64(), nullable=False),
        pa.field("scheduler", pa.string(), nullable=False),
        pa.field("lora", pa.string()),
        pa.field("lora_scale", pa.float64()),
        pa.field("conditioning", pa.string()),
        pa.field("inputs", pa.list_(PLANNED_INPUT_TYPE)),
        pa.field("parent", pa.string()),
        pa.field("passes", pa.string()),
        pa.field("clip", CLIP_TYPE),
    ]
)
"""One row per planned image, in sampling order; carried columns follow.

Width and height are those of the finished image.
"""

LORA_TYPE = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("scale", pa.float64(), nullable=False),
    ]
)
"""A LoRA, ControlNet or IP-Adapter that an image was made with."""

PASS_TYPE = pa.struct(
    [
        pa.field("scale", pa.float64(), nullable=False),
        pa.field("strength", pa.float64(), nullable=False),
        *(
            pa.field(name, pa.int32(), nullable=False)
            for name in ("num_inference_steps", "from_width", "from_height", "width", "height")
        ),
    ]
)
"""How an image was sampled again, larger; sizes are in pixels."""

FRAME_FILE_TYPE = pa.struct(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
    ]
)
"""A frame of a clip that is stored as an image beside it; `file` is relative to the run."""

SCORES_TYPE = pa.map_(pa.string(), pa.float64())
"""Name -> score; the score is null if the scorer could not make one."""

METADATA_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("variant", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("file", pa.string()),
        pa.field("member", pa.string()),
        pa.field("member_offset", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("num_bytes", pa.int64()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("negative_prompt", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("scheduler", pa.string(), nullable=False),
        pa.field("num_inference_steps", pa.int32(), nullable=False),
        pa.field("guidance_scale", pa.float64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_fingerprint", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("batch_size", pa.int32(), nullable=False),
        pa.field("loras", pa.list_(LORA_TYPE), nullable=False),
        pa.field("worker", pa.string(), nullable=False),
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("sampling_s", pa.float64()),
        *(
            pa.field(name, pa.string())
            for name in ("speed", "prompt_cut", "negative_prompt_cut", "mode")
        ),
        pa.field("strength", pa.float64()),
        pa.field("canvas", pa.list_(pa.int32())),
        *(pa.field(name, pa.list_(LORA_TYPE)) for name in ("controlnets", "references")),
        pa.field("inputs", pa.list_(INPUT_TYPE)),
        pa.field("parent", pa.string()),
        pa.field("passes", pa.list_(PASS_TYPE)),
        pa.field("scores", SCORES_TYPE),
        pa.field("perceptual_hash", pa.string()),
        *(pa.field(name, pa.int32()) for name in ("draw", "draws")),
        pa.field("gate", pa.string()),
        pa.field("scoring_s", pa.float64()),
        pa.field("prompt_reading", pa.string()),
        pa.field("textual_inversions", pa.list_(LORA_TYPE)),
        pa.field("num_frames", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("to_prompt", pa.string()),
        pa.field("to_seed", pa.int64()),
        pa.field("frames_sha256", pa.string()),
        pa.field("first_frame", FRAME_FILE_TYPE),
    ]
)
"""One row per finished image; carried columns follow. The image is the object `file`; in a pack, it
is the member `member`: `num_bytes` bytes of `file` from `member_offset` on."""

DRAW_KEY = "draw_key"
"""A carried column of campaigns: a hash of what a row was drawn from; see `campaign`."""

RESERVED_COLUMNS = frozenset(PLAN_SCHEMA.names) | frozenset(METADATA_SCHEMA.names)
"""Names that a carried column may not have; see `carried_name`."""

ADDED_TO_PLANS = frozenset({"conditioning", "inputs", "passes"})
ADDED_TO_METADATA = frozenset(
    {"mode", "strength", "canvas", "controlnets", "references", "inputs", "passes"}
)
"""Columns that one version added together, to parts of the plan and to commits."""

SCORE_COLUMNS = ("scores", "perceptual_hash", "draw", "draws", "gate", "scoring_s")
CLIP_COLUMNS = ("num_frames", "fps", "to_prompt", "to_seed", "frames_sha256", "first_frame")
ADDED_AFTER_PASSES = (
    *SCORE_COLUMNS,
    *("prompt_reading", "textual_inversions"),
    *CLIP_COLUMNS,
)
"""Columns that were added to commits after `passes`, in this order, and never to plans."""

PLANNED_AFTER_PASSES = ("clip",)
"""Columns that were added to plans after `passes`; only plans with clips have it."""


def carried_name(name: str) -> str:
    """The name in plan and metadata of a column that is carried through from the manifest."""
    if not name:
        return "unnamed"
    return f"manifest_{name}" if name in RESERVED_COLUMNS else name


OPTIONAL_FACTS: dict[str, Any] = {
    "mode": TEXT,
    **dict.fromkeys(("speed", "prompt_cut", "negative_prompt_cut", "strength", "canvas")),
    **dict.fromkeys(("controlnets", "references", "inputs", "passes", "textual_inversions"), ()),
    **dict.fromkeys(("parent", "prompt_reading")),
    **dict.fromkeys(("num_frames", "fps", "to_prompt", "to_seed", "frames_sha256")),
}
"""Facts that most images lack, with the value for none; files and older metadata leave them out."""

NOT_IN_OLDER_COMMITS: dict[str, Any] = OPTIONAL_FACTS | dict.fromkeys(ADDED_AFTER_PASSES)
"""Columns that commits of older versions lack, with the value for none."""


@dataclass(frozen=True)
class PlannedInput:
    """A picture that an image will be made from."""

    role: str
    """The name of the manifest's column, such as `init_image` or `control_image.depth`."""
    url: str | None
    data: bytes | None = field(default=None, repr=False)
    """Its bytes, if the manifest holds them."""
    sha256: str | None = None
    """SHA-256 of the bytes at `url` when the run was planned; None if they were not read then."""


@dataclass(frozen=True)
class InputInfo:
    """A picture that an image was made from."""

    role: str
    """The name of the manifest's column, such as `init_image` or `control_image.depth`."""
    url: str | None
    """None if the manifest held its bytes."""
    sha256: str | None
    """SHA-256 of its bytes; None if they could not be read."""
    fit: str
    """How it was brought to its size: `cover`, `contain` or `stretch`; `none` for a reference."""


@dataclass(frozen=True)
class ImageFacts:
    """What determines one image. It is the same in every attempt, and so are the image's bytes.

    The facts are embedded in the image file, and are columns of its metadata row.
    """

    image_id: str
    id: str
    variant: int
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    model: str
    model_fingerprint: str
    dtype: str
    batch_size: int
    loras: tuple[LoraInfo, ...] = ()
    speed: str | None = None
    """How the model was accelerated, as `SpeedSpec.as_text`; None if it was not."""
    prompt_cut: str | None = None
    """The end of the prompt that no text encoder saw; None if nothing was cut."""
    negative_prompt_cut: str | None = None
    mode: str = TEXT
    """Which pictures condition the image; see `Conditioning.mode`."""
    strength: float | None = None
    canvas: tuple[int, ...] | None = None
    controlnets: tuple[LoraInfo, ...] = ()
    """The ControlNets of the image, with their scales."""
    references: tuple[LoraInfo, ...] = ()
    """The IP-Adapters of the image, with their scales."""
    inputs: tuple[InputInfo, ...] = ()
    """The pictures that it was made from."""
    passes: tuple[Pass, ...] = ()
    """How it was sampled again, larger; the first of them says at which size it began."""
    parent: str | None = None
    """The id of the image that it is another variant of; see `nightpress again`."""
    prompt_reading: str | None = None
    """How its prompts were read, as `PromptsSpec.as_text`; None if as the pipeline reads them."""
    textual_inversions: tuple[LoraInfo, ...] = ()
    """The textual inversions that its prompts name."""
    num_frames: int | None = None
    """None if it is a still image; then `fps` and `frames_sha256` are None, too."""
    fps: float | None = None
    to_prompt: str | None = None
    """The prompt that a walk ends at; None if it keeps its prompt, or is no walk."""
    to_seed: int | None = None
    frames_sha256: str | None = None
    """SHA-256 of the raw frames, which no encoder changes; see `clips.frames`."""

    @property
    def without_hashes(self) -> Self:
        """The facts without the hashes of inputs and frames, which are not known before."""
        inputs = tuple(replace(each, sha256=None) for each in self.inputs)
        return replace(self, inputs=inputs, frames_sha256=None)

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON-ready values in a fixed order; of `OPTIONAL_FACTS` only what is set."""
        return {
            name: value
            for name, value in self.as_row().items()
            if name not in OPTIONAL_FACTS or getattr(self, name) != OPTIONAL_FACTS[name]
        }

    def as_row(self) -> dict[str, Any]:
        """All facts as the values of their metadata columns."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`; other keys are ignored.

        Raises:
            KeyError, TypeError, ValueError: these are not the values of facts.
        """
        if not isinstance(values, dict):
            raise TypeError(f"facts are a mapping, not {type(values).__name__}")
        known = {
            name: OPTIONAL_FACTS[name] if values.get(name) is None else values[name]
            for name in OPTIONAL_FACTS
        } | {name: values[name] for name in cls.__dataclass_fields__ if name not in OPTIONAL_FACTS}
        for name in ("loras", "controlnets", "references", "textual_inversions"):
            known[name] = tuple(LoraInfo(**each) for each in known[name])
        known["inputs"] = tuple(InputInfo(**each) for each in known["inputs"])
        known["passes"] = passes_from(known["passes"])
        known["canvas"] = None if known["canvas"] is None else tuple(known["canvas"])
        return cls(**known)


@dataclass(frozen=True)
class ImageRecord:
    """How one planned image ended: its metadata row without the carried columns."""

    facts: ImageFacts
    status: Literal["ok", "failed"]
    attempts: int
    worker: str
    started_at: float
    """Seconds since the epoch, UTC."""
    file: str | None = None
    """Relative to the run directory, `images/...`; None if the image failed."""
    member: str | None = None
    """The image's name in the pack `file`; None if `file` is not a pack."""
    member_offset: int | None = None
    """Offset of the image in the pack."""
    sha256: str | None = None
    num_bytes: int | None = None
    first_frame: Mapping[str, str | int] | None = None
    """The file of a clip's first frame, as `FRAME_FILE_TYPE`; None if none is kept."""
    sampling_s: float | None = None
    """This image's share of its batch's sampling time; None if it was found in the store."""
    scoring_s: float | None = None
    """Seconds that the job's scorers took for it; None without scorers, or if it failed."""
    scores: Mapping[str, float | None] | None = None
    """Name -> score of the stored bytes; None if the image failed, or was not scored."""
    perceptual_hash: str | None = None
    embeddings: Mapping[str, bytes | None] | None = field(default=None, repr=False)
    """Scorer -> the image's vector for `embeddings/`, as `ImageScores.embeddings`."""
    draw: int | None = None
    """Which of its draws it is, from 0; None without gates, and if no draw was taken."""
    draws: int | None = None
    """How many draws were considered before it was decided; None without gates."""
    gate: str | None = None
    """The gates that it does not pass, with their scores, if it was taken nevertheless."""
    error_type: FailureType | None = None
    error: str | None = None
