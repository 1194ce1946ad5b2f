"""How a job names a ControlNet: `ControlNetSpec`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nightpress.diffusion_core.models.lora_files import NAME, NAME_IN_WORDS, by_source

Fraction = Annotated[float, Field(ge=0, le=1)]

SECOND_ORDER = ("heun", "Heun", "KDPM2", "FlowMatchHeun")
"""How the samplers and the scheduler classes begin that call the denoiser twice a step."""

ONE_MORE = "PNDM"
"""How the scheduler class begins that calls the denoiser once more: twice in its second step."""


class ControlNetSpec(BaseModel):
    """One ControlNet, and how the images that use it do so."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    source: Annotated[
        str, Field(min_length=1, description="A folder, a hub id (`@revision`), or a URL.")
    ]
    revision: Annotated[
        str | None, Field(min_length=1, description="Branch, tag or commit of a hub id.")
    ] = None
    subfolder: Annotated[
        str | None, Field(min_length=1, description="Folder of the network inside the source.")
    ] = None
    variant: Annotated[
        str | None, Field(description="Variant of the weight files, such as fp16.")
    ] = None
    name: Annotated[
        str | None,
        Field(
            pattern=NAME,
            json_schema_extra={"patternErrorMessage": NAME_IN_WORDS},
            description="Name in columns such as `control_image.NAME`; the folder's unless set.",
        ),
    ] = None
    scale: Annotated[
        float, Field(ge=0, description="Weight of its effect for rows without a control_scale.")
    ] = 1.0
    control_guidance_start: Annotated[
        Fraction, Field(description="Share of the steps after which it begins.")
    ] = 0.0
    control_guidance_end: Annotated[
        Fraction, Field(description="Share of the steps after which it ends.")
    ] = 1.0
    control_mode: Annotated[
        int | None, Field(ge=0, description="Kind of picture, for a ControlNet that takes several.")
    ] = None
    preprocess: Annotated[
        Literal["none", "canny"],
        Field(description="canny: make the control image from any picture, by its edges."),
    ] = "none"
    low_threshold: Annotated[
        int, Field(ge=0, le=1020, description="canny: weaker edges are dropped.")
    ] = 100
    high_threshold: Annotated[
        int, Field(ge=0, le=1020, description="canny: stronger edges are kept.")
    ] = 200

    @property
    def label(self) -> str:
        """The name by which rows and metadata call it: `name`, or that of its folder."""
        if self.name:
            return self.name
        return PurePosixPath(self.subfolder or self.source.partition("@")[0].rstrip("/")).name

    def acts_in(self, num_steps: int) -> bool:
        """Whether any of so many steps lies whole between its start and its end.

        Source: diffusers' pipelines with ControlNets, which leave it out on the other steps.
        """
        start, end = self.control_guidance_start, self.control_guidance_end
        return any(
            step / num_steps >= start and (step + 1) / num_steps <= end for step in range(num_steps)
        )

    def why_idle(self, taken: int, sampler: str) -> str | None:
        """Why it would act on no step of an image; None if it acts.

        Args:
            taken: the number of steps, as `modes.steps_taken` has it.
            sampler: the sampler's name, or the class of its scheduler.
        """
        calls = 2 * taken - 1 if sampler.startswith(SECOND_ORDER) else taken
        calls += sampler.startswith(ONE_MORE)
        if self.acts_in(calls):
            return None
        start, end = self.control_guidance_start, self.control_guidance_end
        steps = "of 1 step" if taken == 1 else f"of {taken} steps"
        return (
            f"ControlNet {self.label!r} acts between {start:g} and {end:g} of the steps, and none "
            f"{steps} lies there; use more steps"
        )

    @model_validator(mode="after")
    def _it_acts_for_some_time(self) -> Self:
        start, end = self.control_guidance_start, self.control_guidance_end
        if start >= end:
            raise ValueError(
                f"control_guidance_start {start:g} must be below control_guidance_end {end:g}"
            )
        return self

    @model_validator(mode="after")
    def _thresholds_are_those_of_canny(self) -> Self:
        given = {"low_threshold", "high_threshold"} & self.model_fields_set
        changed = [name for name in sorted(given) if getattr(self, name) != _default(name)]
        if changed and self.preprocess != "canny":
            raise ValueError(f"{changed[0]} has no effect without `preprocess: canny`")
        if self.low_threshold > self.high_threshold:
            raise ValueError(
                f"low_threshold {self.low_threshold} must not be above high_threshold "
                f"{self.high_threshold}"
            )
        return self

    @model_validator(mode="after")
    def _subfolder_stays_inside(self) -> Self:
        path = PurePosixPath(self.subfolder or ".")
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"subfolder {self.subfolder!r} must be a folder inside the source")
        return self


def _default(name: str) -> Any:
    return ControlNetSpec.model_fields[name].default


NamedControlNet = Annotated[
    ControlNetSpec, BeforeValidator(by_source, json_schema_input_type=str | ControlNetSpec)
]
"""A ControlNet as a job file writes it: its source alone, or a mapping."""


def require_names(specs: Sequence[ControlNetSpec]) -> None:
    """Refuse ControlNets that rows could not tell apart.

    Raises:
        ValueError: two have one name, or a name is empty.
    """
    for label, number in Counter(spec.label for spec in specs).items():
        if not label or label != label.strip():
            raise ValueError(
                f"controlnets: no row can name {label!r}; give that ControlNet a `name`"
            )
        if number > 1:
            raise ValueError(
                f"controlnets: {number} are called {label!r}; give each a `name` of its own"
            )
