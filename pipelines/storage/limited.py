"""Read a whole file of unknown size, and never more of it than a limit."""

import errno
import os
import re
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged, StoreError, StoreMissing
from nightpress.pipelines.storage.drivers import StoreLocation, as_store_errors, open_driver
from nightpress.pipelines.storage.faults import (
    Fault,
    classify,
    driver_errors,
    error_chain,
    error_code_and_status,
)
from nightpress.pipelines.storage.retries import RetryPolicy
from nightpress.pipelines.storage.urls import (
    Options,
    absolute,
    is_http,
    is_local,
    links_of,
    local_path,
    protocol_of,
    public,
)

CHUNK_BYTES = 2**20

REFUSED = (Fault.MISSING, Fault.DENIED, Fault.NO_BUCKET, Fault.NOT_A_FOLDER)
"""Faults that lie with one URL and that no retry gets past."""

UNUSABLE_NAME = (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR, errno.ENXIO)
"""What a local file system says about a path that can never be read."""

CUT = re.compile(r"received (\d+) of (\d+) bytes")
"""How aiohttp says that a response is shorter than its header `Content-Length`."""

SAME_CUTS = 4

BAD_ARCHIVE = (ValueError, KeyError, NotImplementedError, EOFError, zipfile.BadZipFile)
"""What drivers of chained URLs raise, besides OSError, for an archive or a name in it."""


def read_limited(
    url: str,
    options: Options,
    max_bytes: int,
    policy: RetryPolicy | None = None,
    is_given_up: Callable[[], bool] = lambda: False,
) -> bytes:
    """The bytes of a file, in one request where the driver allows it.

    Args:
        url: the file's URL or absolute path.
        options: fsspec options by protocol.
        max_bytes: the most that the file may have. Of a larger one, `max_bytes + 1` bytes are
            returned, and no more are read.
        policy: how requests are retried.
        is_given_up: asked before each attempt and while reading; if true, the bytes are not needed
            any more.

    Raises:
        StoreMissing: this one file is missing or refused, and will be at the next attempt.
        StoreError: the store itself refuses or fails.
    """
    location = StoreLocation(absolute(url), options)
    try:
        with as_store_errors(location):
            if is_local(url):
                return _read_local(str(local_path(url)), max_bytes)
            return _read_remote(location, max_bytes, policy or RetryPolicy(), is_given_up)
    except StoreMissing:
        raise
    except StoreError as error:
        if error.__cause__ is not None and is_refusal(error, url, options):
            answer = _answer(error.__cause__, location)
            raise StoreMissing(str(error) if answer is None else answer) from error
        raise
    except (*BAD_ARCHIVE, tarfile.TarError) as error:
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise StoreMissing(f"{location.public_url}: {reason}") from error


def is_refusal(error: StoreError, url: str, options: Options) -> bool:
    """Whether an error is the fault of this one URL, and will be the same at the next attempt.

    Args:
        error: raised while something at or below the URL was read.
        url: the URL or absolute path.
        options: fsspec options by protocol.
    """
    if isinstance(error, StoreMissing | Damaged):
        return True
    cause = error.__cause__
    return cause is not None and _is_final(cause, StoreLocation(absolute(url), options))


def _read_local(path: str, max_bytes: int) -> bytes:
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise StoreMissing(f"{path}: a folder, not a file")
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, a device has no end
        raise StoreMissing(f"{path}: a device, pipe or socket, not a file")
    with open(path, "rb") as file:
        return file.read(min(found.st_size, max_bytes) + 1)


def _read_remote(
    location: StoreLocation, max_bytes: int, policy: RetryPolicy, is_given_up: Callable[[], bool]
) -> bytes:
    require_protocols(location.url)
    driver, path = open_driver(location, client_attempts=1)
    end = time.monotonic() + policy.total_s

    def check_time() -> None:
        if is_given_up():
            raise StoreError(f"{location.public_url}: given up")
        if time.monotonic() > end:
            raise TimeoutError(f"the response did not end within {policy.total_s:.0f} s")

    cuts: list[str] = []

    def attempt() -> bytes:
        check_time()
        try:
            if is_http(location.url):
                return _streamed(driver, path, max_bytes + 1, check_time)
            return bytes(driver.cat_file(path, start=0, end=max_bytes + 1))
        except driver_errors() as error:
            _refuse_repeated_cut(error, cuts, location)
            if (
                classify(error) is not Fault.PAST_THE_END
            ):  # of an empty file, there is no first byte
                raise
            return b""

    return policy.run(attempt)


def _refuse_repeated_cut(error: BaseException, cuts: list[str], location: StoreLocation) -> None:
    """Give up on a response that breaks off at the same byte each time; a network cuts anywhere.

    Args:
        error: why this attempt failed.
        cuts: where earlier responses broke off; this one is added.
        location: for the message.

    Raises:
        StoreMissing: it has been so `SAME_CUTS` times.
    """
    cut = CUT.search(" ".join(str(link) for link in error_chain(error)))
    cuts.append(cut.group() if cut else "")
    if cut and cuts.count(cut.group()) >= SAME_CUTS:
        received, announced = (f"{int(number):,}" for number in cut.groups())
        raise StoreMissing(
            f"{location.public_url}: the response ends after {received} of the {announced} bytes "
            "that the server announces"
        ) from error


def _streamed(driver: Any, path: str, num_bytes: int, check_time: Callable[[], None]) -> bytes:
    """The first bytes of a web server's response, whose end it may never send."""
    data = bytearray()
    # A size keeps the driver from asking for it first; it is not used otherwise.
    with driver.open(path, "rb", block_size=0, size=1) as response:
        while len(data) < num_bytes:
            chunk = response.read(min(CHUNK_BYTES, num_bytes - len(data)))
            if not chunk:
                break
            data += chunk
            check_time()
    return bytes(data)


def require_protocols(url: str) -> None:
    """Check that there is a driver for each protocol that a URL names, installed or not.

    Raises:
        StoreMissing: there is none.
    """
    import fsspec

    known = {"file", *fsspec.available_protocols(), *fsspec.registry}
    for link in links_of(url):
        if protocol_of(link) not in known:
            raise StoreMissing(f"{public(url)}: there is no protocol {protocol_of(link)}://")


def _answer(cause: BaseException, location: StoreLocation) -> str | None:
    """What a web server has answered, in words; None for another store, or if it is missing."""
    _, status = error_code_and_status(cause)
    if not is_http(location.last_link.url) or classify(cause) is Fault.MISSING:
        return None
    if type(cause).__name__ == "TooManyRedirects":
        return f"{location.public_url}: the server redirects in a circle"
    kinds = {kind.__name__ for link in error_chain(cause) for kind in type(link).__mro__}
    if "RedirectClientError" in kinds:
        words = one_line(cause, 200)
        return f"{location.public_url}: the server redirects to {words}, which is no web address"
    if "BadHttpMessage" in kinds:
        return (
            f"{location.public_url}: the server's answer is not HTTP, or its headers do not fit it"
        )
    known = status in HTTPStatus.__members__.values()
    words = f"{status} {HTTPStatus(status).phrase}" if known else one_line(cause, 200)
    return f"{location.public_url}: the server answers {words}"


def _is_final(cause: BaseException, location: StoreLocation) -> bool:
    """Whether it is this file that is refused, rather than the store that fails."""
    fault = classify(cause)
    if fault is Fault.WRONG_CREDENTIALS:
        return is_http(location.last_link.url)  # there are none for a web server
    if fault is not Fault.OTHER:
        return fault in REFUSED
    if location.protocol == "file":
        return getattr(cause, "errno", None) in UNUSABLE_NAME
    return True
