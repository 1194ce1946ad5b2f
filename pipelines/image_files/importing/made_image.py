"""How an image was made, in nightpress's terms, and what of it has no counterpart there."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nightpress.diffusion_core.conditioning.passes import PassSpec
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.sampler_spellings import read_pair
from nightpress.pipelines.job.images_section import MAX_SIDE
from nightpress.pipelines.job.spec import MAX_SEED

Program = Literal["A1111", "ComfyUI", "nightpress"]
NoteKind = Literal["left out", "differs"]

MOST_DETAIL_CHARS = 200

BOUNDS: Mapping[str, tuple[float, float]] = {
    "seed": (0, MAX_SEED),
    "width": (1, MAX_SIDE),
    "height": (1, MAX_SIDE),
    "num_inference_steps": (1, 10_000),
    "guidance_scale": (0, 1e6),
    "strength": (0, 1),
}
"""Settings that are numbers, with the least and the most that is taken of a file."""

WHOLE = frozenset({"seed", "width", "height", "num_inference_steps"})
"""Those of them that are whole numbers."""


class UnreadableImage(ValueError):
    """A file that no row can be made of; the message says why."""


@dataclass(frozen=True)
class ImportNote:
    """What a row does not say as its file does."""

    kind: NoteKind
    """`left out`: it has no counterpart. `differs`: the nearest counterpart is another."""
    what: str
    """Such as `ControlNet 0` or `sampler`."""
    detail: str

    def __str__(self) -> str:
        """`left out: VAE: kl-f8-anime2.ckpt`."""
        return f"{self.kind}: {self.what}: {self.detail}"


@dataclass(frozen=True)
class UsedLora:
    """A LoRA that an image was made with."""

    name: str
    """Its file's name, without folders and suffix."""
    scale: float
    sha256: str | None = None
    """The SHA-256 of its file, or the beginning of one, if the image says so."""


@dataclass
class MadeImage:
    """How one image was made."""

    source: str
    """URL of its file."""
    program: Program
    settings: dict[str, Any] = field(default_factory=dict)
    """Column of a manifest -> value."""
    model: str | None = None
    """As the program names it: a file's name, or the source of a job of nightpress."""
    model_hash: str | None = None
    loras: list[UsedLora] = field(default_factory=list)
    passes: list[PassSpec] = field(default_factory=list)
    clip_skip: int | None = None
    """Which layer of the text encoder is taken, counted from the end: 1 is the last."""
    reads_weights: bool = False
    """Whether its program reads weights such as `(word:1.2)` in its prompts."""
    is_flow: bool = False
    """Whether the model is one of flow matching."""
    job: dict[str, Any] = field(default_factory=dict)
    """Other keys of a job, by their sections."""
    allows: dict[str, str] = field(default_factory=dict)
    """Keys of `model.prompts` without which the row's prompts are refused."""
    notes: list[ImportNote] = field(default_factory=list)

    def leave_out(self, what: str, detail: object) -> None:
        """Note what has no counterpart."""
        self.notes.append(ImportNote("left out", what, shortened(detail)))

    def differs(self, what: str, detail: object) -> None:
        """Note what is carried over, but not as it was."""
        self.notes.append(ImportNote("differs", what, shortened(detail)))

    def drop_unsound(self) -> None:
        """Leave out settings that no manifest can have; a file may hold anything.

        Raises:
            UnreadableImage: its prompt is no text, or empty.
        """
        for name, value in list(self.settings.items()):
            if not _is_sound(name, value):
                del self.settings[name]
                self.leave_out(name, value)
        for lora in [each for each in self.loras if not math.isfinite(each.scale)]:
            self.loras.remove(lora)
            self.leave_out("LoRA", lora)
        if not str(self.settings.get("prompt", "")).strip():
            raise UnreadableImage("it has no prompt, or an empty one, which no manifest can have")

    def set_seed(self, seed: int) -> None:
        """Take the seed, if a manifest can hold it."""
        if 0 <= seed <= MAX_SEED:
            self.settings["seed"] = seed
        else:
            self.leave_out("seed", f"{seed} is not between 0 and 2^53 - 1; the row gets another")

    def set_sampler(self, sampler: str, schedule: str | None) -> None:
        """Take the sampler, if there is an equal."""
        try:
            found = read_pair(sampler, schedule, self.is_flow)
        except SettingsError as error:
            self.leave_out("sampler", error)
            return
        self.settings["scheduler"] = found.name
        if found.differs:
            named = " ".join(filter(None, (sampler, schedule)))
            self.differs("sampler", f"{named} is taken as {found.name}: {found.differs}")

    def add_pass(self, scale: float, strength: float, steps: int) -> None:
        """Take a second sampling at a larger size.

        Args:
            scale: how much larger the image becomes.
            strength: the share of the noising process.
            steps: the steps that are taken of it.
        """
        try:
            found = PassSpec(
                scale=scale,
                strength=strength,
                num_inference_steps=steps_at_full_strength(steps, strength),
            )
        except ValueError:
            detail = f"scale {scale:g}, strength {strength:g}, {steps} steps"
            self.leave_out("second pass", f"{detail}; passes take a scale above 1 and up to 8")
            return
        self.passes.append(found)


def _is_sound(name: str, value: object) -> bool:
    """Whether a manifest can have a value in a column; texts must be Unicode."""
    if isinstance(value, bool) or name not in BOUNDS:
        is_number = isinstance(value, float | int) and not isinstance(value, bool)
        return _is_text(value) or (is_number and math.isfinite(value))  # type: ignore[arg-type]
    kind, (low, high) = int if name in WHOLE else int | float, BOUNDS[name]
    return isinstance(value, kind) and low <= value <= high


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def steps_at_full_strength(taken: int, strength: float) -> int:
    """How many steps diffusers must be given, so that it takes so many at a strength."""
    if not 1e-6 < strength <= 1:
        return taken
    number = math.ceil(taken / strength)
    return number if int(number * strength) >= taken else number + 1


def file_stem(name: str) -> str:
    r"""A file's name without its folders, in either notation, and the suffix of weights."""
    last = re.split(r"[\\/]", name.strip())[-1]
    return re.sub(r"\.(safetensors|ckpt|pt|pth|bin|gguf|sft)$", "", last, flags=re.I)


def shortened(value: object) -> str:
    """A value on one line, with at most `MOST_DETAIL_CHARS` characters."""
    text = " ".join(str(value).encode("utf-8", "replace").decode().split())
    return text if len(text) <= MOST_DETAIL_CHARS else f"{text[: MOST_DETAIL_CHARS - 3]}..."


def merged(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; the second wins."""
    found = dict(values)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found
