"""What making copies of a run's images has in common: which images, from where, to where."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.delivery_choice import Choice
from nightpress.jobs.runs.marked_images import MarkChoice, Marked, marked_images
from nightpress.jobs.runs.shared import OnEvent, create_only_store
from nightpress.pipelines.errors import SpecError, StoreMissing
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import Options, Store
from nightpress.pipelines.storage.urls import absolute

REPAIR = "nightpress verify --repair makes it again"

MAX_NAMED = 5
"""Images that one message names."""


def choice_of(
    ids: Iterable[str] | None, where: str | None, selection: str | None, marked: Marked | None
) -> Choice:
    """The images that a caller asks for."""
    listed = None if ids is None else tuple(dict.fromkeys(ids))
    return Choice(listed, where, selection, None if marked is None else marked.ids)


def require_choice(*choices: object) -> None:
    """Refuse to make copies of all images where nothing chooses some.

    Raises:
        SpecError: none of the choices is given.
    """
    if all(each is None for each in choices):
        raise SpecError("choose images by marks, by ids, by where or by a selection")


def marked_if_asked(run: Run, marks: MarkChoice | None, on_event: OnEvent) -> Marked | None:
    """The images with certain marks, if any are asked for; says which were made again since.

    Raises:
        SpecError: no image has such marks.
        MarksError: the lead has marked nothing.
        StoreError: the marks cannot be read.
    """
    if marks is None:
        return None
    found = marked_images(run, marks, on_event)
    warn_of_changed(found.changed, marks, on_event)
    return found


def warn_of_changed(changed: tuple[str, ...], marks: MarkChoice, on_event: OnEvent) -> None:
    """Say which images were made again since they were marked."""
    if not changed:
        return
    shown = ", ".join(changed[:MAX_NAMED]) + (", ..." if len(changed) > MAX_NAMED else "")
    images = f"{plural(len(changed), 'image')} made again since"
    text = (
        f"{images} their marks are taken, as asked: {shown}"
        if marks.include_changed
        else f"{images} they were marked, and left out; --include-changed takes them: {shown}"
    )
    on_event(Message(text, warning=True))


@contextmanager
def place_of_copies(run: Run, to: str, options: Options, on_event: OnEvent) -> Iterator[Store]:
    """The folder of the copies, which is not in the run; it is left without a hidden folder.

    Raises:
        SpecError: it is.
        StoreError: it cannot be written to.
    """
    require_outside(run, to)
    place = Store(absolute(to), options)
    place.check()
    try:
        yield create_only_store(place, on_event)
    finally:
        place.tidy()


def require_outside(run: Run, to: str) -> None:
    """Check that copies do not go into the run directory.

    Raises:
        SpecError: they would.
    """
    if f"{absolute(to)}/".startswith(f"{absolute(run.url)}/"):
        raise SpecError(
            f"--to {to}: lies in the run directory, which holds only what the run makes"
        )


def intact_image(run: Run, row: Mapping[str, Any]) -> bytes | str:
    """The bytes of an image, which are those that the run recorded; else what is wrong with it.

    Args:
        run: the run.
        row: the metadata row of the image.

    Raises:
        StoreError: the store failed.
    """
    try:
        data = image_bytes(run.store, row)
    except StoreMissing:
        return f"{row['image_id']}: {row['file']} is not in the run; {REPAIR}"
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        return f"{row['image_id']}: {row['file']} is not what the run recorded; {REPAIR}"
    return data
