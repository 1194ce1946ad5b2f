"""The keys of a campaign file."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from nightpress.pipelines.job.settings import is_setting

MAX_DRAW_SEED = 2**63 - 1

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
Constant = Scalar | list[StrictInt | StrictFloat | StrictStr]
"""A template, if it is text; any other value is the same in every row."""

NAMES = ("lists", "axes", "zip", "draw", "rules", "seed_by", "columns", "duplicates")
"""The keys that are not columns."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableAxis(_Section):
    """The rows of a table are the values of the axis."""

    from_: StrictStr = Field(alias="from")
    """A CSV, TSV, JSON Lines or Parquet file."""


class ListAxis(_Section):
    """The entries of a word list are the values of the axis."""

    list_: StrictStr = Field(alias="list")
    """The name of the list, or a pattern."""


class CountAxis(_Section):
    """The values are 1, 2, 3 ..."""

    count: Annotated[StrictInt, Field(ge=1, le=1_000_000)]
    """How many."""


class Cover(_Section):
    """Which values, or which combinations of values, must occur among the drawn rows."""

    axes: list[StrictStr] | None = None
    """Axes, `__lists__` and `{choices}`; all axes by default."""
    strength: Annotated[StrictInt, Field(ge=1, le=3)] = 1
    """1: every value occurs; 2: every pair of values of two axes; 3: every triple."""


class Draw(_Section):
    """Which combinations become rows."""

    rows: Annotated[StrictInt, Field(ge=1)] | Literal["all"] = "all"
    seed: Annotated[StrictInt, Field(ge=0, le=MAX_DRAW_SEED)] = 0
    cover: list[StrictStr] | Cover | None = None
    weights: Literal["exact", "independent"] = "exact"
    """Whether alternatives get exact shares of the rows, or each row draws for itself."""

    @property
    def covered(self) -> Cover | None:
        """`cover` in its long form."""
        return Cover(axes=self.cover) if isinstance(self.cover, list) else self.cover


class Rule(_Section):
    """What must not occur, or must."""

    forbid: Mapping[StrictStr, Scalar | list[Scalar]] | None = None
    """Axis or axis.column -> value or values: rows with all of these are left out."""
    require_text: StrictStr | None = None
    """Rows whose prompt lacks this text are left out."""
    forbid_text: StrictStr | None = None
    """Rows whose prompt has this text are left out."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"a rule has exactly one of {names}")
        if self.forbid is not None and not self.forbid:
            raise ValueError("forbid names no axis, so it would forbid every row")
        if "" in (self.require_text, self.forbid_text):
            raise ValueError("the text is empty, so every row has it")
        return self


class CampaignSpec(_Section):
    """A campaign file; every other key is a column of the manifest."""

    prompt: StrictStr
    id: StrictStr | None = None
    lists: StrictStr | list[StrictStr] | None = None
    axes: Mapping[StrictStr, Any] = Field(default_factory=dict)
    zip: list[list[StrictStr]] = Field(default_factory=list)
    draw: Draw = Field(default_factory=Draw)
    rules: list[Rule] = Field(default_factory=list)
    seed_by: list[StrictStr] | None = None
    duplicates: Literal["refuse", "drop", "keep"] = "refuse"
    settings: Mapping[str, Constant] = Field(default_factory=dict)
    """Settings of every row: templates, or values that are the same in all."""
    columns: Mapping[StrictStr, Constant] = Field(default_factory=dict)
    """Further columns to carry: templates, or values that are the same in all."""

    @model_validator(mode="before")
    @classmethod
    def _collect_settings(cls, values: Any) -> Any:
        """Gather the keys that are columns of a manifest, such as `width` or `negative_prompt`."""
        if not isinstance(values, Mapping):
            return values
        own = {name for name in cls.model_fields if name != "settings"}
        settings = {k: v for k, v in values.items() if k not in own and is_setting(k)}
        rest = {key: value for key, value in values.items() if key not in settings}
        if isinstance(rest.get("draw"), str | int) and not isinstance(rest["draw"], bool):
            rest["draw"] = {"rows": rest["draw"]}
        return rest | ({"settings": settings} if settings else {})
