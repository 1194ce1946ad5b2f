"""The report in a browser: its filter, its dialog, mailed alone, and what axe-core finds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.browsers import chromium, serious_findings
from support.made_runs import begin, commit, made
from support.marked_runs import say
from support.slow_cases import slow_except

from nightpress.pipelines.reporting.report import write_report

pytestmark = pytest.mark.timeout(120)

PROMPTS = ("a bedroom", "a dog", "a red dog", "a fish")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A report without its run, as if it had been mailed."""
    run = begin(str(tmp_path / "runs"))
    records = [made(run, n, prompt) for n, prompt in enumerate(PROMPTS)]
    commit(run, 0, records, mood=pa.array(["calm", "wild", "calm", "wild"]))
    say(run, "anna", (0, "flag", "pick"), (1, "flag", "reject"))
    write_report(run, run.store)
    path = tmp_path / "report.html"
    path.write_bytes(run.store.read("report.html"))
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", slow_except([390, 1400], 390))
def test_axe_finds_nothing_serious(browser: Any, alone: Path, theme: str, width: int) -> None:
    page = browser.new_page(color_scheme=theme, viewport={"width": width, "height": 800})
    page.goto(alone.as_uri())
    assert serious_findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_mailed_report_shows_its_images_and_finds_prompts_and_ids(
    browser: Any, alone: Path
) -> None:
    page = browser.new_page()
    page.goto(alone.as_uri())
    page.wait_for_function("[...document.querySelectorAll('figure img')].every(i => i.complete)")
    sizes = page.eval_on_selector_all("figure img", "all => all.map(i => i.naturalWidth)")
    assert sizes == [16] * 4

    def found(text: str) -> list[str]:
        page.fill("input[type=search]", text)
        ids: list[str] = page.eval_on_selector_all(
            "figure:not([hidden]) .id", "all => all.map(p => p.textContent)"
        )
        return ids

    assert found("bed") == ["0_00"]
    assert found("DOG red") == ["2_00"]
    assert found("3_00") == ["3_00"]
    assert found("png") == found("euler") == found("calm") == []
    found("")
    page.click("figure >> nth=2")
    page.wait_for_function("document.querySelector('dialog img').naturalWidth === 16")
    assert page.inner_text("dialog .about").count("a red dog") == 1
    page.close()
