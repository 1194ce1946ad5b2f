"""Fixtures of browser tests: a Chromium, and pages in it that may report no error."""

from collections.abc import Iterator
from typing import Any

import pytest

from . import browsers
from .review_page import ReviewPage


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of a file."""
    with browsers.chromium() as started:
        yield started


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens the review page at a URL, in a browser profile of its own: `open_page(url, ...)`.

    Options are those of `browser.new_context`. At the end no page may have reported an error.
    """
    contexts: list[Any] = []
    opened: list[ReviewPage] = []

    def open_(url: str, **options: Any) -> ReviewPage:
        options.setdefault("viewport", {"width": 1440, "height": 900})
        context = browser.new_context(**options)
        contexts.append(context)
        page = ReviewPage(context.new_page())
        opened.append(page)
        page.open(url)
        return page

    yield open_
    errors = [error for page in opened for error in page.errors]
    for context in contexts:
        context.close()
    assert errors == []
