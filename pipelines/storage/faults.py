"""Classify store errors by what a person or a program can do about them.

Drivers raise inconsistent errors: s3fs turns some responses into OSErrors and lets botocore's own
errors through for others. Nothing here imports a driver: errors are classified by HTTP status,
error code and class name.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from http import HTTPStatus
from typing import Any


class Fault(Enum):
    """The kinds of failure that are handled or reported differently."""

    NAME_TAKEN = auto()
    MISSING = auto()
    PAST_THE_END = auto()
    """A range that begins after the object's last byte."""
    NO_BUCKET = auto()
    NO_CREDENTIALS = auto()
    WRONG_CREDENTIALS = auto()
    WRONG_REGION = auto()
    DENIED = auto()
    NOT_A_FOLDER = auto()
    UNREACHABLE = auto()
    BUSY = auto()
    OTHER = auto()


TRANSIENT = (Fault.BUSY, Fault.UNREACHABLE)
"""Faults that a retry may get past."""

THROTTLE_CODES = (
    *("SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException"),
    *("RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests"),
)
THROTTLE_STATUSES = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""How a store asks for fewer requests; these are also classified as BUSY."""

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
    # Two conditional writes collided; S3 asks the client to retry.
    HTTPStatus.CONFLICT: Fault.BUSY,
    HTTPStatus.PRECONDITION_FAILED: Fault.NAME_TAKEN,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: Fault.PAST_THE_END,
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
    "FileExistsError": Fault.NAME_TAKEN,
    "FileNotFoundError": Fault.MISSING,
    "PermissionError": Fault.DENIED,
    "NotADirectoryError": Fault.NOT_A_FOLDER,
    "TimeoutError": Fault.BUSY,
    "ConnectionError": Fault.BUSY,
    "HTTPClientError": Fault.BUSY,
    "IncompleteRead": Fault.BUSY,
    "ClientPayloadError": Fault.BUSY,
    "ClientConnectionError": Fault.BUSY,
    "ResponseParserError": Fault.BUSY,
    "ConnectError": Fault.UNREACHABLE,
    "TransportError": Fault.BUSY,
}
"""For errors without a server response; an error's nearest base class that is listed counts."""

DRIVER_ERROR_CLASSES = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("botocore.parsers", "ResponseParserError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("azure.core.exceptions", "AzureError"),
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
)
"""The base classes of what drivers raise besides OSError."""


def driver_errors() -> tuple[type[BaseException], ...]:
    """The exceptions that the drivers loaded in this process can raise."""
    loaded = [
        getattr(sys.modules[module], name)
        for module, name in DRIVER_ERROR_CLASSES
        if module in sys.modules
    ]
    return (OSError, *loaded)


def classify(error: BaseException) -> Fault:
    """The kind of failure behind a driver's error."""
    code, status = error_code_and_status(error)
    if code in BY_CODE:
        return BY_CODE[code]
    if status in BY_STATUS:
        return BY_STATUS[HTTPStatus(status)]
    if connection_reset(error) is not None:
        return Fault.BUSY
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        # fsspec's web driver says "not found" whatever went wrong.
        cause = classify(error.__cause__)
        return cause if cause in TRANSIENT else Fault.MISSING
    for link in error_chain(error):
        for kind in type(link).__mro__:
            if kind.__name__ in BY_CLASS:
                return BY_CLASS[kind.__name__]
    return Fault.OTHER


def is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed."""
    return classify(error) in TRANSIENT


def is_throttle(error: BaseException) -> bool:
    """Whether the store asks for fewer requests."""
    code, status = error_code_and_status(error)
    return code in THROTTLE_CODES or status in THROTTLE_STATUSES


def retry_after_s(error: BaseException) -> float:
    """Seconds to wait according to the response's Retry-After header; 0 without one."""
    texts = (_headers(link).get("retry-after") for link in error_chain(error))
    text = next((str(text).strip() for text in texts if text), "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def connection_reset(error: BaseException) -> OSError | None:
    """The reset of an established connection, which botocore reports as a failure to connect."""
    resets = (
        link
        for link in error_chain(error)
        if isinstance(link, ConnectionResetError | BrokenPipeError)
    )
    return next(resets, None)


def error_code_and_status(error: BaseException) -> tuple[str, int]:
    """The store's error code and HTTP status behind an error; empty and 0 without a response."""
    for link in error_chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
        if isinstance(status := getattr(response, "status_code", None), int):
            return "", status
        for name in ("status", "status_code", "code"):
            if isinstance(status := getattr(link, name, None), int):
                return "", status
    return "", 0


def _headers(link: BaseException) -> Mapping[str, Any]:
    """The response headers that an error carries; botocore's names are in lower case."""
    response = getattr(link, "response", None)
    if isinstance(response, Mapping):
        found = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    else:
        found = getattr(response, "headers", None) or getattr(link, "headers", None)
    return found if isinstance(found, Mapping) else {}


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and then its causes, nearest first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
