"""What a selection is asked for: conditions, ranking, how many of what, duplicates, balance."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.scoring.near_embeddings import DEFAULT_SIMILARITY

Dedup = Literal["exact", "near", "embeddings"]
"""Each of them also leaves out what those before it do."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class SelectionRequest:
    """How images are chosen, in this order: `where`, `dedup`, `top`, `balance`."""

    where: str | None = None
    """A condition on the metadata."""
    by: str | None = None
    """The score that ranks the images, the highest first; `-name` puts the lowest first. Images
    that rank alike, or all without a score, are in the order of their ids."""
    dedup: Dedup | None = None
    """Which duplicates are left out; the first by rank stays."""
    top: int | None = None
    """How many of the first images to keep."""
    per: str | None = None
    """The column of whose every value `top` are kept; None to keep so many in all."""
    balance: str | None = None
    """The column of whose every value equally many are kept, as many as the rarest one has."""
    embeddings: str | None = None
    """The scorer whose vectors find duplicates by embeddings."""
    similarity: float | None = None
    """The cosine of two vectors from which their images are duplicates."""

    @classmethod
    def of(
        cls,
        where: str | None = None,
        by: str | None = None,
        dedup: str | None = None,
        top: int | None = None,
        per: str | None = None,
        balance: str | None = None,
        embeddings: str | None = None,
        similarity: float | None = None,
    ) -> Self:
        """Check a request as a person writes it.

        Raises:
            SpecError: it cannot be carried out; the message says why.
        """
        if dedup is not None and dedup not in get_args(Dedup):
            raise SpecError(f"dedup: {dedup!r} is none of {', '.join(get_args(Dedup))}")
        cosine = checked_similarity(dedup, embeddings, similarity)
        if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
            raise SpecError(f"top: {top!r} is not a number of images of at least 1")
        if top is not None and by is None:
            raise SpecError("top: name the score that ranks the images, such as by: clip")
        if per is not None and top is None:
            raise SpecError(f"per: say how many images of each {per} to keep, such as top: 2")
        if by is not None and not by.removeprefix("-"):
            raise SpecError("by: the name of the score is missing")
        of_vectors = {"embeddings": embeddings, "similarity": cosine}
        return cls(where, by, dedup, top, per, balance, **of_vectors)  # type: ignore[arg-type]

    def with_embeddings(self, name: str) -> Self:
        """The same, with the vectors of a scorer."""
        return replace(self, embeddings=name)

    @property
    def score(self) -> str | None:
        """The name of the score that ranks the images."""
        return None if self.by is None else self.by.removeprefix("-")

    @property
    def lowest_first(self) -> bool:
        """Whether a low score ranks first."""
        return self.by is not None and self.by.startswith("-")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values; those that are not set are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`.

        Raises:
            SpecError, TypeError: these are not the values of a request.
        """
        return cls.of(**values)


def checked_similarity(
    dedup: str | None, embeddings: str | None, similarity: float | None
) -> float | None:
    """The cosine of a request; the default if it needs one and has none.

    Raises:
        SpecError: it is none, or the request compares no vectors.
    """
    if dedup != "embeddings":
        for name, value in (("embeddings", embeddings), ("similarity", similarity)):
            if value is not None:
                raise SpecError(f"{name}: only dedup: embeddings compares vectors")
        return None
    if similarity is None:
        return DEFAULT_SIMILARITY
    is_number = isinstance(similarity, int | float) and not isinstance(similarity, bool)
    if not is_number or not 0 < similarity <= 1:
        raise SpecError(f"similarity: {similarity!r} is not a cosine above 0 and up to 1")
    return float(similarity)


def checked_name(name: str) -> str:
    """The name of a selection, which is that of its file.

    Raises:
        SpecError: it cannot be one.
    """
    if not NAME.fullmatch(name):
        raise SpecError(
            f"name: {name!r} cannot be the name of a selection, which has at most 100 letters, "
            "digits, dots, hyphens and underscores, and begins with a letter or digit"
        )
    return name
