"""The review page in a browser, as a person uses it."""

import time
from typing import Any

from .browsers import serious_findings


class ReviewPage:
    """One window of the page. `page` is Playwright's."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        """What the page reported as errors; a server that was stopped on purpose is none."""
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        is_network = "Failed to load resource" in message.text
        if message.type == "error" and not is_network:
            self.errors.append(message.text)

    def open(self, url: str) -> None:
        """Load the page and wait until it shows images."""
        self.page.goto(url)
        self.ready()

    def reload(self) -> None:
        """Load the page again, as F5 does."""
        self.page.reload()
        self.ready()

    def ready(self) -> None:
        """Wait until images are shown."""
        self.page.wait_for_selector("body[data-ready=yes]", timeout=60_000)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def value(self, expression: str) -> Any:
        """What JavaScript evaluates an expression to."""
        return self.page.evaluate(expression)

    def value_of(self, function: str, argument: Any) -> Any:
        """What a JavaScript function returns for an argument."""
        return self.page.evaluate(function, argument)

    @property
    def current(self) -> str:
        """The name of the current image."""
        name: str = self.value("NP.rows.imageId[NP.view.current] ?? ''")
        return name

    @property
    def num_shown(self) -> int:
        """How many images fit the filters."""
        count: int = self.value("NP.view.list.length")
        return count

    @property
    def saving(self) -> str:
        """What the page says about saving."""
        words: str = self.page.locator(".saving").inner_text()
        return words

    def until(self, expression: str) -> None:
        """Wait until an expression is true.

        Playwright's own `wait_for_function` needs `eval`, which the page's policy forbids.
        """
        deadline = time.monotonic() + 30
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            self.page.wait_for_timeout(30)

    def until_saved(self) -> None:
        """Wait until the server has all marks."""
        self.until("NP.delivery.unsaved() === 0")

    def choice(self, facet: str, label: str) -> Any:
        """The box of a value in a filter: a locator of its row."""
        section = self.page.locator(f"details.facet:has(summary span:text-is('{facet}'))")
        return section.locator(f".choice:has(.name:text-is('{label}'))")

    def count(self, facet: str, label: str) -> int:
        """The figure beside a value in a filter."""
        return int(self.choice(facet, label).locator(".count").inner_text().replace(",", ""))

    def findings(self) -> list[str]:
        """What axe-core finds that is serious; not while a message is fading."""
        self.until("['0', '1'].includes(getComputedStyle(NP.byId('toast')).opacity)")
        return serious_findings(self.page)

    def mark(self, image_id: str) -> dict[str, Any]:
        """What this reviewer said about an image: flag, stars, colour as the server's values."""
        mark: dict[str, Any] = self.value(
            f"(() => {{ const m = NP.marks.of(NP.rows.byId.get('{image_id}'));"
            "return {flag: NP.FLAGS[m.flag], stars: m.stars, colour: NP.COLOURS[m.colour],"
            "comment: m.comment}; })()"
        )
        return mark
