"""The section `batch` of a job file: how images are sampled and committed, and in which order."""

from typing import Annotated

from pydantic import Field, PositiveInt, StringConstraints, field_validator

from nightpress.pipelines.job.sections import Auto, Section

OrderColumn = Annotated[str, StringConstraints(min_length=1)]


def column_and_direction(text: str) -> tuple[str, bool]:
    """A column of `batch.order`, and whether its highest values come first: `-score`, `+score`."""
    sign = text[:1]
    return (text[1:], sign == "-") if sign in ("+", "-") and text[1:] else (text, False)


class BatchSpec(Section):
    """How many images are sampled at once, and how many are committed at once."""

    size: Annotated[
        PositiveInt | Auto,
        Field(
            description="Images per batch; another size may change the last bits of a pixel. auto: "
            "measured at the start of runs of 20,000 or more denoising steps, otherwise 4 on a CPU "
            "and 8 on a GPU."
        ),
    ] = "auto"
    shard_size: Annotated[
        PositiveInt | Auto,
        Field(
            description="Images per shard, the unit that is assigned to an actor and committed. "
            "auto: a 256th of the run's images, but from 16 to 1,024 (packed: 256)."
        ),
    ] = "auto"
    order: Annotated[
        tuple[OrderColumn, ...],
        Field(
            strict=False,
            max_length=16,
            description="Manifest columns by which images are made sooner, after the column "
            "priority: [-score, surface] is highest score first, then surface from a to z.",
        ),
    ] = ()

    @field_validator("order")
    @classmethod
    def _no_column_twice(cls, order: tuple[str, ...]) -> tuple[str, ...]:
        names = [column_and_direction(text)[0] for text in order]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the column {name!r} is named twice")
        return order
