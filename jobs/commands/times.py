"""Times on the command line: nights, time zones, and deadlines."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, date, datetime, time, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import click

from nightpress.jobs.errors import StoppedOnRequest
from nightpress.pipelines.job.local_time import (
    last_moment,
    machine_zone,
    moments_of,
    next_moment,
    zone_named,
)

EARLY_S = 60.0
"""How much before its window a start may come: the clocks of two machines differ."""


class TimeZone(click.ParamType[ZoneInfo]):
    """A time zone by its IANA name."""

    name = "zone"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> ZoneInfo:
        """Look the name up."""
        try:
            return zone_named(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class NightDate(click.ParamType[date]):
    """The date of a night."""

    name = "date"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Parse an ISO date."""
        try:
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
                raise ValueError(value)
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a date such as 2027-01-15", param, ctx)


class ClockTime(click.ParamType[time]):
    """A time of day."""

    name = "time of day"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> time:
        """Parse it."""
        clock = parse_clock(value)
        if clock is None:
            self.fail(f"{value!r} is not a time of day such as 22:00", param, ctx)
        return clock


class Deadline(click.ParamType[float]):
    """A time of day, a window of the day, or a date and time, as seconds since the epoch.

    The clock is that of the option --tz, if the command has it, or else that of this process.
    """

    name = "time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse with `next_time`, or with `end_of_window`.

        Raises:
            StoppedOnRequest: it is a window, and it is not open now.
        """
        now = datetime.now(zone_of(ctx))
        window = TimeWindow.parse(value)
        try:
            return (next_time(value, now) if window is None else window.end_after(now)).timestamp()
        except ValueError as error:
            self.fail(str(error), param, ctx)


@dataclass(frozen=True)
class PlannedTimes:
    """A deadline, and when the run is to start, in seconds since the epoch."""

    ends_at: float
    starts_at: float | None = None
    """None for now."""


class PlannedDeadline(click.ParamType[PlannedTimes]):
    """The same times for a start that is only planned; a window may open later."""

    name = "time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> PlannedTimes:
        """Parse it."""
        now = datetime.now(zone_of(ctx))
        window = TimeWindow.parse(value)
        try:
            if window is None:
                return PlannedTimes(next_time(value, now).timestamp())
            if window.is_open(now):
                return PlannedTimes(window.end_after(now).timestamp())
            opens = next_moment(window.opens, now)
            return PlannedTimes(window.end_after(opens).timestamp(), opens.timestamp())
        except ValueError as error:
            self.fail(str(error), param, ctx)


def zone_of(ctx: click.Context | None) -> tzinfo:
    """The time zone that --tz names, or else that of this process."""
    zone = None if ctx is None else ctx.meta.get(ZONE)
    return zone or machine_zone()


@dataclass(frozen=True)
class TimeWindow:
    """The part of each day from one time to another, such as 22:00-06:30."""

    opens: time
    closes: time

    @classmethod
    def parse(cls, text: str) -> "TimeWindow | None":
        """Read `22:00-06:30`; None if the text is no two times of day."""
        first, _, second = text.partition("-")
        opens, closes = parse_clock(first), parse_clock(second)
        return None if opens is None or closes is None else cls(opens, closes)

    def __str__(self) -> str:
        """`22:00-06:30`."""
        return f"{self.opens:%H:%M}-{self.closes:%H:%M}"

    def end_after(self, now: datetime) -> datetime:
        """When the window that is open now closes.

        Raises:
            ValueError: it never is, because it begins and ends at the same time.
            StoppedOnRequest: it is not open.
        """
        if self.opens == self.closes:
            raise ValueError(f"{self} is empty: it ends when it begins")
        if not self.is_open(now):
            raise StoppedOnRequest(
                f"stopped: it is {now:%H:%M} {zone_label(now)}, and the job runs only from "
                f"{self.opens:%H:%M} to {self.closes:%H:%M}; run the same command again then"
            )
        return next_moment(self.closes, now)

    def is_open(self, now: datetime) -> bool:
        """Whether a run may start: the window is open, or it is within a minute."""
        soon = datetime.fromtimestamp(now.timestamp() + EARLY_S, now.tzinfo)
        return self._has_opened(now) or self._has_opened(soon)

    def _has_opened(self, now: datetime) -> bool:
        return last_moment(self.opens, now).timestamp() > last_moment(self.closes, now).timestamp()


def zone_label(moment: datetime) -> str:
    """`in Europe/Berlin`, or an abbreviation such as CET."""
    zone = moment.tzinfo
    return f"in {zone.key}" if isinstance(zone, ZoneInfo) else moment.strftime("%Z")


_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def parse_clock(text: str) -> time | None:
    """The time of day in a text such as 06:30; None if it is none."""
    clock = _TIME_OF_DAY.fullmatch(text)
    return None if clock is None else time(int(clock[1]), int(clock[2]))


def next_time(text: str, now: datetime) -> datetime:
    """The next time that a text means.

    Args:
        text: `06:30`, or ISO 8601 such as `2027-01-15T06:30+01:00`.
        now: the current time; its time zone applies to a text that names none. A time that the
            clock skips is the moment of the change, and of two the first that is to come.

    Raises:
        ValueError: the text is neither, or its time has passed.
    """
    assert now.tzinfo is not None  # noqa: S101 - callers pass aware times
    clock = parse_clock(text)
    if clock is not None:
        return next_moment(clock, now)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a time of day such as 06:30, nor a window such as 22:00-06:30, "
            "nor a date and time such as 2027-01-15T06:30+01:00"
        ) from None
    if moment.year == MAXYEAR:  # in another time zone it may be the year after
        raise ValueError(f"{text} is too far away")
    moments = [moment] if moment.tzinfo else moments_of(moment.date(), moment.time(), now.tzinfo)
    for each in moments:
        if each.timestamp() > now.timestamp():
            return each
    raise ValueError(f"{text} has passed; it is {now.isoformat(timespec='seconds')}")


def local_text(epoch: float, zone: tzinfo) -> str:
    """`2027-01-15 06:30 in Europe/Berlin`."""
    moment = datetime.fromtimestamp(epoch, UTC).astimezone(zone)
    return f"{moment:%Y-%m-%d %H:%M} {zone_label(moment)}"


@dataclass(frozen=True)
class Night:
    """The night that a command line is about."""

    given: date | None = None
    """None: the night that it is now."""
    zone: tzinfo | None = None
    """The time zone in which it is now; None: that of this process."""


ZONE = "nightpress.zone"
"""Key in the metadata of click's context: the time zone that --tz names."""


def _keep_zone(ctx: click.Context, param: click.Parameter, zone: ZoneInfo | None) -> None:
    ctx.meta[ZONE] = zone


def _as_night(ctx: click.Context, param: click.Parameter, given: date | None) -> Night:
    return Night(given, ctx.meta.get(ZONE))


def night_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--night and --tz, as the argument `night`, which is a `Night`."""
    night = click.option(
        "--night",
        type=NightDate(),
        callback=_as_night,
        metavar="DATE",
        help="Date that {night} in the job stands for. [default: the local date twelve hours ago]",
    )
    return night(zone_option(function))


zone_option = click.option(
    "--tz",
    type=TimeZone(),
    is_eager=True,
    expose_value=False,
    callback=_keep_zone,
    metavar="ZONE",
    help="Time zone of nights and times of day, such as Europe/Berlin. [default: that of TZ, else "
    "the machine's]",
)
