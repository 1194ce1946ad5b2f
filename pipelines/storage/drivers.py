"""Opening fsspec file systems, and turning their errors into messages a person can act on.

Drivers are opened without listing caches, with short timeouts, and without retries of their own
where nightpress retries itself.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import StoreDenied, StoreError, StoreMissing
from nightpress.pipelines.storage.faults import (
    Fault,
    classify,
    connection_reset,
    driver_errors,
    error_chain,
    error_code_and_status,
)
from nightpress.pipelines.storage.options import S3, options_by_link, options_of
from nightpress.pipelines.storage.pacing import driver_options, request_limit
from nightpress.pipelines.storage.urls import Options, is_http, links_of, protocol_of, public

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
POOL_CONNECTIONS = 32
CLIENT_ATTEMPTS = 6
"""How often botocore itself tries a request that nightpress cannot retry."""

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
PACKAGES |= dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs")

ACCESS_FAULTS = (Fault.NO_CREDENTIALS, Fault.WRONG_CREDENTIALS, Fault.DENIED)

WRITE_ID_KEY = "nightpress-write"
"""The user-metadata key of an S3 object that stores the id of the write that made it."""

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".mp4": "video/mp4",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".tar": "application/x-tar",
    ".webp": "image/webp",
}
"""Media types by suffix: a browser downloads an object without one instead of showing it."""

SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class StoreLocation:
    """A URL with its fsspec options: enough to open it, and to name it in messages."""

    url: str
    options: Options

    @property
    def protocol(self) -> str:
        """The protocol of the store that is contacted: the last link of a chained URL."""
        return protocol_of(links_of(self.url)[-1])

    @property
    def settings(self) -> dict[str, Any]:
        """The options for this protocol, without those that nightpress itself reads."""
        return driver_options(self._options)

    @property
    def requests_per_s(self) -> float:
        """The most requests a second that one process may send; infinite unless set.

        Raises:
            StoreDenied: the option is not a number in range.
        """
        try:
            return request_limit(self._options)
        except ValueError as error:
            raise StoreDenied(f"{self.public_url}: storage.{self.protocol}.{error}") from error

    @property
    def _options(self) -> Mapping[str, Any]:
        return options_of(self.protocol, self.options)

    def write_options(self, path: str) -> dict[str, str]:
        """Arguments for writing an object: on S3, its media type."""
        media_type = MEDIA_TYPES.get(PurePosixPath(path).suffix.lower())
        return {"ContentType": media_type} if media_type and self.protocol in S3 else {}

    @property
    def read_options(self) -> dict[str, int]:
        """Arguments that make s3fs read an object in one request, without a HEAD request first."""
        return {"max_concurrency": 1} if self.protocol in S3 else {}

    def write_id_options(self, write_id: str) -> dict[str, Any]:
        """Arguments that store a write id in an object's metadata; empty except on S3."""
        if self.protocol not in S3:
            return {}
        own = (self.settings.get("s3_additional_kwargs") or {}).get("Metadata") or {}
        return {"Metadata": {**own, WRITE_ID_KEY: write_id}}

    @property
    def configured_endpoint(self) -> str | None:
        """The endpoint set in the options or the environment, in botocore's order of precedence."""
        named = (
            self.settings.get("endpoint_url"),
            (self.settings.get("client_kwargs") or {}).get("endpoint_url"),
            os.environ.get("AWS_ENDPOINT_URL_S3"),
            os.environ.get("AWS_ENDPOINT_URL"),
        )
        return next((str(endpoint) for endpoint in named if endpoint), None)

    @property
    def endpoint_advice(self) -> str:
        """For messages about a store that does not answer as expected: where its address is set."""
        if self.protocol not in S3:
            return ""
        if self.configured_endpoint is None:
            return (
                "; if this is not a bucket of Amazon S3, set the storage option s3.endpoint_url or "
                "AWS_ENDPOINT_URL"
            )
        advice = "; the address comes from the storage option s3.endpoint_url or AWS_ENDPOINT_URL"
        proxy = getproxies().get(urlsplit(self.configured_endpoint).scheme)
        return f"{advice}, and the proxy {public(proxy)} from the environment" if proxy else advice

    @property
    def last_link(self) -> "StoreLocation":
        """The store that is contacted: the last link of a chained URL, by itself."""
        return StoreLocation(links_of(self.url)[-1], self.options)

    @property
    def endpoint(self) -> str:
        """The server's name in messages."""
        if self.protocol in S3:
            return public(self.configured_endpoint or "Amazon S3")
        return f"the {self.protocol}:// store"

    @property
    def bucket(self) -> str:
        """The bucket or container: the first part of the path."""
        return links_of(self.url)[-1].partition("://")[2].partition("/")[0]

    @property
    def credentials(self) -> str:
        """Where the driver looks for credentials, as messages say it."""
        if self.protocol not in S3:
            return f"the default locations of {PACKAGES.get(self.protocol, self.protocol)}"
        profile = self.settings.get("profile") or os.environ.get("AWS_PROFILE") or "default"
        return (
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, "
            f"then profile {profile!r} (storage.s3.profile or AWS_PROFILE) in ~/.aws"
        )

    @cached_property
    def public_url(self) -> str:
        """The URL in messages: without user, password or query."""
        return public(self.url)


def open_driver(
    location: StoreLocation,
    client_attempts: int,
    fresh: bool = False,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> tuple[Any, str]:
    """Open the file system of a URL; returns it with the URL's path in it.

    Args:
        location: what to open.
        client_attempts: how often the driver itself tries a request, where that can be set; 1 for
            callers that must see every failure.
        fresh: make a new instance, which reads the credentials again, instead of a cached one.
        read_timeout_s: how long an answer may take, where that can be set.

    Raises:
        StoreDenied: no driver is installed, it rejects an option, or there are no credentials.
    """
    options = _driver_options(location, client_attempts, fresh, read_timeout_s)
    try:
        driver, path = _opened(location.url, options)
        if location.protocol in S3 and location.protocol in driver.protocol:
            driver.retries = 1 if client_attempts == 1 else 2
            driver.connect()
    except ImportError as error:
        raise _no_driver(location, error) from error
    except (TypeError, ValueError) as error:
        raise StoreDenied(
            f"{location.public_url}: the driver rejects the options in storage.{location.protocol} "
            f"({_safe_text(error)})"
        ) from error
    except driver_errors() as error:
        raise store_error_for(error, location) from error
    return driver, str(path)


def _opened(url: str, options: Mapping[str, Mapping[str, Any]]) -> tuple[Any, str]:
    """The file system of a URL, and the URL's path in it."""
    import fsspec

    if len(links_of(url)) > 1 or "::" not in url:
        driver, path = fsspec.url_to_fs(url, **options)
        return driver, str(path)
    # fsspec takes any `::` for the end of a link; here it is a part of a name.
    protocol = protocol_of(url)
    kind = fsspec.get_filesystem_class(protocol)
    arguments = {**kind._get_kwargs_from_urls(url), **options[protocol]}
    return fsspec.filesystem(protocol, **arguments), str(kind._strip_protocol(url))


def _driver_options(
    location: StoreLocation, client_attempts: int, fresh: bool, read_timeout_s: float
) -> dict[str, dict[str, Any]]:
    """The keyword arguments for fsspec, by protocol."""
    try:
        options = options_by_link(location.url, location.options)
    except ValueError as error:
        raise StoreDenied(f"{location.public_url}: {error}") from error
    except ImportError as error:
        raise _no_driver(location, error) from error
    settings = options[location.protocol]
    if location.protocol in S3:
        settings = _s3_settings(location, client_attempts, read_timeout_s)
    elif is_http(location.last_link.url):
        settings = _http_settings(settings, read_timeout_s)
    caching = {"use_listings_cache": False, "skip_instance_cache": fresh}
    return options | {location.protocol: {**settings, **caching}}


def _no_driver(location: StoreLocation, error: ImportError) -> StoreDenied:
    wanted = PACKAGES.get(location.protocol, str(error))
    return StoreDenied(
        f"{location.public_url}: no driver for {location.protocol}:// is installed; "
        f"install {wanted}"
    )


def _http_settings(settings: Mapping[str, Any], read_timeout_s: float) -> dict[str, Any]:
    """The user's options merged over the time-outs; aiohttp's own default is five minutes."""
    from aiohttp import ClientTimeout

    limits = ClientTimeout(
        total=None, sock_connect=min(CONNECT_TIMEOUT_S, read_timeout_s), sock_read=read_timeout_s
    )
    client = {"timeout": limits, **(settings.get("client_kwargs") or {})}
    return {**settings, "client_kwargs": client}


def _s3_settings(
    location: StoreLocation, client_attempts: int, read_timeout_s: float
) -> dict[str, Any]:
    """The user's options merged over the defaults; the number of attempts cannot be overridden."""
    if "?versionId=" in location.url and not location.settings.get("version_aware"):
        raise StoreDenied(
            f"{location.url}: s3fs would take ?versionId=... for the version of an object; set "
            "storage.s3.version_aware to read that version, or use another name"
        )
    endpoint = location.configured_endpoint
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise StoreDenied(
            f"{location.public_url}: endpoint_url {public(endpoint)!r} must begin with http:// or "
            "https://"
        )
    if endpoint is not None and endpoint != public(endpoint):
        raise StoreDenied(
            f"{location.public_url}: endpoint_url must be an address alone, such as "
            f"{public(endpoint)!r}; credentials come from {location.credentials}"
        )
    config: dict[str, Any] = {
        "connect_timeout": min(CONNECT_TIMEOUT_S, read_timeout_s),
        "read_timeout": read_timeout_s,
        "max_pool_connections": POOL_CONNECTIONS,
    }
    if endpoint is not None:
        # Many S3-compatible stores do not support Amazon's newer checksums; some return wrong ones.
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
    config |= location.settings.get("config_kwargs") or {}
    config["retries"] = {"total_max_attempts": client_attempts, "mode": "standard"}
    return {**location.settings, "config_kwargs": config}


@contextmanager
def as_store_errors(location: StoreLocation, path: str = "") -> Iterator[None]:
    """Turn a driver's errors into StoreErrors that name the location.

    After refused credentials the driver's cached instances are dropped, so that the next attempt
    reads new ones.
    """
    try:
        yield
    except driver_errors() as error:
        if location.protocol != "file" and classify(error) in ACCESS_FAULTS:
            import fsspec

            fsspec.get_filesystem_class(location.protocol).clear_instance_cache()
        raise store_error_for(error, location, path) from error


def store_error_for(
    error: BaseException, location: StoreLocation, path: str = "", is_first: bool = False
) -> StoreError:
    """The StoreError for a driver's error: one line that says what a person can do.

    With `is_first`, the store has never answered, so its address may be wrong.
    """
    where = f"{location.public_url}/{path}" if path else location.public_url
    fault = classify(error)
    doubtful = is_first or fault is Fault.UNREACHABLE or not location.configured_endpoint
    advice = location.endpoint_advice if doubtful else ""
    if fault is Fault.MISSING:
        return StoreMissing(f"{where}: not found")
    if fault is Fault.BUSY:
        cause = _safe_text(connection_reset(error) or error)
        return StoreError(f"{where}: {location.endpoint} keeps failing ({cause}){advice}")
    refused = _refusal(fault, error, location)
    if refused is None:
        return StoreError(f"{where}: {_safe_text(error)}")
    return StoreDenied(f"{where}: {refused}{advice}")


def _refusal(fault: Fault, error: BaseException, location: StoreLocation) -> str | None:
    """What a person must fix; None if that is not known."""
    match fault:
        case Fault.NO_BUCKET:
            return f"{location.endpoint} has no bucket {location.bucket!r}"
        case Fault.NO_CREDENTIALS:
            return f"no credentials ({_safe_text(error)}); looked for in {location.credentials}"
        case Fault.WRONG_CREDENTIALS:
            return (
                f"{location.endpoint} rejects the credentials ({_error_code(error)}); they come "
                f"from {location.credentials}"
            )
        case Fault.WRONG_REGION:
            return (
                f"bucket {location.bucket!r} is in another region ({_error_code(error)}); set "
                "storage.s3.client_kwargs.region_name or AWS_DEFAULT_REGION"
            )
        case Fault.DENIED:
            return _denial(error, location)
        case Fault.NOT_A_FOLDER:
            return "this is a file, or lies below one, where a folder is expected"
        case Fault.UNREACHABLE:
            return f"cannot reach {location.endpoint} ({_root_cause(error)}){_tls_advice(error)}"
        case _:
            return None


def _denial(error: BaseException, location: StoreLocation) -> str:
    if location.protocol == "file":
        return f"permission denied ({_safe_text(error)})"
    code = _error_code(error)
    # The answer to a HEAD request has no body, so a 403 does not say which of the two it was.
    doubt = "or rejects the credentials " if code == "403" else ""
    return (
        f"{location.endpoint} denies permission {doubt}({code}); the credentials come from "
        f"{location.credentials}"
    )


def _tls_advice(error: BaseException) -> str:
    text = " ".join(str(link) for link in error_chain(error)).lower()
    if "certificate verify failed" in text or "certificate_verify_failed" in text:
        return "; its certificate is not trusted: set AWS_CA_BUNDLE to the file of its authority"
    if "wrong_version_number" in text or "record layer failure" in text:
        return "; it does not speak TLS: an address that begins with http:// may be right"
    return ""


def _error_code(error: BaseException) -> str:
    code, status = error_code_and_status(error)
    return code or str(status or type(error).__name__)


def _root_cause(error: BaseException) -> str:
    """The text of the first error in the chain of causes."""
    *_, root = (link for link in error_chain(error) if str(link) or link is error)
    return _safe_text(root)


def _safe_text(error: BaseException) -> str:
    """An error's text on one short line, with the current credentials removed."""
    text = one_line(error, None) or type(error).__name__
    for name in SECRET_VARIABLES:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return text[:300]
