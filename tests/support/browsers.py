"""Chromium, driven by Playwright, for tests of pages.

Chromium is Debian's, or the one that `CHROMIUM` names, or Playwright's own. Where there is none,
tests are skipped and say so; with `REQUIRE_BROWSER` set, as `.ci/run` sets it, they fail instead.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def _missing(words: str) -> None:
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail(words)
    pytest.skip(words)


def _executable(playwright: Any) -> str | None:
    named = os.environ.get("CHROMIUM")
    if named:
        return named
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return found or (playwright.chromium.executable_path if _has_own(playwright) else None)


def _has_own(playwright: Any) -> bool:
    return Path(playwright.chromium.executable_path).exists()


@contextmanager
def chromium(**options: Any) -> Iterator[Any]:
    """A running Chromium (`playwright.sync_api.Browser`), or a skipped test where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("no browser test: Playwright is not installed (pip install playwright)")
    with sync_playwright() as playwright:
        executable = _executable(playwright)
        if executable is None:
            _missing("no browser test: there is no Chromium (apt-get install chromium)")
        browser = playwright.chromium.launch(
            executable_path=executable, args=list(ARGUMENTS), **options
        )
        try:
            yield browser
        finally:
            browser.close()


def axe_script() -> str:
    """The source of axe-core, out of the package `axe-playwright-python`."""
    try:
        folder = files("axe_playwright_python")
    except ImportError:
        _missing("no accessibility test: axe-core is missing (pip install axe-playwright-python)")
    return (folder / "axe.min.js").read_text(encoding="utf-8")


def serious_findings(page: Any) -> list[str]:
    """What axe-core finds on a page that is serious or critical, one line each."""
    page.evaluate(axe_script())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']} ({each['impact']}): {node['target']} {node['failureSummary'][:200]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
