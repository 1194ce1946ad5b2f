"""A scorer of the job's author: a class in a Python file.

The file runs with all rights of the process, so it must be trusted as far as the job that names it.
"""

import hashlib
import inspect
import math
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any, Self

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import OwnSpec
from nightpress.pipelines.scoring import fingerprints
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorer import ScoredImage, ScorerInfo
from nightpress.pipelines.storage.urls import public

CODE = 1
MOST_SHOWN = 100
"""Characters of a wrong score that an error shows."""


class OwnScorer:
    """Calls `score(image)` of an object of the class.

    It returns a number, or a mapping with a number for each of the class's `labels`.
    """

    def __init__(self, spec: OwnSpec, info: ScorerInfo, scorer: Any) -> None:
        self._spec, self._info, self._scorer = spec, info, scorer
        self._one_at_a_time = threading.Lock()

    @classmethod
    def describe(cls, spec: OwnSpec, fetch: Fetch) -> ScorerInfo:
        """Describe the scorer without making its object; the file is run.

        Raises:
            ScorerError: the file fails, lacks the class, or the class does not take the arguments.
            ModelNotFound, StoreError: the file cannot be read.
        """
        return _described(spec, fetch)[0]

    @classmethod
    def load(cls, spec: OwnSpec, fetch: Fetch, device: str) -> Self:
        """Make the object of the class, which may load what it needs.

        Raises:
            ScorerError, ModelNotFound, StoreError: as `describe`; or the class fails.
        """
        info, own = _described(spec, fetch)
        with _naming_the_line(spec):
            return cls(spec, info, own(**spec.args))

    @property
    def fingerprint(self) -> str:
        """See `Scorer.fingerprint`."""
        return self._info.fingerprint

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """What the object returns, checked; see `Scorer.score`.

        Raises:
            ScorerError: it fails, or returns something else than its labels and numbers.
        """
        own = ScoredImage(image.pixels.copy(), dict(image.columns))  # whatever it does to them
        with self._one_at_a_time, _naming_the_line(self._spec):
            returned = self._scorer.score(own)
        scores = returned if isinstance(returned, Mapping) else {"": returned}
        if set(scores) != set(self._info.labels):
            raise ScorerError(
                f"{self._spec.scorer}: score returned {_shown(returned)}; expected "
                f"{_expected(self._info.labels)}"
            )
        return {label: self._number(scores[label], label) for label in self._info.labels}

    def _number(self, value: object, label: str) -> float:
        is_number = isinstance(value, Real) or getattr(value, "shape", None) == ()
        number = float(value) if is_number else math.nan  # type: ignore[arg-type]
        if not math.isfinite(number):
            of = f" of {label!r}" if label else ""
            raise ScorerError(
                f"{self._spec.scorer}: the score{of} is {_shown(value)}; expected a finite number"
            )
        return number


def _described(spec: OwnSpec, fetch: Fetch) -> tuple[ScorerInfo, Any]:
    """What is known about the scorer, and its class."""
    code = fetch.python_file(spec.file)
    own = _class(spec, code)
    labels = getattr(own, "labels", ("",))
    if not _are_labels(labels):
        raise ScorerError(
            f"{spec.scorer}: its attribute labels is {labels!r}; expected a tuple of texts"
        )
    try:
        inspect.signature(own).bind(**spec.args)
    except TypeError as error:
        raise ScorerError(
            f"{spec.scorer}: {error}; it is called as {spec.class_name}{inspect.signature(own)} "
            "with args"
        ) from error
    content = {"file": hashlib.sha256(code).hexdigest(), "class": spec.class_name}
    return ScorerInfo(fingerprints.of_scorer(spec, CODE, content), tuple(labels)), own


def _class(spec: OwnSpec, code: bytes) -> Any:
    """Run the file as a module of its own, and find the class in it."""
    module = ModuleType(f"nightpress_scorer_{hashlib.sha256(code).hexdigest()[:16]}")
    module.__file__ = _shown_file(spec)
    with _naming_the_line(spec):
        compiled = compile(code, module.__file__, "exec", dont_inherit=True)
        sys.modules[module.__name__] = module  # dataclasses and pickle look their classes up there
        exec(compiled, module.__dict__)  # noqa: S102 - that is what the job asks for
    own = module.__dict__.get(spec.class_name)
    if not inspect.isclass(own):
        classes = [
            name
            for name, value in module.__dict__.items()
            if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        near = did_you_mean(spec.class_name, classes, "classes")
        raise ScorerError(f"{module.__file__} has no class {spec.class_name}; {near}")
    if not callable(getattr(own, "score", None)):
        raise ScorerError(
            f"{module.__file__}: the class {spec.class_name} has no method score(self, image)"
        )
    return own


@contextmanager
def _naming_the_line(spec: OwnSpec) -> Iterator[None]:
    """Turn whatever the file raises into one line that names the file and the line."""
    file = _shown_file(spec)
    try:
        yield
    except SyntaxError as error:
        raise ScorerError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == file
        ]
        where = f"{file}, line {lines[-1]}" if lines else spec.scorer
        raise ScorerError(f"{where}: {type(error).__name__}: {one_line(error)}") from error


def _shown_file(spec: OwnSpec) -> str:
    return public(spec.file) if "://" in spec.file else str(PurePosixPath(spec.file))


def _are_labels(labels: object) -> bool:
    return (
        isinstance(labels, tuple | list)
        and len(labels) > 0
        and len(set(labels)) == len(labels)
        and all(isinstance(label, str) for label in labels)
    )


def _expected(labels: tuple[str, ...]) -> str:
    if labels == ("",):
        return "a number; several scores need the class attribute labels, such as ('a', 'b')"
    return f"a mapping with a number for each of its labels {', '.join(labels)}"


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
