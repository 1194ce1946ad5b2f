"""Detect credentials in a job file: it is copied into every run, and runs are shared."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

SECRET_OPTION = re.compile(
    r"key$|^sas$|access_key|secret|token|passw|pwd|credential|connection_string|auth|cookie",
    re.IGNORECASE,
)
"""Names of fsspec options that hold credentials."""

SIGNED_QUERY = re.compile(r"(^|&)(x-(amz|goog)-\w+|sig|signature|token|key)=", re.IGNORECASE)
"""Query parameters of a presigned URL, which gives access to anyone who has it."""

ADVICE = (
    "a job file must not hold credentials; they come from the environment (AWS_ACCESS_KEY_ID, "
    "...), a profile or the machine's role"
)


def has_credentials(url: str) -> bool:
    """Whether a URL names a user or is presigned."""
    parts = urlsplit(url)
    return bool(parts.scheme and ("@" in parts.netloc or SIGNED_QUERY.search(parts.query)))


def secret_option(options: Any) -> str | None:
    """The path of the first option whose name suggests a credential: `s3.client_kwargs.key`."""
    paths = _paths(options)
    return next((".".join(path) for path in paths if SECRET_OPTION.search(path[-1])), None)


def _paths(options: Any) -> Iterator[list[str]]:
    if isinstance(options, dict):
        for key, value in options.items():
            yield [str(key)]
            yield from ([str(key), *path] for path in _paths(value))
    elif isinstance(options, list):
        for value in options:
            yield from _paths(value)
