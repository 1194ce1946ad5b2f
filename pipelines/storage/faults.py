"""What went wrong in a store, told apart by what a person or a program can do about it.

Drivers raise what they like: s3fs makes OSErrors of some answers and lets botocore's own errors
through for others. Nothing here imports a driver; it looks at status codes, error codes and the
names of classes.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from http import HTTPStatus
from typing import Any


class Fault(Enum):
    """The kinds of failure that need different answers."""

    TAKEN = auto()
    MISSING = auto()
    NO_SUCH_PART = auto()
    """The object ends before it."""
    NO_BUCKET = auto()
    NO_CREDENTIALS = auto()
    WRONG_CREDENTIALS = auto()
    WRONG_REGION = auto()
    DENIED = auto()
    UNREACHABLE = auto()
    BUSY = auto()
    OTHER = auto()


PASSING = (Fault.BUSY, Fault.UNREACHABLE)
"""Faults that may be gone at the next attempt."""

THROTTLE_CODES = (
    *("SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException"),
    *("RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests"),
)
THROTTLE_STATUSES = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""By which stores say that they are asked too much; a part of what is busy."""

BY_CODE = {
    "NoSuchBucket": Fault.NO_BUCKET,
    "InvalidAccessKeyId": Fault.WRONG_CREDENTIALS,
    "SignatureDoesNotMatch": Fault.WRONG_CREDENTIALS,
    "InvalidToken": Fault.WRONG_CREDENTIALS,
    "ExpiredToken": Fault.WRONG_CREDENTIALS,
    "AuthorizationHeaderMalformed": Fault.WRONG_REGION,
    "PermanentRedirect": Fault.WRONG_REGION,
    "IllegalLocationConstraintException": Fault.WRONG_REGION,
    **dict.fromkeys(THROTTLE_CODES, Fault.BUSY),
    "RequestTimeout": Fault.BUSY,
    "InternalError": Fault.BUSY,
    "XAmzContentSHA256Mismatch": Fault.BUSY,
}
"""S3's error codes: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html"""

BY_STATUS = {
    HTTPStatus.MOVED_PERMANENTLY: Fault.WRONG_REGION,
    HTTPStatus.UNAUTHORIZED: Fault.WRONG_CREDENTIALS,
    HTTPStatus.FORBIDDEN: Fault.DENIED,
    HTTPStatus.NOT_FOUND: Fault.MISSING,
    HTTPStatus.REQUEST_TIMEOUT: Fault.BUSY,
    # Two conditional writes met; S3 asks to send it again.
    HTTPStatus.CONFLICT: Fault.BUSY,
    HTTPStatus.PRECONDITION_FAILED: Fault.TAKEN,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: Fault.NO_SUCH_PART,
    HTTPStatus.TOO_MANY_REQUESTS: Fault.BUSY,
    HTTPStatus.INTERNAL_SERVER_ERROR: Fault.BUSY,
    HTTPStatus.BAD_GATEWAY: Fault.BUSY,
    HTTPStatus.SERVICE_UNAVAILABLE: Fault.BUSY,
    HTTPStatus.GATEWAY_TIMEOUT: Fault.BUSY,
}

BY_CLASS = {
    "NoCredentialsError": Fault.NO_CREDENTIALS,
    "PartialCredentialsError": Fault.NO_CREDENTIALS,
    "ProfileNotFound": Fault.NO_CREDENTIALS,
    "CredentialRetrievalError": Fault.NO_CREDENTIALS,
    "TokenRetrievalError": Fault.NO_CREDENTIALS,
    "SSOError": Fault.NO_CREDENTIALS,
    "SSLError": Fault.UNREACHABLE,
    "EndpointConnectionError": Fault.UNREACHABLE,
    "ConnectTimeoutError": Fault.UNREACHABLE,
    "ProxyConnectionError": Fault.UNREACHABLE,
    "ClientConnectorError": Fault.UNREACHABLE,
    "ConnectionRefusedError": Fault.UNREACHABLE,
    "gaierror": Fault.UNREACHABLE,
    "FileExistsError": Fault.TAKEN,
    "FileNotFoundError": Fault.MISSING,
    "PermissionError": Fault.DENIED,
    "TimeoutError": Fault.BUSY,
    "ConnectionError": Fault.BUSY,
    "HTTPClientError": Fault.BUSY,
    "IncompleteRead": Fault.BUSY,
    "ClientPayloadError": Fault.BUSY,
    "ClientConnectionError": Fault.BUSY,
    "ResponseParserError": Fault.BUSY,
}
"""For errors that carry no answer of a server; the nearest class of an error's line counts."""

DRIVER_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("botocore.parsers", "ResponseParserError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("azure.core.exceptions", "AzureError"),
)
"""The roots of what drivers raise beside OSError."""


def driver_errors() -> tuple[type[BaseException], ...]:
    """What the drivers that are loaded in this process may raise."""
    loaded = [
        getattr(sys.modules[module], name)
        for module, name in DRIVER_ERRORS
        if module in sys.modules
    ]
    return (OSError, *loaded)


def classify(error: BaseException) -> Fault:
    """The kind of failure behind a driver's error."""
    code, status = answer(error)
    if code in BY_CODE:
        return BY_CODE[code]
    if status in BY_STATUS:
        return BY_STATUS[HTTPStatus(status)]
    if reset(error) is not None:
        return Fault.BUSY
    for link in chain(error):
        for kind in type(link).__mro__:
            if kind.__name__ in BY_CLASS:
                return BY_CLASS[kind.__name__]
    return Fault.OTHER


def is_passing(error: BaseException) -> bool:
    """Whether it may be gone at the next attempt."""
    return classify(error) in PASSING


def is_throttle(error: BaseException) -> bool:
    """Whether the store asks for fewer requests."""
    code, status = answer(error)
    return code in THROTTLE_CODES or status in THROTTLE_STATUSES


def retry_after_s(error: BaseException) -> float:
    """How long the store asks to wait, in seconds or until a date; 0 if it does not."""
    texts = (_headers(link).get("retry-after") for link in chain(error))
    text = next((str(text).strip() for text in texts if text), "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def reset(error: BaseException) -> OSError | None:
    """The end of a connection that had been made; botocore says that it could not be made."""
    ends = (
        link for link in chain(error) if isinstance(link, ConnectionResetError | BrokenPipeError)
    )
    return next(ends, None)


def answer(error: BaseException) -> tuple[str, int]:
    """The store's own error code and HTTP status behind an error; empty and 0 without one."""
    for link in chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
        for name in ("status", "status_code", "code"):
            if isinstance(status := getattr(link, name, None), int):
                return "", status
    return "", 0


def _headers(link: BaseException) -> Mapping[str, Any]:
    """Of the answer that an error carries: botocore's in lower case, others in any."""
    response = getattr(link, "response", None)
    if isinstance(response, Mapping):
        found = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    else:
        found = getattr(response, "headers", None) or getattr(link, "headers", None)
    return found if isinstance(found, Mapping) else {}


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, then what caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
