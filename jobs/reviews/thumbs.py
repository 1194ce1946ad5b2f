"""Making the thumbnails that a run lacks, and saying how far it is; also while a page is open."""

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.shared import OnEvent
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.review.thumbnails import ThumbsMade, make_missing
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import Atlas, read_thumbs

TOLD_EVERY_S = 10.0


def make_thumbs(run: Run, on_event: OnEvent) -> None:
    """Make the thumbnails that are missing, and say now and then how far it is.

    Raises:
        StoreError: the store failed; what is stored stays.
    """
    for _ in _made(run, on_event):
        pass


def _made(run: Run, on_event: OnEvent) -> Generator[ThumbsMade, None, None]:
    """Make the thumbnails that are missing; yields how far it is after each atlas."""
    found, next_at = read_thumbs(run.store), time.monotonic()
    current = set(run.hashes().items())
    for path, problem in found.problems_of(current).items():
        on_event(Message(f"{path}: {problem}; its thumbnails are made again", warning=True))
    last: ThumbsMade | None = None
    try:
        with closing(make_missing(run, found)) as steps:
            for last in steps:
                if time.monotonic() >= next_at:
                    next_at = time.monotonic() + TOLD_EVERY_S
                    on_event(Message(f"making thumbnails: {_so_far(last)}"))
                yield last
    finally:  # also when no more are asked for
        if last is not None:
            _tell(last, on_event)


def _so_far(step: ThumbsMade) -> str:
    return f"{step.num_made:,} of {plural(step.num_missing, 'thumbnail')}"


def _tell(last: ThumbsMade, on_event: OnEvent) -> None:
    """Say what was made at the end, or when it was stopped."""
    if last.num_made + last.num_failed < last.num_missing:
        on_event(Message(f"{_so_far(last)} made; the next review makes the others"))
    else:
        on_event(Message(f"{plural(last.num_made, 'thumbnail')} made"))
    if last.unreadable:
        image_id, reason = next(iter(last.unreadable.items()))
        images = plural(len(last.unreadable), "image")
        text = f"no thumbnails of {images}, such as {image_id}: {reason}"
        on_event(Message(text, warning=True))


@dataclass(frozen=True)
class ThumbsProgress:
    """How far making thumbnails is."""

    num_made: int = 0
    num_missing: int = 0
    """Images without a thumbnail when it began."""
    num_unreadable: int = 0
    """Images of which none could be made."""
    is_done: bool = True
    problem: str = ""
    """Why it ended early; empty if it did not."""


class LateThumbs:
    """Makes the thumbnails that a run lacks in a thread, while its page is open.

    Args:
        run: the run.
        on_event: told how far it is, from the thread.
    """

    def __init__(self, run: Run, on_event: OnEvent) -> None:
        self._run, self._on_event = run, on_event
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._atlases: list[Atlas] = []
        self._progress = ThumbsProgress(is_done=False)

    def since(self, number: int) -> tuple[Sequence[Atlas], ThumbsProgress]:
        """The atlases that were stored after the first `number`, and how far it is."""
        with self._lock:
            return self._atlases[number:], self._progress

    @property
    def is_done(self) -> bool:
        """Whether no more will be made."""
        return self.since(0)[1].is_done

    def named(self, path: str) -> Atlas | None:
        """The atlas at a path, if it was stored here."""
        return next((each for each in self.since(0)[0] if each.path == path), None)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make them in a thread; at the end of the block that stops after the atlas at hand."""
        thread = threading.Thread(target=self._work, name="thumbnails")
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()

    def _work(self) -> None:
        problem = ""
        try:
            with closing(_made(self._run, self._on_event)) as steps:
                for step in steps:
                    self._note(step)
                    if self._stopping.is_set():
                        break
        except StoreError as error:
            problem = str(error)
            self._on_event(Message(f"no more thumbnails are made: {problem}", warning=True))
        with self._lock:
            now = self._progress
            self._progress = ThumbsProgress(
                now.num_made, now.num_missing, now.num_unreadable, True, problem
            )

    def _note(self, step: ThumbsMade) -> None:
        with self._lock:
            if step.atlas is not None:
                self._atlases.append(step.atlas)
            self._progress = ThumbsProgress(
                step.num_made, step.num_missing, len(step.unreadable), is_done=False
            )
