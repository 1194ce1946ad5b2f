"""The section `gates` of a job file: what images must be, and how often each is drawn for that."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from nightpress.pipelines.job.gate_conditions import GateCondition, parse_conditions
from nightpress.pipelines.job.sections import Section

MAX_DRAWS = 1000
"""The most draws that a job may allow for one image."""

SHARE = r"\d{1,2}(\.\d+)?%"
SHARE_IN_WORDS = "must be a share of the draws below 100%, such as 70%"

DECIDES = ("require", "best_of", "rank_by", "max_draws", "exhausted")
"""The keys that decide which draw is taken, and so belong to the identity of a run."""


class GatesSpec(Section):
    """What an image must be to be taken, and how many draws are made until one is."""

    require: Annotated[
        tuple[str, ...],
        Field(
            strict=False,
            max_length=32,
            description="Conditions on scores, all of which an image must meet, such as "
            '["nsfw < 0.2", "sharpness > 40"]. An image without the score does not meet it.',
        ),
    ] = ()
    best_of: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_DRAWS,
            description="How many draws must pass before the best of them is taken.",
        ),
    ] = 1
    rank_by: Annotated[
        Annotated[str, StringConstraints(min_length=1)] | None,
        Field(
            description="The score that says which draw is the best: clip for its highest value, "
            "-clip for its lowest. Of equals the earliest draw is taken."
        ),
    ] = None
    max_draws: Annotated[
        int, Field(ge=1, le=MAX_DRAWS, description="The most draws that are made of an image.")
    ] = 16
    exhausted: Annotated[
        Literal["fail", "keep"],
        Field(
            description="If none of max_draws draws passes: fail records the image as Rejected, "
            "keep takes the best of them and says in the column gate what it lacks."
        ),
    ] = "fail"
    keep_rejected: Annotated[
        Literal["none", "thumbnails"],
        Field(
            description="What is kept of draws that were not taken: their scores, or also a "
            "thumbnail of 256 pixels."
        ),
    ] = "none"
    max_rejected: Annotated[
        str | None,
        Field(
            pattern=f"^{SHARE}$",
            json_schema_extra={"patternErrorMessage": SHARE_IN_WORDS},
            description="Stop early when more than this share of the draws does not pass, such as "
            "70%. Default: no limit.",
        ),
    ] = None

    @field_validator("max_rejected", mode="before")
    @classmethod
    def _share(cls, limit: object) -> object:
        if limit is not None and not (isinstance(limit, str) and re.fullmatch(SHARE, limit)):
            raise ValueError(SHARE_IN_WORDS)
        return limit

    @field_validator("require", mode="before")
    @classmethod
    def _list(cls, require: object) -> object:
        if isinstance(require, str):
            raise ValueError(f"must be a list of conditions, such as [{require!r}]")
        return require

    @field_validator("require")
    @classmethod
    def _conditions(cls, require: tuple[str, ...]) -> tuple[str, ...]:
        parse_conditions(require)
        return require

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        if not self.require and self.best_of == 1:
            raise ValueError("nothing is judged: name conditions in require, or a best_of above 1")
        if self.best_of > self.max_draws:
            raise ValueError(
                f"best_of is {self.best_of}, but max_draws allows {self.max_draws} draws only"
            )
        if self.rank_by is None and (self.best_of > 1 or self.exhausted == "keep"):
            reason = f"best_of: {self.best_of}" if self.best_of > 1 else "exhausted: keep"
            raise ValueError(f"{reason} needs rank_by, the score that says which draw is the best")
        if self.rank_by is not None and self.best_of == 1 and self.exhausted == "fail":
            raise ValueError(
                "rank_by has no effect: with best_of: 1 and exhausted: fail the first draw that "
                "passes is taken"
            )
        return self

    @property
    def conditions(self) -> tuple[GateCondition, ...]:
        """The conditions of `require`."""
        return parse_conditions(self.require)

    @property
    def ranking(self) -> tuple[str, bool] | None:
        """The score of `rank_by`, and whether its lowest value is the best."""
        if self.rank_by is None:
            return None
        return self.rank_by.removeprefix("-"), self.rank_by.startswith("-")

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of the scores that it needs, in the order in which it names them."""
        ranked = () if self.ranking is None else (self.ranking[0],)
        return tuple(dict.fromkeys((*(each.score for each in self.conditions), *ranked)))

    def identity(self) -> dict[str, Any]:
        """The part that decides which draw is taken, as JSON values."""
        values = self.model_dump(mode="json", include=set(DECIDES))
        return values | {"require": [str(each) for each in self.conditions]}
