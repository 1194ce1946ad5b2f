"""What is known about a model before it is loaded: `ModelInfo`."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from nightpress.diffusion_core.models.clip_rules import ClipRules
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.models.modes import (
    ONE_CONTROLNET,
    TAKES_ALL_STEPS,
    class_for,
    samplers_for,
    too_many_steps,
)
from nightpress.diffusion_core.models.prompts import PromptLimits


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a model from its folder, without loading it."""

    source: str
    fingerprint: str
    """SHA-256 over every weight and configuration file that decides a pixel of every image.

    It covers `loras`, and not `row_loras`: an image's metadata names its own.
    """
    pipeline: str
    """Name of the diffusers pipeline class."""
    size_multiple: int
    """Widths and heights must be multiples of this many pixels."""
    width: int | None
    """The model's native size in pixels; None if its configuration does not say."""
    height: int | None
    num_inference_steps: int
    """The default number of denoising steps."""
    guidance_scale: float
    """The default guidance scale."""
    samplers: tuple[str, ...]
    """The sampler names that fit what the model predicts."""
    takes_negative_prompt: bool
    takes_guidance: bool = True
    """Whether a guidance scale has any effect."""
    modes: tuple[str, ...] = ("text",)
    """How pictures may condition its images; see `models.modes`."""
    default_strengths: tuple[tuple[str, float], ...] = ()
    """The strength of pictures without one of their own, by mode; see `models.mode_facts`."""
    own_sampler: str = "default"
    """The sampler that `default` stands for, or the class name of the model's scheduler if no
    sampler's name does; `default` in the records of runs that were begun without it."""
    max_steps: int = 1000
    """The most denoising steps; some samplers take fewer, see `schedulers.max_steps`."""
    loras: tuple[LoraInfo, ...] = ()
    """The LoRAs that are active for every image."""
    row_loras: tuple[LoraInfo, ...] = ()
    """The LoRAs that are active for images whose row names them, with the row's scale or this."""
    controlnets: tuple[LoraInfo, ...] = ()
    """The ControlNets that rows may use, with their rows' scales or these."""
    references: tuple[LoraInfo, ...] = ()
    """The IP-Adapters, with their scales in the job; see `references.reference_info`."""
    family: str | None = field(default=None, compare=False)
    """What a model in one file is, such as SDXL; None for a folder."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What to know about a model in one file: what is not used of it, or comes from elsewhere."""
    embeddings: tuple[LoraInfo, ...] = ()
    """The textual inversions that prompts may name, by the words that stand for them."""
    clips: ClipRules | None = None
    """The clips that it makes; None for a model of still images."""
    dtype: str | None = field(default=None, compare=False)
    """The precision of its weights on the device that it was described for; None if no device was
    named. A run records it in a place of its own."""
    prompts: PromptLimits = field(default_factory=PromptLimits, compare=False, repr=False)
    """How much of a prompt the model reads; it is not recorded with a run."""

    @property
    def identity(self) -> str:
        """A hash that all machines of a run must agree on: `fingerprint`, and what rows may add."""
        if not (self.row_loras or self.controlnets or self.references or self.embeddings):
            return self.fingerprint
        parts: list[Any] = [self.fingerprint, _hashes(self.row_loras)]
        for name in ("controlnets", "references", "embeddings"):
            if infos := getattr(self, name):
                parts.append({name: _hashes(infos)})
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def sampler_that_runs(self, scheduler: str) -> str:
        """What a row's sampler is called once it has run: `default` gets its proper name."""
        return self.own_sampler if scheduler == "default" else scheduler

    def samplers_for(self, mode: str) -> tuple[str, ...]:
        """Those of `samplers` that sample a mode; a clip's first picture is never noised."""
        if self.clips is not None:
            return self.samplers
        return samplers_for(self.samplers, self.own_sampler, mode)

    def default_strength(self, mode: str) -> float | None:
        """The strength of a picture that has none of its own; None if the mode has no strength."""
        known = dict(self.default_strengths)
        return known.get(mode.removesuffix("+reference"), known.get(mode.partition("+")[0]))

    def takes_all_steps(self, mode: str) -> bool:
        """Whether a strength below 1 takes no step away in a mode that the model has."""
        return class_for(self.pipeline, mode) in TAKES_ALL_STEPS

    def too_many_steps(self, mode: str, steps: int, strength: float) -> str | None:
        """Why a strength leaves too few timesteps for so many steps; None if it does not."""
        return too_many_steps(class_for(self.pipeline, mode), steps, strength)

    def loras_of(self, lora: str | None, scale: float | None) -> tuple[LoraInfo, ...]:
        """The LoRAs that are active for an image, in order.

        Args:
            lora: the name of the LoRA in the image's row; None if there is none.
            scale: the scale in the row; None for the LoRA's own.
        """
        if lora is None:
            return self.loras
        (own,) = (info for info in self.row_loras if info.name == lora)
        return (*self.loras, own if scale is None else replace(own, scale=scale))

    def controlnets_of(
        self, controls: Sequence[str], scales: Sequence[float]
    ) -> tuple[LoraInfo, ...]:
        """The ControlNets that act on an image, in order, with the scales that they have there.

        Args:
            controls: the names in the image's `Conditioning`.
            scales: one for each of them.

        Raises:
            LookupError: the model has none of a name.
        """
        return _with_scales(self.controlnets, controls, scales)

    def why_not_together(self, controls: Sequence[str]) -> str | None:
        """Why an image cannot use these ControlNets at once; None if it can.

        Args:
            controls: names of ControlNets of the model, each once.
        """
        used = [info for info in self.controlnets if info.name in controls]
        if self.pipeline not in ONE_CONTROLNET or len({info.sha256 for info in used}) <= 1:
            return None
        names = ", ".join(info.name for info in used)
        return f"{self.pipeline} takes one ControlNet for an image, not {names}"

    def embeddings_of(self, words: Collection[str]) -> tuple[LoraInfo, ...]:
        """The textual inversions of these words, in the job's order."""
        return tuple(each for each in self.embeddings if each.name in words)

    def references_of(self, names: Sequence[str], scales: Sequence[float]) -> tuple[LoraInfo, ...]:
        """The IP-Adapters that an image uses.

        Args:
            names: as in `Conditioning.adapters`.
            scales: one for each.

        Raises:
            LookupError: the model has none of a name.
        """
        return _with_scales(self.references, names, scales)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, without `prompts`, `dtype`, and what few models have."""
        values = asdict(replace(self, prompts=PromptLimits()))
        rare = ("family", "notes", "embeddings", "clips")
        left_out = {"prompts", "dtype", *(name for name in rare if not values[name])}
        return {name: value for name, value in values.items() if name not in left_out}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        loras = {
            name: tuple(LoraInfo(**lora) for lora in values.get(name, ()))
            for name in ("loras", "row_loras", "controlnets", "references", "embeddings")
        }
        tuples: dict[str, Any] = {
            name: tuple(values.get(name, ())) for name in ("samplers", "modes", "notes")
        }
        strengths = tuple((mode, value) for mode, value in values.get("default_strengths", ()))
        modes = tuples["modes"] or ("text",)
        clips = values.get("clips")
        tuples["clips"] = None if clips is None else ClipRules.from_dict(clips)
        made = {**values, **tuples, **loras, "modes": modes, "default_strengths": strengths}
        return cls(**made)


def _with_scales(
    known: Sequence[LoraInfo], names: Sequence[str], scales: Sequence[float]
) -> tuple[LoraInfo, ...]:
    by_name = {info.name: info for info in known}
    if unknown := [name for name in names if name not in by_name]:
        has = ", ".join(by_name) or "none"
        raise LookupError(f"there is no adapter {unknown[0]!r}; the model has: {has}")
    return tuple(
        replace(by_name[name], scale=scale) for name, scale in zip(names, scales, strict=True)
    )


def _hashes(infos: tuple[LoraInfo, ...]) -> list[list[str]]:
    return [[info.name, info.sha256] for info in infos]
