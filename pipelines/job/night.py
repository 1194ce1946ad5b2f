"""`{night}` in a job: which date it stands for, and where a job may have it."""

import os
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta, tzinfo
from typing import Any

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.characters import texts_of
from nightpress.pipelines.job.local_time import machine_zone

PLACEHOLDER = "{night}"

NIGHT_KEYS = ("name", "manifest", "output")
"""The keys of a job that may have it."""

COLUMN_TEMPLATES = ("images.file_name",)
"""Keys whose fields in braces are columns of the manifest, one of which may be called night."""

ANY_NIGHT = date(2000, 1, 1)
"""For callers that compare jobs and never start one."""

_OTHER_FIELD = re.compile(r"\{\s*(?!night\})[A-Za-z_][^{},/]*\}")


def night_of(now: datetime) -> date:
    """The night that a time belongs to: the date that the clock showed twelve hours ago.

    So a night begins at noon, and what starts in the evening and what goes on after midnight are
    the same night. Times on the clock are subtracted, so it is noon also where the clock changes.
    """
    return (now.replace(tzinfo=None) - timedelta(hours=12)).date()


def tonight(zone: tzinfo | None = None) -> date:
    """The night that it is now.

    Args:
        zone: the time zone; that of this process if there is none.

    Raises:
        SpecError: the environment variable TZ is no time zone.
    """
    return night_of(datetime.now(machine_zone() if zone is None else zone))


def uses_night(values: Mapping[str, Any]) -> bool:
    """Whether a job, as it stands in its file, has `{night}` in one of `NIGHT_KEYS`."""
    used = {key: values.get(key) for key in NIGHT_KEYS}
    return any(PLACEHOLDER in text for _, text in texts_of(used))


def with_night(
    values: Mapping[str, Any], night: date | None, zone: tzinfo | None, where: str
) -> dict[str, Any]:
    """A job with a date in place of each `{night}`.

    Args:
        values: the job as it stands in its file, with its overrides.
        night: the date; tonight's if there is none.
        zone: the time zone of tonight.
        where: what error messages call the job.

    Raises:
        SpecError: `{night}` stands where it is not allowed, or another field stands in its place.
    """
    for keys, text in texts_of(values):
        key = ".".join(keys)
        if PLACEHOLDER in text and keys[0] not in NIGHT_KEYS and key not in COLUMN_TEMPLATES:
            raise SpecError(
                f"{where}: {key}: {text!r}: {PLACEHOLDER} is allowed only in "
                f"{', '.join(NIGHT_KEYS)}"
            )
    for key in NIGHT_KEYS:
        _refuse_what_looks_like_it(values.get(key), key, where)
    if not uses_night(values):
        return dict(values)
    date_text = (night or tonight(zone)).isoformat()
    return {
        key: _filled(value, date_text) if key in NIGHT_KEYS else value
        for key, value in values.items()
    }


def _filled(value: Any, night: str) -> Any:
    match value:
        case str():
            return value.replace(PLACEHOLDER, night)
        case list():
            return [_filled(each, night) for each in value]
        case _:
            return value


def _refuse_what_looks_like_it(value: Any, key: str, where: str) -> None:
    """Refuse `{night}` without quotes, which YAML reads as a mapping, and other fields in braces.

    A manifest or output of exactly that name may exist, and is then meant.
    """
    if value == {"night": None}:
        raise SpecError(f'{where}: {key}: {PLACEHOLDER} needs quotes in YAML: "{PLACEHOLDER}"')
    if isinstance(value, list):
        for each in value:
            _refuse_what_looks_like_it(each, key, where)
    if not isinstance(value, str) or os.path.lexists(value):
        return
    other = _OTHER_FIELD.search(value)
    if other is not None:
        raise SpecError(
            f"{where}: {key}: {value!r}: {other.group()} is not known; the only field in braces "
            f"that is allowed here is {PLACEHOLDER}, which becomes a date such as 2027-01-15"
        )
