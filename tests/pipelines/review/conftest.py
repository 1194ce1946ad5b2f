"""A browser for the tests of the review page."""

from support.browser_fixtures import browser, open_page

__all__ = ["browser", "open_page"]
