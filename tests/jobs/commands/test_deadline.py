"""Deadlines: which time a text means, also on the nights when the clock changes."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.jobs.commands import times
from nightpress.jobs.commands.times import TimeWindow, next_time
from nightpress.jobs.errors import StoppedOnRequest
from nightpress.jobs.runs.shared import dispatch_until
from nightpress.pipelines.job.local_time import MachineZone

EVENING = datetime(2027, 1, 14, 22, 0, tzinfo=timezone(timedelta(hours=1)))
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(params=["by name", "by the C library"])
def berlin(request: pytest.FixtureRequest) -> Iterator[tzinfo]:
    """Berlin's time zone, twice: from the database, and as this machine's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield BERLIN if request.param == "by name" else MachineZone()
    time.tzset()


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


@pytest.mark.parametrize(
    ("now", "text", "expected"),
    [
        ("2026-10-24T20:00Z", "06:30", "2026-10-25T05:30Z"),  # one hour more than on other nights
        ("2026-10-24T20:00Z", "02:30", "2026-10-25T00:30Z"),  # the first of two
        ("2026-10-25T00:45Z", "02:30", "2026-10-25T01:30Z"),  # the second of two
        ("2026-10-25T01:45Z", "02:30", "2026-10-26T01:30Z"),
        ("2026-10-24T20:00Z", "2026-10-25T06:30", "2026-10-25T05:30Z"),
        ("2027-03-27T21:00Z", "06:30", "2027-03-28T04:30Z"),  # one hour less
        ("2027-03-27T21:00Z", "02:30", "2027-03-28T01:00Z"),  # the clock goes from 02:00 to 03:00
        ("2027-03-27T21:00Z", "2027-03-28T02:30", "2027-03-28T01:00Z"),
    ],
)
def test_a_deadline_is_a_local_time_on_the_nights_when_the_clock_changes(
    berlin: tzinfo, now: str, text: str, expected: str
) -> None:
    found = next_time(text, datetime.fromisoformat(now).astimezone(berlin))
    assert found.astimezone(UTC) == datetime.fromisoformat(expected)


@given(
    now=st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    zone=st.sampled_from([BERLIN, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")]),
)
def test_the_next_time_is_the_first_moment_at_which_the_clock_shows_it_or_more(
    now: datetime, hour: int, minute: int, zone: ZoneInfo
) -> None:
    found = next_time(f"{hour:02}:{minute:02}", now.astimezone(zone))
    shown = found.astimezone(zone)
    before = (found.astimezone(UTC) - timedelta(seconds=1)).astimezone(zone)
    assert timedelta(0) < found.astimezone(UTC) - now <= timedelta(hours=25)
    assert (shown.hour, shown.minute) == (hour, minute) or (
        before.utcoffset() != shown.utcoffset()  # the clock skips this time
        and (before.hour, before.minute) < (hour, minute) < (shown.hour, shown.minute)
    )


@pytest.mark.parametrize("text", ["25:00", "soon", "6.30", "", "06:30-", "-06:30", "6-7"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="neither a time of day such as 06:30"):
        next_time(text, EVENING)


@pytest.mark.parametrize("text", ["9999-12-31T23:59Z", "9999-12-31T23:59-05:00", "9999-12-31"])
def test_a_time_beyond_all_calendars_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text} is too far away"):
        next_time(text, EVENING)


def test_a_time_in_the_past_is_refused() -> None:
    with pytest.raises(ValueError, match="has passed"):
        next_time("2027-01-14T20:59Z", EVENING.astimezone(UTC))


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        ("2026-10-24T20:00Z", "2026-10-25T05:30Z"),
        ("2026-10-24T19:59:30Z", "2026-10-25T05:30Z"),  # a clock that is half a minute behind
        ("2026-10-25T05:28Z", "2026-10-25T05:30Z"),
        ("2026-10-25T05:31Z", None),  # tried again after the deadline
        ("2026-10-25T12:00Z", None),  # made up for at noon
        ("2026-10-24T19:58Z", None),
    ],
)
def test_a_window_ends_at_its_deadline_and_nothing_starts_outside_it(
    now: str, ends: str | None
) -> None:
    window = TimeWindow.parse("22:00-06:30")
    assert window is not None
    moment = datetime.fromisoformat(now).astimezone(BERLIN)
    if ends is None:
        outside = (
            f"it is {moment:%H:%M} in Europe/Berlin, and the job runs only from 22:00 to 06:30"
        )
        with pytest.raises(StoppedOnRequest, match=re.escape(outside)):
            window.end_after(moment)
    else:
        assert window.end_after(moment).astimezone(UTC) == datetime.fromisoformat(ends)


def test_an_empty_window_is_refused() -> None:
    window = TimeWindow.parse("22:00-22:00")
    assert window is not None
    with pytest.raises(ValueError, match="ends when it begins"):
        window.end_after(EVENING)


def test_work_ends_before_a_deadline_by_what_the_report_takes() -> None:
    assert dispatch_until(None, 10) is None
    few, many = dispatch_until(1_000_000.0, 10), dispatch_until(1_000_000.0, 10_000)
    assert few is not None
    assert many is not None
    assert many < few < 1_000_000.0


def test_a_plan_may_ask_about_a_window_that_opens_later(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = datetime(2027, 1, 14, 12, 0, tzinfo=BERLIN)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return noon

    monkeypatch.setattr(times, "datetime", Clock)
    planned = times.PlannedDeadline().convert("22:00-06:30", None, None)
    assert planned.starts_at == noon.replace(hour=22).timestamp()
    assert planned.ends_at == noon.replace(day=15, hour=6, minute=30).timestamp()
    assert times.PlannedDeadline().convert("11:00-13:00", None, None) == times.PlannedTimes(
        noon.replace(hour=13).timestamp()
    )
    assert times.PlannedDeadline().convert("06:30", None, None).starts_at is None
    for bad in ("22:00-22:00", "soon"):
        with pytest.raises(click.BadParameter):
            times.PlannedDeadline().convert(bad, None, None)
