"""fsspec file systems, opened so that nothing is cached, nothing waits long, and all is told.

Owns the settings of the drivers and the sentences for their errors.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from nightpress.pipelines.errors import StoreDenied, StoreError, StoreMissing
from nightpress.pipelines.storage.faults import Fault, answer, chain, classify, driver_errors, reset
from nightpress.pipelines.storage.pacing import ceiling_of, driver_options
from nightpress.pipelines.storage.urls import Options, protocol_of, public

S3 = ("s3", "s3a")
SAME_STORE = (S3, ("gs", "gcs"), ("az", "abfs", "abfss"))
"""Protocols that share their options: a job file names any one of them."""

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
POOL_CONNECTIONS = 32
CLIENT_ATTEMPTS = 6
"""Attempts of botocore's own, where requests are made below our reach."""

EXTRAS = {"s3": "nightpress[s3]", "s3a": "nightpress[s3]", "gs": "gcsfs", "gcs": "gcsfs"}
EXTRAS |= dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs")

REFUSALS = (Fault.NO_CREDENTIALS, Fault.WRONG_CREDENTIALS, Fault.DENIED)

MARK = "nightpress-write"
"""The name of the user metadata that holds the mark of one write."""

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".tar": "application/x-tar",
    ".webp": "image/webp",
}
"""What a browser is told: an object without a type is downloaded where it should be shown."""

SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class Place:
    """A URL with the options for it: what is needed to open it, and to speak of it."""

    url: str
    options: Options

    @property
    def protocol(self) -> str:
        """The protocol that the options and the messages are about: a chain's last link."""
        return protocol_of(self.url.rpartition("::")[2])

    @property
    def settings(self) -> dict[str, Any]:
        """The options of its protocol that are its driver's."""
        return driver_options(self._options)

    @property
    def requests_per_s(self) -> float:
        """The most that one process may ask; infinite if the options do not say.

        Raises:
            StoreDenied: they say what is no such number.
        """
        try:
            return ceiling_of(self._options)
        except ValueError as error:
            raise StoreDenied(f"{self.shown}: storage.{self.protocol}.{error}") from error

    @property
    def _options(self) -> Mapping[str, Any]:
        names = next((group for group in SAME_STORE if self.protocol in group), (self.protocol,))
        named = (self.options[name] for name in (self.protocol, *names) if name in self.options)
        return next(named, {})

    def write_options(self, path: str) -> dict[str, str]:
        """What goes with the bytes of an object: its media type, where the store keeps one."""
        media_type = MEDIA_TYPES.get(PurePosixPath(path).suffix.lower())
        return {"ContentType": media_type} if media_type and self.protocol in S3 else {}

    @property
    def read_options(self) -> dict[str, int]:
        """What has s3fs read an object in one request, without asking for its size before."""
        return {"max_concurrency": 1} if self.protocol in S3 else {}

    def mark_options(self, mark: str) -> dict[str, Any]:
        """What goes with the bytes to tell one writer's object from another's; S3 keeps it."""
        if self.protocol not in S3:
            return {}
        own = (self.settings.get("s3_additional_kwargs") or {}).get("Metadata") or {}
        return {"Metadata": {**own, MARK: mark}}

    @property
    def own_endpoint(self) -> str | None:
        """The endpoint that options or environment name, in botocore's order."""
        named = (
            self.settings.get("endpoint_url"),
            (self.settings.get("client_kwargs") or {}).get("endpoint_url"),
            os.environ.get("AWS_ENDPOINT_URL_S3"),
            os.environ.get("AWS_ENDPOINT_URL"),
        )
        return next((str(endpoint) for endpoint in named if endpoint), None)

    @property
    def endpoint(self) -> str:
        """Who answers, as messages name it."""
        if self.protocol in S3:
            return public(self.own_endpoint or "Amazon S3")
        return f"the {self.protocol}:// store"

    @property
    def bucket(self) -> str:
        """What comes right after the protocol."""
        return self.url.rpartition("::")[2].partition("://")[2].partition("/")[0]

    @property
    def credentials(self) -> str:
        """Where credentials are looked for."""
        if self.protocol not in S3:
            return f"the usual places of {EXTRAS.get(self.protocol, self.protocol)}"
        profile = self.settings.get("profile") or os.environ.get("AWS_PROFILE") or "default"
        return (
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, "
            f"then profile {profile!r} (storage.s3.profile or AWS_PROFILE) in ~/.aws"
        )

    @cached_property
    def shown(self) -> str:
        """The URL as messages name it."""
        return public(self.url)


def open_driver(place: Place, client_attempts: int, fresh: bool = False) -> tuple[Any, str]:
    """The file system behind a URL, and the URL's path in it.

    Args:
        place: what to open.
        client_attempts: how often the driver itself tries a request, where it can be told. 1 for
            whoever must see every failure.
        fresh: with the credentials that are in force now, instead of an instance of this thread.

    Raises:
        StoreDenied: no driver, options that it does not know, or no credentials.
    """
    import fsspec

    options = {name: driver_options(values) for name, values in place.options.items()}
    settings = _s3_settings(place, client_attempts) if place.protocol in S3 else place.settings
    caching = {"use_listings_cache": False, "skip_instance_cache": fresh}
    options[place.protocol] = {**settings, **caching}
    try:
        driver, path = fsspec.url_to_fs(place.url, **options)
        if place.protocol in S3 and place.protocol in driver.protocol:
            driver.retries = 1 if client_attempts == 1 else 2
            driver.connect()
    except ImportError as error:
        wanted = EXTRAS.get(place.protocol, str(error))
        raise StoreDenied(
            f"{place.shown}: no driver for {place.protocol}:// is installed; install {wanted}"
        ) from error
    except (TypeError, ValueError) as error:
        raise StoreDenied(
            f"{place.shown}: storage.{place.protocol} is not understood ({_one_line(error)})"
        ) from error
    except driver_errors() as error:
        raise explain(error, place) from error
    return driver, str(path)


def _s3_settings(place: Place, client_attempts: int) -> dict[str, Any]:
    """The user's options over ours; only how often botocore tries is ours alone."""
    endpoint = place.own_endpoint
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise StoreDenied(
            f"{place.shown}: endpoint_url {public(endpoint)!r} must begin with http:// or https://"
        )
    if endpoint is not None and endpoint != public(endpoint):
        raise StoreDenied(
            f"{place.shown}: endpoint_url {public(endpoint)!r} holds more than an address; "
            f"credentials are looked for in {place.credentials}"
        )
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "max_pool_connections": POOL_CONNECTIONS,
    }
    if endpoint is not None:
        # Stores other than Amazon's know few of its newer checksums, and some answer wrongly.
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
    config |= place.settings.get("config_kwargs") or {}
    config["retries"] = {"total_max_attempts": client_attempts, "mode": "standard"}
    return {**place.settings, "config_kwargs": config}


@contextmanager
def told(place: Place, path: str = "") -> Iterator[None]:
    """Turn a driver's error into one sentence about the place.

    Drivers whose credentials were refused are forgotten, so that better ones are seen.
    """
    try:
        yield
    except driver_errors() as error:
        if place.protocol != "file" and classify(error) in REFUSALS:
            import fsspec

            fsspec.get_filesystem_class(place.protocol).clear_instance_cache()
        raise explain(error, place, path) from error


def explain(error: BaseException, place: Place, path: str = "") -> StoreError:
    """The error that says in one line what a person can do."""
    where = f"{place.shown}/{path}" if path else place.shown
    match classify(error):
        case Fault.MISSING:
            return StoreMissing(f"{where}: not there")
        case Fault.NO_BUCKET:
            return StoreDenied(f"{where}: {place.endpoint} has no bucket {place.bucket!r}")
        case Fault.NO_CREDENTIALS:
            return StoreDenied(
                f"{where}: no credentials ({_one_line(error)}); looked for in {place.credentials}"
            )
        case Fault.WRONG_CREDENTIALS:
            return StoreDenied(
                f"{where}: {place.endpoint} does not accept the credentials "
                f"({_code(error)}); they come from {place.credentials}"
            )
        case Fault.WRONG_REGION:
            return StoreDenied(
                f"{where}: bucket {place.bucket!r} is in another region ({_code(error)}); set "
                "storage.s3.client_kwargs.region_name or AWS_DEFAULT_REGION"
            )
        case Fault.DENIED:
            return StoreDenied(f"{where}: {_denial(error, place)}")
        case Fault.UNREACHABLE:
            return StoreDenied(f"{where}: cannot reach {place.endpoint} ({_root(error)})")
        case Fault.BUSY:
            cause = _one_line(reset(error) or error)
            return StoreError(f"{where}: {place.endpoint} keeps failing ({cause})")
        case _:
            return StoreError(f"{where}: {_one_line(error)}")


def _denial(error: BaseException, place: Place) -> str:
    if place.protocol == "file":
        return f"permission denied ({_one_line(error)})"
    code = _code(error)
    # What is asked with HEAD gets no reason but its status.
    doubt = "or does not accept the credentials " if code == "403" else ""
    return (
        f"{place.endpoint} denies permission {doubt}({code}); the credentials come from "
        f"{place.credentials}"
    )


def _code(error: BaseException) -> str:
    code, status = answer(error)
    return code or str(status or type(error).__name__)


def _root(error: BaseException) -> str:
    """The text of what all the other errors come from."""
    *_, root = chain(error)
    return _one_line(root)


def _one_line(error: BaseException) -> str:
    """An error's text, short, in one line, and free of the credentials in force."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name in SECRET_VARIABLES:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return text[:300]
