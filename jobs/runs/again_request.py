"""What is to be made again: which images, how many others of each, with which settings."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Self

from nightpress.jobs.runs.marked_images import MarkChoice
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.reader import apply_overrides
from nightpress.pipelines.job.spec import flatten
from nightpress.pipelines.planning.again_rows import AGAIN_SETTINGS

MAX_SHOWN = 5
"""How many unknown ids are named."""

Setting = str | int | float | None


@dataclass(frozen=True)
class AgainRequest:
    """What was asked for."""

    ids: tuple[str, ...] | None
    """Ids of images or rows, each once; None if a condition chooses the images."""
    where: str | None
    """A condition on the metadata; None if ids or marks choose the images."""
    num_images: int
    """How many others to make of each."""
    settings: Mapping[str, Setting]
    """Settings that are to differ."""
    marks: MarkChoice | None = None
    """The marks of the images; with a condition, they must meet both."""

    @classmethod
    def of(
        cls,
        ids: Iterable[str] | None,
        where: str | None,
        num_images: int,
        settings: Mapping[str, Any],
        marks: MarkChoice | None = None,
    ) -> Self:
        """The request of a caller, checked as far as it can be without the run.

        Raises:
            SpecError: it chooses no images, or cannot be asked for.
            MarksError: the policy of the marks and their lead do not fit.
        """
        if ids is None and where is None and marks is None:
            raise SpecError("again: choose images by ids, by where or by marks")
        if ids is not None and (where is not None or marks is not None):
            raise SpecError("again: choose images by ids alone, or by where and marks")
        if marks is not None:
            marks.check()
        chosen = None if ids is None else tuple(dict.fromkeys(ids))
        if chosen == ():
            raise SpecError("ids: no id is given; give ids of images or rows")
        if num_images < 1:
            raise SpecError(f"num_images: {num_images} is not 1 or more")
        return cls(chosen, where, num_images, _checked(settings), marks)

    def as_dict(self) -> dict[str, Any]:
        """As an edition records it: equal requests have equal values."""
        ids = None
        if self.ids is not None:
            digest = hashlib.sha256("\n".join(self.ids).encode()).hexdigest()
            ids = {"number": len(self.ids), "first": list(self.ids[:MAX_SHOWN]), "sha256": digest}
        return {
            "ids": ids,
            "where": self.where,
            "num_images": self.num_images,
            "settings": dict(self.settings),
            **({} if self.marks is None else {"marks": self.marks.as_dict()}),
        }


def settings_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The settings that `--set` gives: `sampling.guidance_scale=6` or `guidance_scale=6`.

    Raises:
        SpecError: an override is not of that form, or gives a setting twice.
    """
    values: dict[str, Any] = {}
    apply_overrides(values, overrides)
    settings: dict[str, Any] = {}
    for key, value in flatten(values):
        name = key.removeprefix("sampling.")
        if name in settings:
            raise SpecError(f"--set {key}: {name} is given twice")
        settings[name] = value
    return settings


def _checked(settings: Mapping[str, Any]) -> dict[str, Setting]:
    for name, value in settings.items():
        if name not in AGAIN_SETTINGS:
            near = get_close_matches(name, AGAIN_SETTINGS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise SpecError(
                f"settings: {name!r} cannot differ between an image and its other variants; {hint}"
                f"what can: {', '.join(AGAIN_SETTINGS)}"
            )
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise SpecError(f"settings: {name}: {value!r} is neither a number nor text")
    return dict(settings)
