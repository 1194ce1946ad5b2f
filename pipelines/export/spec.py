"""`ExportSpec`: the file that says what an export holds, validated once."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.credentials import ADVICE, has_credentials
from nightpress.pipelines.job.reader import (
    apply_overrides,
    read_yaml,
    refuse_what_is_not_text,
)
from nightpress.pipelines.job.sections import NO_OPTIONS, JobName, Section, StorageOptions, Url
from nightpress.pipelines.job.spec import MAX_SEED, nested_copy
from nightpress.pipelines.job.validation_messages import explain
from nightpress.pipelines.scoring.near_embeddings import DEFAULT_SIMILARITY

Layout = Literal[
    "hf-parquet",
    "imagefolder",
    "webdataset",
    "img2dataset",
    "kohya",
    "diffusiondb",
    "preference",
]
Metadata = Literal["full", "minimal", "none"]
Leaks = Literal["keep", "exact", "near", "embeddings"]
Dedup = Literal["exact", "near", "embeddings"]

WITHOUT_SPLITS = ("diffusiondb",)
"""Layouts that have no place for splits."""

WITH_SETTINGS = ("diffusiondb",)
"""Layouts that name the settings of every image."""


def _checked_share(text: str) -> str:
    if Decimal(text.removesuffix("%")) > 100:
        raise ValueError("a share is at most 100%")
    return text


Share = Annotated[
    str,
    Field(
        pattern=r"^\d{1,3}(\.\d{1,6})?%$",
        json_schema_extra={
            "patternErrorMessage": "must be a share from 0% to 100%, such as 5%, with at most six "
            "decimals"
        },
    ),
    AfterValidator(_checked_share),
]


class SelectSpec(Section):
    """Which images are exported, by a condition on their metadata."""

    where: Annotated[
        str, Field(min_length=1, description="A condition as in SQL, such as `priority > 1`.")
    ]


class SplitSpec(Section):
    """How images are divided into train, validation and test."""

    by: Annotated[
        str,
        Field(
            min_length=1,
            description="The column whose equal values stay together in one split.",
        ),
    ] = "id"
    validation: Annotated[Share, Field(description="Share of the groups, such as 5%.")] = "0%"
    test: Annotated[Share, Field(description="Share of the groups, such as 5%.")] = "0%"
    leaks: Annotated[
        Leaks,
        Field(
            description="What leaves train because another split has it: exact, the same bytes; "
            "near, also pictures that look alike; embeddings, also those whose vectors are alike; "
            "keep, nothing."
        ),
    ] = "exact"

    @property
    def shares(self) -> dict[str, Decimal]:
        """Split -> its share of the groups, from 0 to 1; test first, train last."""
        parts = {
            "test": Decimal(self.test.removesuffix("%")) / 100,
            "validation": Decimal(self.validation.removesuffix("%")) / 100,
        }
        return parts | {"train": 1 - parts["test"] - parts["validation"]}

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if self.shares["train"] < 0:
            total = (1 - self.shares["train"]) * 100
            raise ValueError(
                f"validation {self.validation} and test {self.test} are {total.normalize():f}% "
                "together; at most 100% is allowed"
            )
        return self


class ExportClusterSpec(Section):
    """Where an export runs."""

    address: Annotated[
        str | None,
        Field(description="Address of a Ray cluster. Default: RAY_ADDRESS, or else a local Ray."),
    ] = None
    ship_package: Annotated[
        bool, Field(description="Send the nightpress package to the cluster's nodes.")
    ] = True


class ExportSpec(Section):
    """One export: which images of which runs, and in which form they are written."""

    name: JobName
    sources: Annotated[
        Url | Annotated[list[Url], Field(min_length=1)],
        Field(alias="from", description="URL of a run directory, or a list of them."),
    ]
    output: Annotated[Url, Field(description="URL of the folder that holds exports.")]
    select: Annotated[
        str | SelectSpec | None,
        Field(
            description="The name of a selection that each of the runs has, or {where: ...}; "
            "default: every image that is ok."
        ),
    ] = None
    layout: Annotated[Layout, Field(description="The form in which the set is written.")] = (
        "hf-parquet"
    )
    caption: Annotated[
        str,
        Field(min_length=1, description="Template over the columns, such as `{prompt}, {style}`."),
    ] = "{prompt}"
    split: Annotated[SplitSpec | None, Field(description="Default: every image is in train.")] = (
        None
    )
    dedup: Annotated[
        Dedup | None,
        Field(
            description="Which duplicates of earlier images leave a split: exact, the same bytes; "
            "near, also pictures that look alike; embeddings, also those whose vectors are alike. "
            "Default: none."
        ),
    ] = None
    embeddings: Annotated[
        str | None,
        Field(
            min_length=1,
            description="The scorer whose vectors are compared. Default: the only one of the runs.",
        ),
    ] = None
    similarity: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="The cosine of two vectors from which their images are alike. Default: "
            f"{DEFAULT_SIMILARITY}.",
        ),
    ] = None
    rank_by: Annotated[
        str | None,
        Field(
            min_length=1,
            description="In the layout preference, the score that says which image is the best; "
            "-name if the lowest is.",
        ),
    ] = None
    metadata: Annotated[
        Metadata,
        Field(
            description="full: every column. minimal: none that tells prompts, model URLs, LoRAs "
            "or workers, also inside the files. none: only the images and their captions."
        ),
    ] = "minimal"
    seed: Annotated[
        int, Field(ge=0, le=MAX_SEED, description="Decides which group is in which split.")
    ] = 0
    licence: Annotated[
        str | None,
        Field(min_length=1, description="The set's own licence, as its README states it."),
    ] = None
    cluster: ExportClusterSpec = ExportClusterSpec()
    storage: StorageOptions = NO_OPTIONS

    @field_validator("select")
    @classmethod
    def _plain_name(cls, select: str | SelectSpec | None) -> str | SelectSpec | None:
        if isinstance(select, str) and ("/" in select or select in ("", ".", "..")):
            raise ValueError("must be the name of a selection, without a folder")
        return select

    @model_validator(mode="after")
    def _no_credentials_in_urls(self) -> Self:
        for key, url in (("output", self.output), *(("from", url) for url in self.runs)):
            if has_credentials(url):
                raise ValueError(f"the {key} URL contains credentials; {ADVICE}")
        return self

    @model_validator(mode="after")
    def _no_run_twice(self) -> Self:
        twice = [url for url in self.runs if self.runs.count(url) > 1]
        if twice:
            raise ValueError(f"from: {twice[0]} is named twice")
        return self

    @model_validator(mode="after")
    def _layout_holds_it(self) -> Self:
        if self.layout in WITHOUT_SPLITS and self.splits != ("train",):
            raise ValueError(f"layout {self.layout} has no splits; leave split out")
        if (self.layout == "preference") != (self.rank_by is not None):
            raise ValueError(
                "rank_by names the score of the layout preference, which needs it; no other layout "
                "has it"
            )
        if self.layout in WITH_SETTINGS and self.metadata == "none":
            raise ValueError(
                f"layout {self.layout} names the settings of every image, so metadata cannot be "
                "none; minimal and full are allowed"
            )
        return self

    @model_validator(mode="after")
    def _compares_vectors(self) -> Self:
        for key in ("embeddings", "similarity"):
            if getattr(self, key) is not None and not self.compares_embeddings:
                raise ValueError(
                    f"{key}: this export compares no vectors; that takes dedup: embeddings, or "
                    "split with leaks: embeddings"
                )
        return self

    @property
    def compares_embeddings(self) -> bool:
        """Whether images are left out because their vectors are alike."""
        return "embeddings" in (self.dedup, self.leaks)

    @property
    def compares_looks(self) -> bool:
        """Whether images are left out because they look alike."""
        return self.compares_embeddings or "near" in (self.dedup, self.leaks)

    @property
    def cosine(self) -> float:
        """The cosine of two vectors from which their images are alike."""
        return DEFAULT_SIMILARITY if self.similarity is None else self.similarity

    @property
    def runs(self) -> list[str]:
        """The source URLs as a list."""
        return [self.sources] if isinstance(self.sources, str) else list(self.sources)

    @property
    def url(self) -> str:
        """The export's directory: `<output>/<name>`."""
        return f"{self.output.rstrip('/')}/{self.name}"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that may have images, train first."""
        if self.split is None:
            return ("train",)
        shares = self.split.shares
        return tuple(name for name in ("train", "validation", "test") if shares[name] > 0)

    @property
    def leaks(self) -> Leaks:
        """What leaves train; `keep` if there is no other split."""
        return self.split.leaks if self.split and self.splits != ("train",) else "keep"

    def identity(self) -> dict[str, Any]:
        """What decides the content of the export, as JSON values, but for its sources."""
        keys = ("select", "layout", "caption", "split", "rank_by", "metadata", "seed", "licence")
        values = self.as_dict()
        later = ("dedup", "embeddings", "similarity")  # exports of older versions have none
        return {
            **{key: values[key] for key in keys},
            **{key: values[key] for key in later if values[key] is not None},
        }

    def as_dict(self) -> dict[str, Any]:
        """The whole export as JSON values, with defaults filled in."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def from_file(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file.

        Args:
            path: the file; its name without the suffix is the export's if it gives none.
            overrides: `a.b=value` strings that replace its keys.

        Raises:
            SpecError: the file cannot be read, or is not a valid export.
        """
        path = Path(path)
        values = read_yaml(path)
        if "from" not in values and values.keys() & {"manifest", "recipe"}:
            raise SpecError(
                f"{path}: this is a job, not an export, which has a key from; nightpress run and "
                "nightpress train carry out jobs"
            )
        values.setdefault("name", path.name.removesuffix(path.suffix))
        return cls.from_dict(values, overrides, str(path))

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "export"
    ) -> Self:
        """Validate an export given as a mapping; see `from_file`."""
        values = nested_copy(values)
        apply_overrides(values, overrides)
        refuse_what_is_not_text(values, where)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"{where}: {line}" for line in explain(error, cls, values)]
            raise SpecError("\n".join(lines)) from error
