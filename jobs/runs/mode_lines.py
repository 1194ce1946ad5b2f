"""Which pictures condition the images of a job, in words."""

from collections.abc import Iterator, Mapping

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.jobs.progress.events import Message
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.planning import PlanLayout

CHECKED = {"exists": "all of them are there", "decode": "all of them can be decoded"}
"""What is known about all pictures after a check of this level."""


def mode_counts(modes: Mapping[str, int]) -> str:
    """`3 text, 1,204 inpaint`; the modes with most images first."""
    ordered = sorted(modes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {mode}" for mode, number in ordered)


def makes_text_only(modes: Mapping[str, int]) -> bool:
    """Whether no picture conditions an image."""
    return set(modes) <= {"text"}


def pictures_line(num_pictures: int, level: str) -> str:
    """How many pictures the rows name, and what is known about them."""
    if level == "none":
        return "not checked, as inputs.check is none"
    if not num_pictures:
        return "the manifest holds the bytes of all of them"
    return f"{plural(num_pictures, 'picture')}, {CHECKED[level]}"


def mode_messages(layout: PlanLayout, level: str) -> Iterator[Message]:
    """The same as events of a run; none where no picture conditions an image."""
    if not makes_text_only(layout.modes):
        yield Message(
            f"images by mode: {mode_counts(layout.modes)}; inputs: "
            f"{pictures_line(layout.num_pictures, level)}"
        )


def conditions(params: SamplingParams) -> str:
    """What conditions an image: `text`, `inpaint, strength 0.6, depth at 0.8, LoRA ink at 1`."""
    how = params.conditioning
    parts = [how.mode]
    parts += [] if how.strength is None else [f"strength {how.strength:g}"]
    parts += [] if how.canvas is None else [f"canvas {','.join(map(str, how.canvas))}"]
    used = zip(
        (*how.controls, *how.adapters), (*how.control_scales, *how.reference_scales), strict=True
    )
    parts += [f"{name} at {scale:g}" for name, scale in used]
    if sum(how.num_references):
        parts.append(plural(sum(how.num_references), "reference"))
    if params.lora is not None:
        parts.append(f"LoRA {params.lora} at {params.lora_scale:g}")
    return ", ".join(parts)
