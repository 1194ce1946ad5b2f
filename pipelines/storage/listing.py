"""List an S3 bucket page by page; each page is one request, which can be retried by itself."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

PAGE_NAMES = 1000
"""The most names that S3 returns in one page."""

PATHS_PER_PAGE = 20
"""How many paths a page must settle to be worth it: one page takes about as long as this many HEAD
requests in a few threads."""


@dataclass(frozen=True)
class Listing:
    """A folder in a bucket."""

    driver: Any
    """s3fs, with its own retries switched off."""
    bucket: str
    root: str
    """The folder's key with a slash at its end; empty for the whole bucket."""
    run: Callable[[Callable[[], Any]], Any]
    """Runs one request, with retries."""

    def pages(self, below: str) -> Iterator[dict[str, int]]:
        """Every object whose path begins with `below`, in pages of path -> bytes, each in order."""
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
        """Which of the wanted paths exist, and which paths are cheaper to check one by one.

        Each page starts at the first path that no page has covered, so gaps between wanted paths
        cost nothing. When the pages settle too few paths, only folders not yet started are listed.
        """
        below = _common_start([min(wanted), max(wanted)])
        found: set[str] = set()
        started: set[str] = set()
        remaining, one_by_one, num_pages = list(wanted), list[str](), 0
        while remaining:
            started.add(_folder(min(remaining)))
            # A key just before the first path in either sort order, whatever characters follow.
            first = _common_start([min(remaining), min(remaining, key=_parts)])
            page = self._page(below, StartAfter=(self.root + first)[:-1])
            names = [item["Key"][len(self.root) :] for item in page.get("Contents", ())]
            found.update(names)
            is_last_page = not page.get("IsTruncated") or not names
            remaining = (
                []
                if is_last_page
                else [path for path in remaining if not _is_listed_past(path, names)]
            )
            num_pages += 1
            if len(wanted) - len(remaining) - len(one_by_one) < PATHS_PER_PAGE * num_pages:
                remaining, sparse = _split_by_density(remaining, started)
                one_by_one += sparse
        return found.intersection(wanted), one_by_one

    def _page(self, below: str, **position: str) -> dict[str, Any]:
        request = {"Bucket": self.bucket, "Prefix": self.root + below, "MaxKeys": PAGE_NAMES}
        page: dict[str, Any] = self.run(
            lambda: self.driver.call_s3("list_objects_v2", **request, **position)
        )
        return page


def _split_by_density(paths: Sequence[str], started: set[str]) -> tuple[list[str], list[str]]:
    """Paths in folders not yet started that are dense enough to list, and all other paths."""
    dense = [path for path in paths if _folder(path) not in started]
    if len(dense) < PATHS_PER_PAGE * len({_folder(path) for path in dense}):
        dense = []
    return dense, sorted(set(paths).difference(dense))


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _is_listed_past(path: str, names: Sequence[str]) -> bool:
    """Whether a listing that ends with these names has passed a path, in either sort order.

    S3 sorts keys by bytes; SeaweedFS sorts folder by folder: `a/x` before `a-b`.
    """
    return path <= names[-1] and _parts(path) <= _parts(names[-1])


def _parts(path: str) -> list[str]:
    return path.split("/")


def _common_start(paths: list[str]) -> str:
    """The common prefix by characters: an S3 key is not a path."""
    return os.path.commonprefix(paths)  # noqa: RUF071
