"""Which files the rows of a training table may name: those below its folder and `data.roots`.

A table may come from anyone, and its images are read with the credentials of the user who trains.
"""

import os
import posixpath
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from nightpress.pipelines.storage import is_local, is_url
from nightpress.pipelines.storage.urls import absolute, local_path, public


class OutsideRootsError(ValueError):
    """A row names a file that it may not name; the message says which, and what allows it."""


class ImageRoots:
    """The folders whose files a table may name.

    Args:
        folder: the table's own folder.
        named: the URLs and folders in `data.roots`.
    """

    def __init__(self, folder: str, named: Sequence[str]) -> None:
        self._folder = folder
        self._roots = [absolute(root) for root in (folder, *named)]

    def resolve(self, value: str) -> str:
        """The path or URL of the file that a row names, relative to the table's folder.

        Raises:
            OutsideRootsError: it is not below one of the folders.
        """
        url = value
        if not is_url(value) and not value.startswith("/"):
            url = f"{self._folder}/{value}"
        if "::" in value or "\0" in value:
            raise self._outside(value)
        if is_local(url):
            url = posixpath.normpath(str(local_path(url)))
        elif ".." in unquote(_path(url)).replace("\\", "/").split("/"):
            raise self._outside(value)  # a server may follow the dots
        if not any(_is_below(url, root) for root in self._roots):
            raise self._outside(value)
        return url

    def require_real(self, url: str, value: str) -> None:
        """Check that a local file is below one of the folders once symbolic links are followed.

        Args:
            url: what `resolve` returned.
            value: what the row names.

        Raises:
            OutsideRootsError: a link leads elsewhere.
        """
        if is_local(url):
            real = os.path.realpath(url)
            local = [os.path.realpath(root) for root in self._roots if is_local(root)]
            if not any(_is_below(real, root) for root in local):
                raise self._outside(value, f", through a link to {real}")

    def _outside(self, value: str, how: str = "") -> OutsideRootsError:
        named = ", ".join(map(public, self._roots[1:])) or "none"
        return OutsideRootsError(
            f"the row names {public(value)!r:.200}{how}; a table may name files in its own folder "
            f"and in `data.roots` ({named})"
        )


def _is_below(url: str, root: str) -> bool:
    """Whether a URL has the protocol and host of a folder's URL, and a longer path."""
    if is_local(url) or is_local(root):
        folder = root.rstrip("/") + "/"
        return is_local(url) and is_local(root) and url.startswith(folder) and url != folder
    one, other = urlsplit(url), urlsplit(root)
    same = (one.scheme.lower(), one.netloc) == (other.scheme.lower(), other.netloc)
    return same and one.path.startswith(other.path.rstrip("/") + "/")


def _path(url: str) -> str:
    return urlsplit(url).path if is_url(url) and not is_local(url) else url
