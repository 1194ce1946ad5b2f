"""What is known about a model before it is loaded: `ModelInfo`."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.models.modes import TAKES_ALL_STEPS, class_for, samplers_for
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
    prompts: PromptLimits = field(default_factory=PromptLimits, compare=False, repr=False)
    """How much of a prompt the model reads; it is not recorded with a run."""

    @property
    def identity(self) -> str:
        """A hash that all machines of a run must agree on: of `fingerprint` and the row LoRAs."""
        if not self.row_loras:
            return self.fingerprint
        content = json.dumps(
            [self.fingerprint, [[lora.name, lora.sha256] for lora in self.row_loras]]
        )
        return hashlib.sha256(content.encode()).hexdigest()

    def sampler_that_runs(self, scheduler: str) -> str:
        """What a row's sampler is called once it has run: `default` gets its proper name."""
        return self.own_sampler if scheduler == "default" else scheduler

    def samplers_for(self, mode: str) -> tuple[str, ...]:
        """Those of `samplers` that sample a mode."""
        return samplers_for(self.samplers, self.own_sampler, mode)

    def default_strength(self, mode: str) -> float | None:
        """The strength of a picture that has none of its own; None if the mode has no strength."""
        return dict(self.default_strengths).get(mode.partition("+")[0])

    def takes_all_steps(self, mode: str) -> bool:
        """Whether a strength below 1 takes no step away in a mode that the model has."""
        return class_for(self.pipeline, mode) in TAKES_ALL_STEPS

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

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, without `prompts`."""
        values = asdict(replace(self, prompts=PromptLimits()))
        return {name: value for name, value in values.items() if name != "prompts"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        loras = {
            name: tuple(LoraInfo(**lora) for lora in values.get(name, ()))
            for name in ("loras", "row_loras")
        }
        tuples = {name: tuple(values.get(name, ())) for name in ("samplers", "modes")}
        strengths = tuple((mode, value) for mode, value in values.get("default_strengths", ()))
        modes = tuples["modes"] or ("text",)
        made = {**values, **tuples, **loras, "modes": modes, "default_strengths": strengths}
        return cls(**made)
