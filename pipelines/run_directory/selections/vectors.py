"""The vectors by which a selection finds duplicates, and what to do if there are none."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.embeddings import (
    embedding_parts,
    embedding_scorers,
    read_vectors,
)
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.selections.request import SelectionRequest

Drop = Callable[[str, pa.ChunkedArray], None]

ROW = "row"
"""Column: the row of an image's vector."""


@dataclass(frozen=True)
class Alike:
    """The vectors of candidates, and from which cosine on their images are duplicates."""

    vectors: NDArray[np.float16]
    """(n, d); the column `ROW` of candidates says which is whose."""
    similarity: float
    told: Callable[[int], None]
    """Called now and then with how many of them are compared."""


def no_embedding(name: str) -> str:
    """The reason of an image without a vector."""
    return f"no embedding {name}"


def scorer_of_embeddings(run: Run, asked: str | None) -> str:
    """The scorer whose vectors are compared: the one asked for, or the only one that there is.

    Raises:
        SpecError: the run has no vectors, none by that scorer, or those of several.
    """
    known = embedding_scorers(run.store)
    if not known:
        name = asked or "look"
        raise SpecError(
            f"embeddings: {run.url} has none; nightpress score {run.url} --set "
            f"scores.{name}.scorer=embedding --set scores.{name}.model=FOLDER makes them, with a "
            "folder or URL of a CLIP, SigLIP or ViT model"
        )
    if asked is None and len(known) > 1:
        raise SpecError(
            f"embeddings: {run.url} has those of several scorers; name one of them: "
            f"{', '.join(known)}"
        )
    if asked is not None and asked not in known:
        raise SpecError(
            f"embeddings: {run.url} has none by a scorer {asked!r}; "
            f"{did_you_mean(asked, known, 'scorers of embeddings')}"
        )
    return asked or known[0]


def with_vectors(
    run: Run,
    candidates: pa.Table,
    request: SelectionRequest,
    drop: Drop,
    told: Callable[[int], None],
) -> tuple[pa.Table, Alike | None]:
    """The candidates that have a vector, with the column `ROW`, and the vectors.

    Args:
        run: the run.
        candidates: as `Candidates.table` has them.
        request: names the scorer, if it compares vectors at all.
        drop: called with the reason and the ids of those that have none.
        told: of the result.

    Raises:
        Damaged: a part of the vectors is not what was written.
        StoreError: it cannot be read.
    """
    name, similarity = request.embeddings, request.similarity
    if name is None or similarity is None:
        return candidates, None
    hashes = candidates.column("sha256").to_pylist()
    found = read_vectors(run.store, embedding_parts(run.store, name), hashes)
    drop(no_embedding(name), candidates.column("image_id").filter(pa.array(~found.has_one)))
    numbered = candidates.append_column(ROW, pa.array(np.arange(len(candidates))))
    return numbered.filter(pa.array(found.has_one)), Alike(found.vectors, similarity, told)
