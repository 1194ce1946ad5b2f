"""Which scores the images of a run have, and what to do about those that they have not."""

from collections.abc import Iterable
from difflib import get_close_matches

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.draws import draws_dataset
from nightpress.pipelines.run_directory.embeddings import embedding_scorers
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.where import SCORE_PREFIX, score_field

HOW_TO_SCORE = "nightpress score makes scores of images that have none"

MAX_NAMED = 40
"""Names of scores in a message."""


def score_names(run: Run) -> tuple[str, ...]:
    """The names of all scores of a run's images and of its draws that lost, in order."""
    names: set[str] = set()
    with run.reading():
        for dataset in (run.metadata, draws_dataset(run.store)):
            for batch in dataset.to_batches(columns=["scores"]):
                keys = batch.column("scores").drop_null().keys
                names.update(keys.unique().to_pylist())
    return tuple(sorted(names))


def require_scores(run: Run, names: Iterable[str]) -> None:
    """Check that some image has each of these scores.

    Raises:
        SpecError: none has; the message names those that there are.
    """
    for name in names:
        with run.reading():
            found = run.metadata.head(1, columns=["image_id"], filter=score_field(name).is_valid())
        if not found.num_rows and name.removeprefix(SCORE_PREFIX) in embedding_scorers(run.store):
            raise SpecError(
                f"{name}: this scorer gives the images of {run.url} embeddings and no score; "
                "select --dedup embeddings compares them"
            )
        if not found.num_rows:
            raise SpecError(no_such_score(name, score_names(run), run.url))


def no_such_score(name: str, known: tuple[str, ...], where: str) -> str:
    """What to say about a score that no image has."""
    if not known:
        return f"no image of {where} has a score {name!r}, or any other; {HOW_TO_SCORE}"
    near = get_close_matches(name.removeprefix(SCORE_PREFIX), known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(known[:MAX_NAMED])
    more = f" and {len(known) - MAX_NAMED:,} more" if len(known) > MAX_NAMED else ""
    return (
        f"no image of {where} has a score {name!r}; {hint}its scores are: {listed}{more}; "
        f"{HOW_TO_SCORE}"
    )
