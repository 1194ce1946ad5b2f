"""The lines about scores at the end of `run` and of `status`."""

from nightpress.jobs.commands.score_lines import MAX_LISTED, score_lines
from nightpress.pipelines.reporting.scores import ScoreSummary

SHARPNESS = ScoreSummary("sharpness", 640, 0, 1.0, 40.126, 312.0, 890.5, 2000.0)
CLIP = ScoreSummary("clip", 628, 12, 0.1, 0.21, 0.291, 0.333, 0.4)


def test_a_line_has_the_percentiles_and_how_many_images_lack_the_score() -> None:
    assert list(score_lines([SHARPNESS, CLIP, ScoreSummary("text", 0, 640)], "press/a")) == [
        "scores: median (5th to 95th percentile)",
        "  sharpness  312 (40.1 to 890)",
        "  clip       0.291 (0.21 to 0.333), 12 images without it",
        "  text       640 images without it",
        "  nightpress score press/a makes scores that are missing",
    ]


def test_without_scorers_and_gates_there_are_no_lines() -> None:
    assert list(score_lines([SHARPNESS], "press/a")) == []
    assert list(score_lines([], "press/a")) == []
    assert list(score_lines([], "press/a", has_gates=True)) == []  # gates rejected every image
    assert len(list(score_lines([SHARPNESS], "press/a", has_gates=True))) == 2


def test_of_many_labels_some_are_listed() -> None:
    labels = [ScoreSummary(f"kind.{n}", 1, 0, 0.0, 0.0, 0.0, 0.0, 0.0) for n in range(1000)]
    lines = list(score_lines(labels, "press/a"))
    assert len(lines) == 1 + MAX_LISTED + 1
    assert lines[-1] == "  and 980 more, in the report"
