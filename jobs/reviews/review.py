"""`review`: serve the page on which people pick the images of a run, until it is stopped."""

import errno
import hashlib
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nightpress.jobs.progress.events import Message
from nightpress.jobs.reviews.access import ANY_ADDRESS, Access, is_loopback
from nightpress.jobs.reviews.reviewed_run import ReviewedRun, ReviewOptions, require_images
from nightpress.jobs.reviews.server import Address, ReviewServer, bound_socket, serving
from nightpress.jobs.reviews.thumbs import make_thumbs
from nightpress.jobs.runs.shared import OnEvent, create_only_store, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.jobs.signals import first_interruption
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.marks import checked_reviewer
from nightpress.pipelines.run_directory.marks_merge import Policy
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
    """Of the run."""
    reviewer: str
    num_marks: int
    """Marks that were stored meanwhile."""


def review(
    target: ImageTarget,
    on_event: OnEvent = ignore,
    *,
    on_address: OnAddress = print,
    reviewer: str,
    port: int | None = None,
    listen: str = "127.0.0.1",
    read_only: bool = False,
    policy: str = "any",
    lead: str | None = None,
    blind: bool = False,
    group_by: str | None = None,
    thumbs: bool = True,
    open_browser: bool = False,
    storage: Options | None = None,
) -> ReviewResult:
    """Serve the review page of a run until SIGINT or SIGTERM.

    Thumbnails that are missing are made first. Marks are stored as they are made.

    Args:
        target, storage: as for `status`.
        on_event: called with what a person should know.
        on_address: called with the address that opens the page, with a token that works once.
        reviewer: whose marks are made.
        port: where to listen; 0 is any port that is free, and by default the run and the reviewer
            decide, so that a browser finds marks again that it could not send before.
        listen: the address to listen at; by default only this machine can reach it.
        read_only: write nothing at all.
        policy, lead: how the marks of several reviewers are shown as one; see `Run.decisions`.
        blind: keep the marks of others from the reviewer.
        group_by: the column by which images are stacked; by default that of the job.
        thumbs: make thumbnails that are missing.
        open_browser: open the page in a browser of this machine.

    Raises:
        ImageNotFound: the run has no image to look at.
        SpecError: the port is taken, or there is no such address.
        MarksError: no reviewer can have that name, or there is no such policy.
        RunNotFound, StoreError: as for `status`.
    """
    options = ReviewOptions(
        reviewer=checked_reviewer(reviewer),
        read_only=read_only,
        blind=blind,
        policy=Policy.of(policy, lead),
        group_by=group_by,
    )
    run = open_images(target, storage)
    if not read_only:
        run = Run(create_only_store(run.store, on_event), run.record)
    if thumbs and not read_only:
        make_thumbs(run, on_event)
    reviewed = ReviewedRun(run, options, lambda text: on_event(Message(text, warning=True)))
    require_images(reviewed.rows())
    reviewed.refresh_marks()
    access = Access.of_address(listen)
    with _listening(listen, port, f"{reviewed.marks.run} {options.reviewer}", on_event) as bound:
        address = Address(shown_host(listen), bound.getsockname()[1])
        access.on_token_used = lambda token: on_event(
            Message(f"the page is open; another browser may open {address.url(token)}")
        )
        with serving(ReviewServer(reviewed, access), bound):
            first = address.url(access.new_token())
            on_address(first)
            if open_browser:
                _open(first, on_event)
            _wait()
    if not read_only:
        reviewed.write_marks_file()
    return ReviewResult(run.url, options.reviewer, reviewed.num_stored)


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


def _open(address: str, on_event: OnEvent) -> None:
    """Open a browser, if this machine has a screen; a browser in the terminal would take it."""
    has_screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if has_screen:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    else:
        on_event(Message("open this address in a browser"))


def _wait() -> None:
    """Wait for SIGINT or SIGTERM; a second one raises KeyboardInterrupt."""
    with first_interruption() as interrupted:
        while not interrupted.wait(1.0):
            pass
