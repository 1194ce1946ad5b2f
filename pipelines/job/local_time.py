"""Time zones by name, and which moment a time of day is on a night when the clock changes."""

import difflib
import os
import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from nightpress.pipelines.errors import SpecError

NO_PLACE = re.compile(r"localtime|posixrules|Factory|(posix|right)/.*")
"""Names in some copies of the database that are of no place, or count leap seconds."""

_POSIX = re.compile(r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)[+-]?\d{1,2}(?::\d\d){0,2}.*")
"""A TZ that spells the rule out: CET-1CEST,M3.5.0,M10.5.0/3."""


class MachineZone(tzinfo):
    """The time zone of this machine, as the C library knows it."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """The offset at a time of the clock; at one that is skipped, that of before the change."""
        if moment is None:
            return None
        clock = moment.replace(tzinfo=None)
        since_epoch = clock - datetime(1970, 1, 1)
        return timedelta(seconds=round(since_epoch.total_seconds() - clock.timestamp()))

    def dst(self, moment: datetime | None) -> None:
        """Not known."""

    def tzname(self, moment: datetime | None) -> str | None:
        """The abbreviation, such as CET."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        """What the clock shows at a moment that is given as UTC."""
        clock = datetime.fromtimestamp(moment.replace(tzinfo=UTC).timestamp())
        return clock.replace(tzinfo=self)


def zone_named(name: str) -> ZoneInfo:
    """A time zone of the IANA database, such as Europe/Berlin.

    Raises:
        ValueError: there is none of this name.
    """
    zone = _find(name)
    if zone is not None:
        return zone
    by_lower_case = {
        each.lower(): each for each in available_timezones() if not NO_PLACE.fullmatch(each)
    }
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    meant = f"; did you mean {by_lower_case[close[0]]}?" if close else ""
    raise ValueError(f"{name!r} is not the name of a time zone, such as Europe/Berlin{meant}")


def _find(name: str) -> ZoneInfo | None:
    try:
        return None if NO_PLACE.fullmatch(name) else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def machine_zone() -> tzinfo:
    """The time zone of this process: that of TZ, or else the machine's.

    Raises:
        SpecError: TZ is no time zone, which the C library would silently take for UTC.
    """
    variable = os.environ.get("TZ")
    if variable is None:
        return MachineZone()
    name = variable.removeprefix(":")
    if not name:
        return UTC
    if name.startswith("/") and Path(name).is_file():
        return MachineZone()
    try:
        return zone_named(name)
    except ValueError as error:
        if _POSIX.fullmatch(name):
            return MachineZone()
        raise SpecError(f"the environment variable TZ: {error}") from error


def zone_name(zone: tzinfo) -> str | None:
    """The IANA name of a time zone; None if it has none that is known."""
    if isinstance(zone, ZoneInfo):
        return zone.key
    if zone is UTC:
        return "UTC"
    _, found, name = str(Path("/etc/localtime").resolve()).partition("/zoneinfo/")
    is_machines = isinstance(zone, MachineZone) and "TZ" not in os.environ
    return name if found and is_machines and _find(name) else None


def moments_of(day: date, clock: time, zone: tzinfo) -> list[datetime]:
    """When the clock shows a time on a day: two moments if it is put back over it.

    If it is put forward over the time, the moment of the change, at which it first shows more.
    """
    first, second = (datetime.combine(day, clock, zone).replace(fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return [first]
    if _shown(first.timestamp(), zone) == first.replace(tzinfo=None):
        return [first, second]
    before, after = int(second.timestamp()), int(first.timestamp())
    while after - before > 1:  # the change lies between the two
        middle = (before + after) // 2
        is_before = _shown(middle, zone) < first.replace(tzinfo=None)
        before, after = (middle, after) if is_before else (before, middle)
    return [datetime.fromtimestamp(after, zone)]


def next_moment(clock: time, now: datetime) -> datetime:
    """The next moment at which the clock shows a time, in the time zone of `now`."""
    assert now.tzinfo is not None  # noqa: S101 - callers pass aware times
    days = (now.date() + timedelta(days=days) for days in range(-1, 3))
    moments = (each for day in days for each in moments_of(day, clock, now.tzinfo))
    return min((each for each in moments if each.timestamp() > now.timestamp()), key=_epoch)


def last_moment(clock: time, now: datetime) -> datetime:
    """The latest moment, at `now` or before it, at which the clock showed a time."""
    assert now.tzinfo is not None  # noqa: S101 - callers pass aware times
    days = (now.date() - timedelta(days=days) for days in range(-1, 3))
    moments = (each for day in days for each in moments_of(day, clock, now.tzinfo))
    return max((each for each in moments if each.timestamp() <= now.timestamp()), key=_epoch)


def _shown(epoch: float, zone: tzinfo) -> datetime:
    """What the clock shows at a moment."""
    return datetime.fromtimestamp(epoch, zone).replace(tzinfo=None, fold=0)


def _epoch(moment: datetime) -> float:
    return moment.timestamp()
