"""When a run must be done: a time of day, or a moment."""

import re
from datetime import datetime, timedelta

_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def next_moment(text: str, now: datetime) -> datetime:
    """The next moment that a text names.

    Args:
        text: `06:30`, or ISO 8601 such as `2027-01-15T06:30+01:00`.
        now: with its time zone, which is that of a text that names none.

    Raises:
        ValueError: it is neither, or lies behind us.
    """
    clock = _TIME_OF_DAY.fullmatch(text)
    if clock:
        hour, minute = map(int, clock.groups())
        today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return today if today > now else today + timedelta(days=1)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a time of day such as 06:30 nor a moment such as "
            "2027-01-15T06:30+01:00"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)
    if moment <= now:
        raise ValueError(f"{text} has passed; it is {now.isoformat(timespec='seconds')}")
    return moment
