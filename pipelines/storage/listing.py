"""Listing a bucket page by page: each page is a request of its own, which can be tried again.

Knows the one request of S3's that lists, and not how often it is tried.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

PAGE_NAMES = 1000
"""What S3 lists at once, at most."""

WORTHWHILE = 20
"""A page takes about as long as so many questions for one object each, in a few threads."""


@dataclass(frozen=True)
class Listing:
    """A folder in a bucket."""

    driver: Any
    """s3fs, with its own retries switched off."""
    bucket: str
    root: str
    """The folder's key with a slash at its end; empty for the whole bucket."""
    run: Callable[[Callable[[], Any]], Any]
    """Tries a request as often as is right."""

    def pages(self, below: str) -> Iterator[dict[str, int]]:
        """Every object whose path begins so, in pages of path -> bytes, each in order."""
        token: dict[str, str] = {}
        while True:
            page = self._page(below, **token)
            yield {
                item["Key"][len(self.root) :]: int(item["Size"])
                for item in page.get("Contents", ())
                if not item["Key"].endswith("/")
            }
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def present(self, wanted: Sequence[str]) -> tuple[set[str], Sequence[str]]:
        """Those of some paths that are there, and those that are better asked for one by one.

        Each page begins at the first path that no page has told of, so that gaps between them
        cost nothing. When the pages tell of too few, only other folders are listed still.
        """
        below = _common_start([min(wanted), max(wanted)])
        found: set[str] = set()
        begun: set[str] = set()
        left, alone, num_pages = list(wanted), list[str](), 0
        while left:
            begun.add(_folder(min(left)))
            # Right before the first path, in both orders and in any order of what follows.
            first = _common_start([min(left), min(left, key=_parts)])
            page = self._page(below, StartAfter=(self.root + first)[:-1])
            names = [item["Key"][len(self.root) :] for item in page.get("Contents", ())]
            found.update(names)
            ends = not page.get("IsTruncated") or not names
            left = [] if ends else [path for path in left if not _is_told(path, names)]
            num_pages += 1
            if len(wanted) - len(left) - len(alone) < WORTHWHILE * num_pages:
                left, sparse = _worthwhile(left, begun)
                alone += sparse
        return found.intersection(wanted), alone

    def _page(self, below: str, **place: str) -> dict[str, Any]:
        request = {"Bucket": self.bucket, "Prefix": self.root + below, "MaxKeys": PAGE_NAMES}
        page: dict[str, Any] = self.run(
            lambda: self.driver.call_s3("list_objects_v2", **request, **place)
        )
        return page


def _worthwhile(paths: Sequence[str], begun: set[str]) -> tuple[list[str], list[str]]:
    """Paths that are worth a page for each folder that none has begun in, and the others."""
    fresh = [path for path in paths if _folder(path) not in begun]
    if len(fresh) < WORTHWHILE * len({_folder(path) for path in fresh}):
        fresh = []
    return fresh, sorted(set(paths).difference(fresh))


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _is_told(path: str, names: Sequence[str]) -> bool:
    """Whether a listing has come past a path, in whichever order it is.

    S3 sorts keys by their bytes, and SeaweedFS folder by folder: `a/x` before `a-b`.
    """
    return path <= names[-1] and _parts(path) <= _parts(names[-1])


def _parts(path: str) -> list[str]:
    return path.split("/")


def _common_start(paths: list[str]) -> str:
    """By characters: a key is no path."""
    return os.path.commonprefix(paths)  # noqa: RUF071
