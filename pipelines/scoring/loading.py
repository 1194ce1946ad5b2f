"""Finding, describing and loading the scorers that a job names."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from nightpress.diffusion_core.errors import ModelError
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import (
    ClassifierSpec,
    ClipSpec,
    EmbeddingSpec,
    FacesSpec,
    NsfwSpec,
    OcrSpec,
    OwnSpec,
    ScorerSection,
    ScorerSpec,
)
from nightpress.pipelines.models.location import absolute_source
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import Scorer, ScorerInfo
from nightpress.pipelines.scoring.scorers.classifier import ClassifierScorer
from nightpress.pipelines.scoring.scorers.clip import ClipScorer
from nightpress.pipelines.scoring.scorers.embedding import EmbeddingScorer
from nightpress.pipelines.scoring.scorers.faces import FacesScorer
from nightpress.pipelines.scoring.scorers.nsfw import NsfwScorer
from nightpress.pipelines.scoring.scorers.ocr import OcrScorer
from nightpress.pipelines.scoring.scorers.own import OwnScorer
from nightpress.pipelines.scoring.text_template import TextTemplate


class Kind(Protocol):
    """A kind of scorer: it can be described before it is loaded."""

    @classmethod
    def describe(cls, spec: Any, fetch: Fetch) -> ScorerInfo:
        """What is known about it without loading it."""
        ...

    @classmethod
    def load(cls, spec: Any, fetch: Fetch, device: str) -> Scorer:
        """Load it."""
        ...


KINDS: Mapping[type[ScorerSection], type[Kind]] = {
    NsfwSpec: NsfwScorer,
    ClipSpec: ClipScorer,
    ClassifierSpec: ClassifierScorer,
    OcrSpec: OcrScorer,
    FacesSpec: FacesScorer,
    EmbeddingSpec: EmbeddingScorer,
    OwnSpec: OwnScorer,
}


def describe_scorers(specs: Mapping[str, ScorerSpec], fetch: Fetch) -> Mapping[str, ScorerInfo]:
    """What is known about each scorer before it is loaded; remote files are downloaded.

    Raises:
        ScorerError: one of them cannot be used; the message names its key in the job.
        StoreError: the store behind a URL refuses or fails.
    """
    found = {}
    for name, spec in specs.items():
        with _naming(name):
            found[name] = KINDS[type(spec)].describe(spec, fetch)
    return found


def load_scorers(
    specs: Mapping[str, ScorerSpec], fetch: Fetch, device: str
) -> Mapping[str, Scorer]:
    """Load each scorer.

    Args:
        specs: the job's `scores`.
        fetch: finds and downloads their files.
        device: where the networks of `clip`, `classifier` and `embedding` run; the others run on
            the CPU.

    Raises:
        ScorerError, StoreError: as `describe_scorers`; or the files of a network are damaged.
    """
    loaded = {}
    for name, spec in specs.items():
        with _naming(name):
            loaded[name] = KINDS[type(spec)].load(spec, fetch, device)
    return loaded


def check_templates(specs: Mapping[str, ScorerSpec], columns: Collection[str]) -> None:
    """Refuse texts that use a column that the manifest does not have.

    Args:
        specs: the job's `scores`.
        columns: the columns of `ScoredImage`.

    Raises:
        ScorerError: a text is no template, or uses an unknown column.
    """
    for name, spec in specs.items():
        for key in ("text", "expect"):
            if (text := getattr(spec, key, None)) is not None:
                with _naming(f"{name}.{key}"):
                    TextTemplate.parse(text).check(columns)


def located(specs: Mapping[str, ScorerSpec], beside: Path) -> dict[str, ScorerSpec]:
    """The same scorers with absolute paths, for processes that start in another folder.

    A Python file is looked for beside the job file first, and then, like a network, in the working
    folder.

    Args:
        specs: the job's `scores`.
        beside: the folder of the job file.
    """
    return {name: _located(spec, beside) for name, spec in specs.items()}


def _located(spec: Any, beside: Path) -> Any:
    if isinstance(spec, OwnSpec):
        near = beside / spec.file
        path = str(near.resolve()) if near.is_file() else absolute_source(spec.file)
        return spec.model_copy(update={"scorer": f"{path}:{spec.class_name}"})
    if spec.sources:
        return spec.model_copy(update={"model": absolute_source(spec.sources[0])})
    return spec


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    """Begin an error's message with the scorer's key in the job."""
    try:
        yield
    except (ScorerError, ModelError) as error:
        raise ScorerError(f"scores.{key}: {error}") from error
