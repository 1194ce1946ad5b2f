"""A run of ten images without thumbnails, and a client of its review server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser_fixtures import browser, open_page
from support.made_runs import begin, finish
from support.review_client import Client, review_client

from nightpress.pipelines.run_directory.reader import Run

__all__ = ["browser", "client", "open_page", "run", "stranger"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    opened = begin(str(tmp_path))
    finish(opened)
    return opened


@pytest.fixture
def stranger(run: Run) -> Iterator[Client]:
    """A client without a cookie."""
    with review_client(run) as client:
        yield client


@pytest.fixture
def client(stranger: Client) -> Client:
    """A client that has opened the page."""
    stranger.open()
    return stranger
