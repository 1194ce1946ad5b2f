"""The colours of the report and the tuning page: text stands out from what is behind it."""

import re
from pathlib import Path

import pytest

from nightpress.pipelines import reporting

PALETTE = Path(str(reporting.__file__)).parent / "templates" / "palette.css"

TEXT = ("ink", "soft", "good", "bad", "accent")
BEHIND = ("paper", "raised", "well")

AA = 4.5
"""WCAG 2.2, 1.4.3: the least contrast of text."""


def themes() -> dict[str, dict[str, str]]:
    light, _, dark = PALETTE.read_text().partition("@media")
    found = {
        name: dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css))
        for name, css in (("light", light), ("dark", dark))
    }
    assert all({*TEXT, *BEHIND} <= set(each) for each in found.values())
    return found


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    shares = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("behind", BEHIND)
def test_text_has_the_contrast_of_wcag_aa(theme: str, text: str, behind: str) -> None:
    colours = themes()[theme]
    assert contrast(colours[text], colours[behind]) >= AA
