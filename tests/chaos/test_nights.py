"""The command that runs many nights: its exit code says whether anything went wrong."""

from collections import Counter
from pathlib import Path

import pytest
from fault_tally import Tally


@pytest.mark.parametrize(
    ("tally", "wrong", "code"),
    [
        (Tally(images=48, resampled=6), [], 0),
        (Tally(images=48, lost=1), [], 1),
        (Tally(images=48, doubled=1), [], 1),
        (Tally(images=48, different=1), [], 1),
        (Tally(images=48), [7], 1),
    ],
    ids=["whole", "lost", "doubled", "different", "odd"],
)
def test_nights_that_went_wrong_give_exit_code_1_and_an_error_line(
    tally: Tally,
    wrong: list[int],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import nights

    total = Tally(Counter(node_killed=1), images=48)
    total += tally
    assert nights.conclude("2 nights", total, wrong) == code
    said = capsys.readouterr()
    assert "1 node_killed" in said.out
    assert said.err.startswith("error:") == bool(code)
