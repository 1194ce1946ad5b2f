"""How long writing a report may take, for those who must be done by a deadline."""

REPORT_S, REPORT_S_PER_COMMIT = 20.0, 0.03
"""What writing a report may take; the first is mostly for the images that thumbnails are made of.
Measured on two busy cores: 10 ms a commit from a local disk, 18 ms from an S3 server beside it."""


def expected_report_s(num_commits: int) -> float:
    """Seconds that `write_report` may take on a run of so many commits: a generous estimate."""
    return REPORT_S + REPORT_S_PER_COMMIT * num_commits
