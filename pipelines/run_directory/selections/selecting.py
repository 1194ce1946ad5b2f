"""Making a selection of a run's images."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from nightpress.pipelines.errors import Damaged, SpecError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.selections.candidates import (
    Drops,
    read_candidates,
)
from nightpress.pipelines.run_directory.selections.choice import choose
from nightpress.pipelines.run_directory.selections.duplicates import write_duplicates
from nightpress.pipelines.run_directory.selections.files import (
    SELECTION_SCHEMA,
    Selection,
    create_selection,
    read_selection_if_any,
    require_same,
)
from nightpress.pipelines.run_directory.selections.request import SelectionRequest, checked_name
from nightpress.pipelines.run_directory.selections.vectors import (
    scorer_of_embeddings,
    with_vectors,
)
from nightpress.pipelines.run_directory.stored_scores import require_scores
from nightpress.pipelines.run_directory.where import scores_in_condition
from nightpress.pipelines.scoring.near_embeddings import ignore

MAX_NAMED = 4
"""How many reasons a message about an empty selection names."""


def select_images(
    run: Run, name: str, request: SelectionRequest, told: Callable[[int], None] = ignore
) -> Selection:
    """Choose images of a run, and write the selection; nothing else is changed.

    The same request on the same commits makes the same choice, which stays if it is stored already.

    Args:
        told: called now and then with how many images are compared by their vectors.

    Raises:
        SpecError: the request cannot be carried out, no image is left, or the name is taken by
            another selection; nothing was written.
        Damaged: a commit is not what was written.
        StoreError: the store failed.
    """
    checked_name(name)
    if request.dedup == "embeddings":
        request = request.with_embeddings(scorer_of_embeddings(run, request.embeddings))
    drops = Drops()
    candidates = read_candidates(run, request, drops)
    table, alike = with_vectors(run, candidates.table, request, drops.add, told)
    try:
        choice = choose(table, request, drops, alike)
    except ValueError as error:  # another program has written what is no perceptual hash
        raise Damaged(f"{run.url}/metadata: {error}") from error
    selection = Selection(
        name=name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        request=request,
        images=_as_images(choice.images),
        num_images=run.record.layout.num_images,
        num_committed=candidates.num_committed,
        drops=drops.as_tuple(),
        commits=candidates.commits,
        late_scores=candidates.late,
    )
    if not selection.num_chosen:
        raise SpecError(_nothing_left(run, selection))
    return _stored(run, selection, choice.duplicates)


def _stored(run: Run, selection: Selection, duplicates: pa.Table) -> Selection:
    """Write a selection and its list of duplicates, unless it is stored already."""
    stored = read_selection_if_any(run.store, selection.name)
    if stored is not None:
        return require_same(run.store, selection, stored)
    path = write_duplicates(run.store, selection.name, duplicates)
    return create_selection(run.store, replace(selection, duplicates=path))


def _as_images(chosen: pa.Table) -> pa.Table:
    ranks = pa.array(np.arange(1, len(chosen) + 1))
    columns = [chosen.column("image_id"), chosen.column("sha256"), ranks]
    return pa.table(columns, schema=SELECTION_SCHEMA).combine_chunks()


def _nothing_left(run: Run, selection: Selection) -> str:
    """Why a selection would be empty; a score that no image has is the first thing to say.

    Raises:
        SpecError: no image has a score that was asked for.
    """
    request = selection.request
    if not selection.num_committed:
        return f"{run.url}: no image is committed yet, so there is nothing to select"
    in_condition = (
        () if request.where is None else scores_in_condition(request.where, run.metadata.schema)
    )
    require_scores(run, [*in_condition, *([] if request.score is None else [request.score])])
    reasons = ", ".join(f"{each.num_images:,} {each.reason}" for each in selection.drops)
    return (
        f"select: none of {plural(selection.num_committed, 'image')} of {run.url} is left: "
        f"{reasons}; nothing was written"
    )
