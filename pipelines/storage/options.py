"""fsspec options by protocol: which of them belong to a URL, and which names exist.

Drivers ignore most option names that they do not know, so names are checked here.
"""

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nightpress.pipelines.storage.pacing import REQUEST_LIMIT_OPTION, driver_options
from nightpress.pipelines.storage.urls import Options, protocol_of

S3 = ("s3", "s3a")
SAME_STORE = (
    S3,
    ("gs", "gcs"),
    ("az", "abfs", "abfss"),
    ("http", "https"),
    ("file", "local"),
)
"""Protocols that share their options; a job file may use any of their names."""

EVERY_DRIVER = ("use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache")
"""Options that fsspec itself reads, whatever the driver."""

DECIDED_BY_THE_URL = ("fo", "fs", "target_protocol", "target_options", "asynchronous", "loop")
"""Arguments of drivers that are no options: the links of a chained URL, and how fsspec calls."""

PASSED_ON = {
    **dict.fromkeys(S3, ("aiobotocore.session", "AioSession.__init__")),
    **dict.fromkeys(("http", "https"), ("aiohttp", "ClientSession._request")),
}
"""Drivers that pass options that they do not know to another library's function."""

CHECKED = (
    *(name for group in SAME_STORE for name in group),
    *("memory", "zip", "tar", "simplecache", "filecache", "blockcache"),
)
"""Protocols whose drivers name all their options; others may pass them on to any library."""


def links(url: str) -> list[str]:
    """The protocols of a chained URL, first to last: `zip`, `s3` for `zip://x::s3://b/k`."""
    *first, last = url.split("::")
    return [protocol_of(link if "://" in link else f"{link}::") for link in first] + [
        protocol_of(last)
    ]


def options_of(protocol: str, options: Options) -> Mapping[str, Any]:
    """The options under a protocol's own name, or else under another name of the same store."""
    names = next((group for group in SAME_STORE if protocol in group), ())
    named = (options[name] for name in (protocol, *names) if name in options)
    return next(named, {})


def options_by_link(url: str, options: Options) -> dict[str, dict[str, Any]]:
    """fsspec's keyword arguments for a URL: for each of its protocols, that protocol's options.

    Raises:
        ValueError: there is no such protocol, or its driver has no such option.
        ImportError: a driver is not installed.
    """
    found = {name: driver_options(options_of(name, options)) for name in links(url)}
    for name, values in found.items():
        if name not in _protocols():
            raise ValueError(f"there is no protocol {name}://{_meant(name, _protocols())}")
        _check_names(name, values, f"storage.{name}: ")
    return found


def _protocols() -> set[str]:
    from fsspec import available_protocols

    return {*available_protocols(), *(name for group in SAME_STORE for name in group)}


def check_protocols(options: Options) -> None:
    """Check that every protocol exists, and the options of those that need no driver.

    Raises:
        ValueError: there is no such protocol or option.
    """
    if not options:
        return
    known = _protocols()
    for name, values in options.items():
        if name not in known:
            raise ValueError(
                f"there is no protocol {name!r}{_meant(name, known)}; allowed are those that "
                "fsspec knows, such as s3, gs, az, http and file"
            )
        if name in ("file", "local"):
            _check_names(name, values, f"{name}: ")


def _check_names(protocol: str, values: Mapping[str, Any], before: str) -> None:
    for name, value in values.items():
        if name.endswith("_kwargs") and not isinstance(value, Mapping | None):
            raise ValueError(f"{before}{name}: {value!r} is not a mapping")
    if not values or protocol not in CHECKED:
        return
    allowed = set(_option_names(protocol))
    unknown = next((name for name in values if name not in allowed), None)
    if unknown is not None:
        meant = _meant(unknown, allowed) or f"; allowed are {', '.join(sorted(allowed))}"
        raise ValueError(f"{before}there is no option {unknown!r}{meant}")


def _option_names(protocol: str) -> Iterator[str]:
    """The named parameters of a driver, and of the classes that it passes other options on to."""
    from fsspec import get_filesystem_class

    yield from EVERY_DRIVER
    if protocol not in ("file", "local"):
        yield REQUEST_LIMIT_OPTION
    for kind in get_filesystem_class(protocol).__mro__:
        if "__init__" in vars(kind):
            yield from (names := list(_parameters(kind.__init__)))
            if "**" not in names:
                return
    if protocol in PASSED_ON:
        module, name = PASSED_ON[protocol]
        owner, _, method = name.partition(".")
        imported = __import__(module, fromlist=[owner])
        yield from _parameters(getattr(getattr(imported, owner), method))


def _parameters(function: Any) -> Iterator[str]:
    """The names of a function's parameters that are options; `**` if it takes any others."""
    for name, each in inspect.signature(function).parameters.items():
        if each.kind is each.VAR_KEYWORD:
            yield "**"
        elif each.kind is not each.VAR_POSITIONAL and name not in ("self", *DECIDED_BY_THE_URL):
            yield name


def _meant(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lower(), allowed, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
