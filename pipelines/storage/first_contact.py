"""The first request to a store: an answer within seconds, or an error that says what to set.

Later requests are retried for minutes, because a store that has answered once is likely to answer
again. Before that, a wrong address is more likely than an outage. A load balancer or gateway that
answers for a busy store cannot be told from another service that fails, so its errors are reported
as trouble that may pass, with what to check about the address.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from nightpress.pipelines.errors import StoreDenied, StoreError
from nightpress.pipelines.storage.drivers import StoreLocation, open_driver, store_error_for
from nightpress.pipelines.storage.faults import (
    TRANSIENT,
    classify,
    driver_errors,
    error_code_and_status,
)
from nightpress.pipelines.storage.options import S3
from nightpress.pipelines.storage.retries import RetryPolicy
from nightpress.pipelines.storage.urls import Options, absolute, is_local

FIRST_CONTACT = RetryPolicy(attempts=3, total_s=8.0)

READ_TIMEOUT_S = 4
"""How long the first answer may take."""

GATEWAY_STATUSES = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
"""What a load balancer or gateway before a store answers while the store is busy or restarts.

Not 500: botocore reports a web page with status 200 so, and a store's own 500 has an S3 error code.
"""


def require_answers(urls: Iterable[str], options: Options | None = None) -> None:
    """Fail within seconds if one of the stores behind some URLs does not answer.

    What is there, and whether it may be read, is left to the requests that follow.

    Raises:
        StoreDenied: an address or option is wrong; the message says what to set.
        StoreError: the store, or a gateway before it, keeps failing.
    """
    seen: set[tuple[str, str]] = set()
    for url in urls:
        if is_local(url):
            continue
        location = StoreLocation(absolute(url), options or {}).last_link
        if (location.protocol, location.bucket) not in seen:
            seen.add((location.protocol, location.bucket))
            require_answer(location)


def require_answer(location: StoreLocation) -> None:
    """Like `require_answers`, for one location that is not local."""
    location = location.last_link
    driver, path = open_driver(location, client_attempts=1, read_timeout_s=READ_TIMEOUT_S)
    try:
        FIRST_CONTACT.run(lambda: _look(driver, path, location))
    except driver_errors() as error:
        code, status = error_code_and_status(error)
        if location.protocol in S3 and status and code in ("", str(status)) and status != 403:
            why = f"HTTP status {status} without an S3 error code"
            kind = _gateway_fails if status in GATEWAY_STATUSES else _not_s3
            raise kind(location, why) from error
        if type(error).__name__ == "ResponseParserError":
            raise _not_s3(location, "the response is not an S3 response") from error
        if classify(error) in TRANSIENT:
            raise store_error_for(error, location, is_first=True) from error


def _look(driver: Any, path: str, location: StoreLocation) -> None:
    """One request that any store answers."""
    if location.protocol not in S3:
        driver.info(path)
        return
    bucket, key, _ = driver.split_path(path)
    page = driver.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
    if "Name" not in page:
        raise _not_s3(location, "the response is not an S3 response")


def _not_s3(location: StoreLocation, why: str) -> StoreDenied:
    return StoreDenied(
        f"{location.public_url}: {location.endpoint} does not answer as S3 does ({why}); it may be "
        f"a proxy, a web page or another service{location.endpoint_advice}"
    )


def _gateway_fails(location: StoreLocation, why: str) -> StoreError:
    return StoreError(
        f"{location.public_url}: {location.endpoint} keeps failing ({why}); a gateway before the "
        f"store may answer so while it is busy, or the address is wrong{location.endpoint_advice}"
    )
