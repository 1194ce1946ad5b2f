"""`model.prompts` of a job: how prompts are read that a text encoder cannot take as they are."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightpress.diffusion_core.acceleration import recorded_choice


class PromptsSpec(BaseModel):
    """How prompts are read, and what becomes of those that the model cannot take as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    long: Annotated[
        Literal["refuse", "cut", "chunks"],
        Field(
            description="Prompts longer than the model reads. cut: drop the end, and record it "
            "with the image. chunks: encode them in chunks of 75 tokens, for CLIP encoders."
        ),
    ] = "refuse"
    weights: Annotated[
        Literal["refuse", "literal", "a1111"],
        Field(
            description="Weights and tags of other programs, such as (word:1.4) or <lora:x:0.8>. "
            "literal: take them as text. a1111: read (word:1.4), [word] and BREAK as A1111 does, "
            "for CLIP encoders."
        ),
    ] = "refuse"
    clip_skip: Annotated[
        int | None,
        Field(
            ge=1,
            description="Layers at the end of a CLIP encoder that are left out, as diffusers "
            "counts them: A1111's clip skip minus 1.",
        ),
    ] = None

    def chosen(self) -> dict[str, Any]:
        """What is set of the keys that decide pixels; the others decide what is refused."""
        values = {
            "long": self.long if self.long == "chunks" else None,
            "weights": self.weights if self.weights == "a1111" else None,
            "clip_skip": self.clip_skip,
        }
        return {name: value for name, value in values.items() if value is not None}

    @property
    def reads_chunks(self) -> bool:
        """Whether prompts are split into weighted chunks here, and not by the pipeline."""
        return self.long == "chunks" or self.weights == "a1111"

    def as_text(self) -> str | None:
        """`chosen` as JSON on one line with sorted keys; None if nothing is chosen."""
        return recorded_choice.as_text(self.chosen())

    @classmethod
    def from_text(cls, text: str | None) -> Self:
        """The inverse of `as_text`.

        Raises:
            ValueError: the text is not valid; the message is one line.
        """
        return recorded_choice.from_text(cls, "prompts", text)

    @model_validator(mode="after")
    def _weighted_prompts_are_not_cut(self) -> Self:
        if self.weights == "a1111" and self.long == "cut":
            raise ValueError("weights: a1111 goes with long: refuse or long: chunks, not with cut")
        return self
