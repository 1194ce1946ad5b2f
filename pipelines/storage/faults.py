"""What a store's failure means: gone, refused, or worth another try."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.errors import StoreDenied, StoreError, StoreMissing
from pipelines.storage.filesystems import StorageOptions

TRANSIENT_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504})
TRANSIENT_KINDS = frozenset(
    {
        "ClientOSError",
        "ClientPayloadError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "ConnectionError",
        "EndpointConnectionError",
        "HTTPClientError",
        "IncompleteRead",
        "ReadTimeoutError",
        "ServerDisconnectedError",
        "TimeoutError",
    }
)
UNREACHABLE_KINDS = frozenset({"ConnectTimeoutError", "EndpointConnectionError"})
NO_CREDENTIALS_KINDS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}
)
WRONG_CREDENTIALS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})


def is_taken(error: BaseException) -> bool:
    """Whether a create-only write met an object of that name."""
    return isinstance(error, FileExistsError) or _status(error) == 412


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    status = _status(error)
    if status is not None:
        return status in TRANSIENT_STATUS
    return bool(_kinds(error) & TRANSIENT_KINDS)


def is_unreachable(error: BaseException) -> bool:
    """Whether nobody answered at all."""
    refused = any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error))
    return refused or bool(_kinds(error) & UNREACHABLE_KINDS)


def translate(error: BaseException, url: str, options: StorageOptions) -> StoreError:
    """The failure in one line that names the URL, and never a credential."""
    if isinstance(error, StoreError):
        return error
    if _kinds(error) & NO_CREDENTIALS_KINDS:
        return StoreDenied(
            f"{url}: no credentials; they are looked for in AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, the profile, and the machine's role"
        )
    code = _code(error)
    if code in WRONG_CREDENTIALS:
        return StoreDenied(
            f"{url}: the store knows no such credentials ({code}); they come from "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
        )
    if code == "NoSuchBucket":
        return StoreDenied(f"{url}: there is no such bucket")
    if is_unreachable(error):
        return StoreDenied(f"{url}: nobody answers at {endpoint(url, options)}")
    if isinstance(error, PermissionError) or _status(error) == 403:
        return StoreDenied(f"{url}: permission denied")
    if isinstance(error, FileNotFoundError) or _status(error) == 404:
        return StoreMissing(f"{url}: not there")
    if isinstance(error, NotADirectoryError):
        return StoreDenied(f"{url}: a part of this path is a file, not a folder")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return StoreError(f"{url}: {' '.join(reason.split())[:300] or type(error).__name__}")


def endpoint(url: str, options: StorageOptions) -> str:
    """Where a URL's store is looked for."""
    chosen = options.get(url.split("://")[0], {})
    client: Mapping[str, Any] = chosen.get("client_kwargs", {})
    named = chosen.get("endpoint_url") or client.get("endpoint_url")
    return str(named or "its endpoint (see AWS_ENDPOINT_URL or storage.s3.endpoint_url)")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _kinds(error: BaseException) -> frozenset[str]:
    """Names of the classes of an error and its causes: the drivers are no dependency of ours."""
    return frozenset(kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__)


def _response(error: BaseException) -> Mapping[str, Any]:
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping):
            return response
    return {}


def _status(error: BaseException) -> int | None:
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(status) if status is not None else None


def _code(error: BaseException) -> str | None:
    code = _response(error).get("Error", {}).get("Code")
    return None if code is None else str(code)
