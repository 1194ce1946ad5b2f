"""The section `scores` of a job file: which scorers judge the images, and their settings."""

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from nightpress.pipelines.job.credentials import ADVICE, has_credentials
from nightpress.pipelines.job.sections import Section, Url

MEASURED = ("sharpness", "exposure", "clipping", "contrast")
"""The scores that every image gets without being asked for."""

FILE_AND_CLASS = r".+\.py:[A-Za-z_]\w*"

RESERVED_NAMES = (*MEASURED, "perceptual_hash")
"""What no scorer may be called."""

Template = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]


class ScorerSection(Section):
    """What the sections of all scorers share."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The folders, files, hub ids and URLs that the scorer is read from."""
        model = getattr(self, "model", None)
        return () if model is None else (model,)

    @model_validator(mode="after")
    def _no_credentials(self) -> Self:
        if any(has_credentials(source) for source in self.sources):
            raise ValueError(f"the URL contains credentials; {ADVICE}")
        return self


class NsfwSpec(ScorerSection):
    """How unsafe for work an image is, by Yahoo's open_nsfw."""

    scorer: Annotated[Literal["nsfw"], Field(description="open_nsfw: 0 is safe, 1 is not.")]


class ClipSpec(ScorerSection):
    """How well an image fits a text, by a CLIP or SigLIP model."""

    scorer: Annotated[
        Literal["clip"], Field(description="Cosine similarity of image and text, -1 to 1.")
    ]
    model: Annotated[
        Url, Field(description="A CLIP or SigLIP model: a folder, a hub id, or a URL.")
    ]
    text: Annotated[
        Template,
        Field(description="The text: a template over the manifest's columns, such as {caption}."),
    ] = "{prompt}"


class ClassifierSpec(ScorerSection):
    """The probability of each label of an image classifier."""

    scorer: Annotated[
        Literal["classifier"], Field(description="Probability of each label, 0 to 1.")
    ]
    model: Annotated[
        Url,
        Field(description="An image-classification model: a folder, a hub id, or a URL."),
    ]
    labels: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1)], ...],
        Field(
            strict=False,
            description="The labels whose scores are kept. Default: all of the model's.",
        ),
    ] = ()

    @field_validator("labels")
    @classmethod
    def _no_label_twice(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"the label {label!r} is named twice")
        return labels


class OcrSpec(ScorerSection):
    """How well the text that is read in an image is the expected one."""

    scorer: Annotated[
        Literal["ocr"], Field(description="1 - character error rate of the text, 0 to 1.")
    ]
    expect: Annotated[
        Template,
        Field(
            description="The text that should be in the image: a template over the manifest's "
            "columns, such as {headline}."
        ),
    ]
    ignore_case: Annotated[bool, Field(description="Whether A counts as a.")] = False


class FacesSpec(ScorerSection):
    """How many faces an image has, and how large they are, by YuNet."""

    scorer: Annotated[
        Literal["faces"],
        Field(
            description="count, largest (the share of the image that the largest face covers), and "
            "confidence (of the surest face)."
        ),
    ]
    model: Annotated[
        Url | None,
        Field(description="The ONNX file of YuNet: a path or a URL. Default: the installed one."),
    ] = None
    min_confidence: Annotated[
        float, Field(ge=0.0, le=1.0, description="The confidence from which a face counts.")
    ] = 0.7


class EmbeddingSpec(ScorerSection):
    """A vector that tells how alike images are; no score, and no condition sees it."""

    scorer: Annotated[
        Literal["embedding"],
        Field(description="A vector for each image, for select --dedup embeddings."),
    ]
    model: Annotated[
        Url,
        Field(description="A CLIP, SigLIP or ViT model: a folder, a hub id, or a URL."),
    ]


def _file_and_class(scorer: str) -> str:
    if not re.fullmatch(FILE_AND_CLASS, scorer):
        raise ValueError("a scorer of your own is named FILE.py:Class, such as brand.py:Logo")
    return scorer


def _json_values(args: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse what `run.json` cannot hold as it is: dates, infinities, keys that are no text."""
    try:
        same = json.loads(json.dumps(args, allow_nan=False)) == args
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError("may hold numbers, texts, true, false, null, lists and mappings only")
    return args


class OwnSpec(ScorerSection):
    """A class in a Python file of the job's author, which runs with all rights of the job."""

    scorer: Annotated[
        str,
        Field(
            description="FILE.py:Class, a class with a method score(image).",
            json_schema_extra={"pattern": f"^{FILE_AND_CLASS}$"},
        ),
        AfterValidator(_file_and_class),
    ]
    args: Annotated[
        Mapping[str, Any],
        Field(
            description="Keyword arguments that the class is called with: numbers, texts, lists "
            "and mappings."
        ),
        AfterValidator(_json_values),
    ] = {}

    @property
    def sources(self) -> tuple[str, ...]:
        """The Python file."""
        return (self.file,)

    @property
    def file(self) -> str:
        """The path or URL of the Python file."""
        return self.scorer.rpartition(":")[0]

    @property
    def class_name(self) -> str:
        """The name of the class in it."""
        return self.scorer.rpartition(":")[2]


SCORERS: Mapping[str, type[ScorerSection]] = {
    "nsfw": NsfwSpec,
    "clip": ClipSpec,
    "classifier": ClassifierSpec,
    "ocr": OcrSpec,
    "faces": FacesSpec,
    "embedding": EmbeddingSpec,
}
"""The sections of the scorers that nightpress has, by the value of their key `scorer`."""


def _kind(value: Any) -> str | None:
    """The name of the section that a mapping is meant to be; None if it names no scorer."""
    if isinstance(value, Section):
        return type(value).__name__
    scorer = value.get("scorer") if isinstance(value, Mapping) else None
    if not isinstance(scorer, str):
        return None
    if scorer in SCORERS:
        return SCORERS[scorer].__name__
    return OwnSpec.__name__ if ".py" in scorer else None


def _known_scorer(value: Any) -> Any:
    """Name a scorer that there is not, and the one that was perhaps meant."""
    scorer = value.get("scorer") if isinstance(value, Mapping) else None
    if not isinstance(scorer, str) or _kind(value) is not None:
        return value
    near = get_close_matches(scorer, SCORERS, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"there is no scorer {scorer!r}; {hint}there are {', '.join(SCORERS)}, and FILE.py:Class"
    )


ScorerSpec = Annotated[
    Annotated[NsfwSpec, Tag("NsfwSpec")]
    | Annotated[ClipSpec, Tag("ClipSpec")]
    | Annotated[ClassifierSpec, Tag("ClassifierSpec")]
    | Annotated[OcrSpec, Tag("OcrSpec")]
    | Annotated[FacesSpec, Tag("FacesSpec")]
    | Annotated[EmbeddingSpec, Tag("EmbeddingSpec")]
    | Annotated[OwnSpec, Tag("OwnSpec")],
    Discriminator(
        _kind,
        custom_error_type="no_such_scorer",
        custom_error_message="must be a mapping with the key scorer, which is one of: "
        f"{', '.join(SCORERS)}, or FILE.py:Class",
    ),
    BeforeValidator(_known_scorer),
]


def _score_name(name: str) -> str:
    if name in RESERVED_NAMES:
        raise ValueError("every image has this score; give the scorer another name")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name):
        raise ValueError(
            "the name of a score begins with a letter, and has at most 64 letters, digits and "
            "underscores"
        )
    return name


ScorerName = Annotated[str, AfterValidator(_score_name)]
"""A name that needs no quotes in conditions on the metadata."""

ScorerSpecs = Annotated[
    Mapping[ScorerName, ScorerSpec],
    Field(
        max_length=32,
        description="Scorers by the name of their score, such as {nsfw: {scorer: nsfw}}. "
        f"{', '.join(MEASURED)} and a perceptual hash are always recorded.",
    ),
]


def beside(specs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same scorers, with the paths of Python files that lie in the folder of the job file."""

    def found(spec: Any) -> Any:
        if not isinstance(spec, OwnSpec) or not (folder / spec.file).is_file():
            return spec
        return spec.model_copy(update={"scorer": f"{folder / spec.file}:{spec.class_name}"})

    return {name: found(spec) for name, spec in specs.items()}


NO_SCORERS: Mapping[str, Any] = {}
