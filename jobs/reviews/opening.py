"""Opening the review page in a browser of this machine, without its token on a command line."""

import html
import os
import shutil
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path
from types import TracebackType
from typing import Self

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.shared import OnEvent

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={address}">
<title>nightpress review</title>
<p><a href="{address}">Open the review page</a></p>
</html>
"""


class BrowserOpener:
    """Opens a browser with a file that leads to an address and that only this user can read.

    A command line, which would have the address, is read by other users of a machine. The file is
    removed by `remove`, at the latest when the context ends.

    Args:
        on_event: called with what a person should know.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def open(self, address: str) -> None:
        """Open an address, if this machine has a screen; a browser in a terminal would take it."""
        if not has_screen():
            self._on_event(Message("open this address in a browser"))
            return
        try:
            page = self._written(address)
        except OSError as error:
            text = f"no browser is opened: {error}; open this address in one"
            self._on_event(Message(text, warning=True))
            return
        threading.Thread(target=self._start, args=(page.as_uri(),), daemon=True).start()

    def remove(self) -> None:
        """Remove the file, as its token was used or the server ends; twice does no harm."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _written(self, address: str) -> Path:
        """The file that leads to an address, in a folder of this user alone."""
        self._folder = Path(tempfile.mkdtemp(prefix="nightpress-review-"))  # mode 0700
        page = self._folder / "open.html"
        number = os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(PAGE.format(address=html.escape(address)))
        return page

    def _start(self, url: str) -> None:
        if webbrowser.open(url):
            text = "a browser is opened; if it does not show the page, open the address above in it"
            self._on_event(Message(text))
        else:
            text = "no browser was found; open the address above in one"
            self._on_event(Message(text, warning=True))


def has_screen() -> bool:
    """Whether a browser can open a window on this machine."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
