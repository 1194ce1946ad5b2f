"""`review`: serve the page on which people pick the images of a run, until it is stopped."""

import errno
import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from nightpress.jobs.progress.events import Message
from nightpress.jobs.reviews.access import ANY_ADDRESS, Access, is_loopback
from nightpress.jobs.reviews.opening import BrowserOpener
from nightpress.jobs.reviews.options import ReviewOptions, ServerOptions
from nightpress.jobs.reviews.requirements import require_group_column, require_images
from nightpress.jobs.reviews.reviewed_run import (
    Decided,
    ReviewedRun,
)
from nightpress.jobs.reviews.server import Address, ReviewServer, bound_socket, serving
from nightpress.jobs.reviews.thumbs import LateThumbs
from nightpress.jobs.runs.shared import OnEvent, create_only_store, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.jobs.signals import Interruption, first_interruption
from nightpress.pipelines.errors import SpecError, StoreDenied
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import Options

FIRST_PORT, NUM_PORTS = 20_000, 10_000
"""Where the port of a run and a reviewer lies if none is given."""

NEXT_PORTS = 50
"""How many further ports are tried if it is taken."""

OnAddress = Callable[[str], None]


@dataclass(frozen=True)
class ReviewResult:
    """What was reviewed, when the page was closed."""

    url: str
    """URL of the run."""
    reviewer: str
    num_marks: int
    """Marks that were stored meanwhile."""
    decided: Decided
    """What the marks of all come to under the policy."""


def review(
    target: ImageTarget,
    options: ReviewOptions,
    on_event: OnEvent = ignore,
    *,
    server: ServerOptions | None = None,
    on_address: OnAddress = print,
    storage: Options | None = None,
) -> ReviewResult:
    """Serve the review page of a run until SIGINT or SIGTERM.

    Thumbnails that are missing are made while the page is open. Marks are stored as they are made.

    Args:
        target, storage: as for `status`.
        options: how the run is reviewed.
        on_event: called with what a person should know.
        server: where the page is served; by default for this machine alone.
        on_address: called with the address that opens the page, with a token that works once.

    Raises:
        ImageNotFound: the run has no image to look at.
        SpecError: the port is taken, or there is no such address or column.
        RunNotFound, StoreError: as for `status`.
    """
    run = open_images(target, storage)
    require_group_column(run, options)
    if not options.read_only:
        run = _writing(run, on_event)
    late = LateThumbs(run, on_event) if options.makes_thumbs else None
    reviewed = ReviewedRun(run, options, lambda text: on_event(Message(text, warning=True)), late)
    require_images(reviewed.rows())
    reviewed.refresh_marks()
    with late.running() if late else nullcontext():
        _serve(reviewed, server or ServerOptions(), on_event, on_address)
    decided = reviewed.close_marks()
    return ReviewResult(run.url, options.reviewer, reviewed.num_stored, decided)


def _writing(run: Run, on_event: OnEvent) -> Run:
    """The run, with a store that lets no name be written twice.

    Raises:
        StoreDenied: nothing may be written there.
    """
    try:
        return Run(create_only_store(run.store, on_event), run.record)
    except StoreDenied as error:
        raise StoreDenied(f"{error}; --read-only shows the run without writing") from error


def _serve(
    reviewed: ReviewedRun, options: ServerOptions, on_event: OnEvent, on_address: OnAddress
) -> None:
    """Serve the page until SIGINT or SIGTERM; see `review`."""
    access = Access.of_address(options.listen)
    seed = f"{reviewed.marks.run} {reviewed.options.reviewer}"
    with _listening(options.listen, options.port, seed, on_event) as bound:
        address = Address(shown_host(options.listen), bound.getsockname()[1])
        # Set before the address is printed, since a reader of it may stop the server at once.
        with BrowserOpener(on_event) as opener, first_interruption() as asked:

            def used(token: str) -> None:
                opener.remove()
                text = f"the page is open; another browser may open {address.url(token)}"
                on_event(Message(text))

            access.on_token_used = used
            with serving(ReviewServer(reviewed, access), bound):
                first = address.url(access.new_token())
                on_address(first)
                if options.open_browser:
                    opener.open(first)
                _wait(asked)


@contextmanager
def _listening(
    listen: str, port: int | None, seed: str, on_event: OnEvent
) -> Iterator[socket.socket]:
    """A socket that listens.

    Raises:
        SpecError: the port is taken, or there is no such address.
    """
    first = port_of(seed) if port is None else port
    ports = [first] if port is not None else [first + n for n in range(NEXT_PORTS)]
    bound = None
    for each in ports:
        try:
            bound = bound_socket(listen, each)
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = error.strerror or str(error)
                raise SpecError(f"cannot listen at {listen}, port {each}: {reason}") from error
    if bound is None:
        raise SpecError(
            f"port {first} of {listen} is taken; choose another with --port, or 0 for any that is "
            "free"
        )
    if (taken := bound.getsockname()[1]) != first and port is None:
        text = (
            f"port {first} is taken, so this is port {taken}: marks that a browser could not send "
            "before are not found from here"
        )
        on_event(Message(text, warning=True))
    if not is_loopback(listen):
        text = (
            f"{listen} is reached from other machines, and the connection is not encrypted: listen "
            "there only in a network that you trust"
        )
        on_event(Message(text, warning=True))
    with bound:
        yield bound


def port_of(seed: str) -> int:
    """The port that a text stands for."""
    digest = hashlib.sha256(seed.encode()).digest()
    return FIRST_PORT + int.from_bytes(digest[:8]) % NUM_PORTS


def shown_host(listen: str) -> str:
    """The host of the address that is printed."""
    host = socket.gethostname() if listen in ANY_ADDRESS else listen
    return f"[{host}]" if ":" in host else host


def _wait(asked: Interruption) -> None:
    """Wait for SIGINT or SIGTERM; a second one raises KeyboardInterrupt."""
    while not asked.wait(1.0):
        pass
