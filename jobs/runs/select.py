"""`select`: choose images of a run by their scores and metadata, as an immutable selection."""

import time
from collections.abc import Callable

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.shared import OnEvent, create_only_store, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.selections.files import Selection
from nightpress.pipelines.run_directory.selections.request import SelectionRequest
from nightpress.pipelines.run_directory.selections.selecting import select_images
from nightpress.pipelines.storage import Options

TOLD_EVERY_S = 10.0


def select(
    target: ImageTarget,
    name: str,
    on_event: OnEvent = ignore,
    *,
    where: str | None = None,
    by: str | None = None,
    dedup: str | None = None,
    top: int | None = None,
    per: str | None = None,
    balance: str | None = None,
    embeddings: str | None = None,
    similarity: float | None = None,
    storage: Options | None = None,
) -> Selection:
    """Choose images of a run, and keep the choice as `selections/<name>.parquet` in the run.

    What is asked for applies in the order of the arguments; no image is changed or deleted.

    Args:
        target, storage: as for `status`.
        name: the name of the selection.
        on_event: called with warnings, and with how far comparing embeddings is.
        where: a condition on the metadata, such as `scores.sharpness > 40 and mood = 'calm'`.
        by: the score that ranks the images, the highest first; `-name` puts the lowest first.
        dedup: `exact` leaves out images with the bytes or pixels of one that ranks before them;
            `near` also near perceptual hashes; `embeddings` also vectors that are alike.
        top: how many of the first images to keep, of each value of `per` if that is given.
        per, balance: columns, such as `id`; equally many are kept of each value of `balance`.
        embeddings: the scorer whose vectors are compared; by default the only one of the run.
        similarity: the cosine from which vectors are alike; 0.95 by default.

    Raises:
        SpecError: they cannot be used, no image is left, or the name is taken by another choice.
        RunNotFound, StoreError: as for `status`.
    """
    request = SelectionRequest.of(where, by, dedup, top, per, balance, embeddings, similarity)
    run = open_images(target, storage)
    writing = Run(create_only_store(run.store, on_event), run.record)
    return select_images(writing, name, request, _now_and_then(on_event))


def _now_and_then(on_event: OnEvent) -> Callable[[int], None]:
    """Says every few seconds how many images are compared."""
    next_at = time.monotonic() + TOLD_EVERY_S

    def told(number: int) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + TOLD_EVERY_S
            on_event(Message(f"{plural(number, 'image')} compared by their embeddings"))

    return told
