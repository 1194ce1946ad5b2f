"""Deadlines: which time a text means."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from nightpress.jobs.commands.times import next_time

EVENING = datetime(2027, 1, 14, 22, 0, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("06:30", "2027-01-15T06:30:00+01:00"),
        ("6:30", "2027-01-15T06:30:00+01:00"),
        ("22:01", "2027-01-14T22:01:00+01:00"),
        ("22:00", "2027-01-15T22:00:00+01:00"),
        ("2027-01-15T06:30", "2027-01-15T06:30:00+01:00"),
        ("2027-01-15T06:30Z", "2027-01-15T06:30:00+00:00"),
    ],
)
def test_a_time_of_day_means_its_next_occurrence_and_a_date_means_itself(
    text: str, expected: str
) -> None:
    assert next_time(text, EVENING).isoformat() == expected


@pytest.mark.parametrize("text", ["25:00", "soon", "6.30", ""])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="neither a time of day such as 06:30"):
        next_time(text, EVENING)


def test_a_time_in_the_past_is_refused() -> None:
    with pytest.raises(ValueError, match="has passed"):
        next_time("2027-01-14T20:59Z", EVENING.astimezone(UTC))
