"""Who may use the review page: one-time token, cookie, `Host`, `Origin`, and headers of answers.

A page of another site can make a browser send requests here. It cannot read the token, its requests
carry no SameSite=Strict cookie, its scripts are given away by `Origin` and `Sec-Fetch-Site`, and a
name of its own that it points to this machine (DNS rebinding) by `Host`.
"""

import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import web

from nightpress.pipelines.review.page import SERVED_POLICY

TOKEN_BYTES = 24
"""Random bytes of a token and of a cookie."""

COOKIE_AGE_S = 30 * 24 * 3600

HEADERS = {
    "Content-Security-Policy": SERVED_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Server": "nightpress",
}
"""Of every answer. Answers that may be kept say so themselves."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - listening there is up to the user

NO_ACCESS = (
    "no access: open the address that nightpress review has printed; if you have just done so, "
    "reload this page"
)
OPENED_BEFORE = (
    "this address was opened before, or is wrong; nightpress review has printed another one"
)

ENTRY = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url=/">
<title>nightpress review</title>
<p><a href="/">Open the review page</a></p>
</html>
"""
"""Leads to the page. After a redirect, browsers would not send a SameSite=Strict cookie where a
file or another site has led here."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """A request that is not answered, with the status and a sentence that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Access:
    """The tokens, cookies and names of one server.

    Args:
        names: host names and addresses by which it may be asked.
        any_address: whether it may be asked by any IP address: it listens on all of the machine.
        on_token_used: called with the next token when one was used.
    """

    names: frozenset[str]
    any_address: bool = False
    on_token_used: Callable[[str], None] = lambda token: None
    tokens: set[str] = field(default_factory=set)
    cookies: set[str] = field(default_factory=set)

    @classmethod
    def of_address(cls, address: str) -> "Access":
        """The access of a server that listens at an address."""
        if address in ANY_ADDRESS:
            own = (socket.gethostname(), socket.getfqdn())
            return cls(frozenset(each.lower() for each in (*LOOPBACK, *own)), any_address=True)
        names = (*LOOPBACK, address) if is_loopback(address) else (address,)
        return cls(frozenset(each.lower() for each in names))

    def new_token(self) -> str:
        """A token that opens the page once."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self.tokens.add(token)
        return token

    def require(self, request: web.Request) -> None:
        """Check where a request comes from, and its cookie.

        Raises:
            Refused: it may not be answered.
        """
        self.require_origin(request)
        if not self.has_cookie(request):
            raise Refused(401, NO_ACCESS)

    def require_origin(self, request: web.Request) -> None:
        """Check `Host`, `Origin` and `Sec-Fetch-Site`.

        Raises:
            Refused: another site asks, or asks under another name.
        """
        host = request.headers.getall("Host", [])
        if len(host) != 1 or not self._is_own(host[0]):
            raise Refused(403, f"this server does not answer under the name {shown(host)}")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{host[0]}":
            raise Refused(403, f"requests of the site {shown(origin)} are not answered")
        if origin is None and request.method not in ("GET", "HEAD"):
            raise Refused(403, "a request that changes something must say its Origin")
        site, mode = (request.headers.get(f"Sec-Fetch-{each}") for each in ("Site", "Mode"))
        if site not in (None, "same-origin", "none") and mode != "navigate":
            raise Refused(403, "requests of other sites are not answered")

    def _is_own(self, host: str) -> bool:
        try:
            parts = urlsplit(f"http://{host}")
            name, _ = parts.hostname or "", parts.port  # ValueError: no such port
        except ValueError:
            return False
        if any(each in host for each in "@/?#\\"):
            return False
        if name in self.names:
            return True
        return self.any_address and _is_address(name)

    def has_cookie(self, request: web.Request) -> bool:
        """Whether a request has a cookie that this server has given."""
        given = request.cookies.get(cookie_name(request), "")
        return _is_among(given, self.cookies)

    def open(self, request: web.Request) -> web.Response:
        """Answer the address with the token: with a cookie, once, and the way to the page.

        Raises:
            Refused: the token was used before, or never given.
        """
        self.require_origin(request)
        token = request.query["token"]
        if self.has_cookie(request):
            return web.Response(status=303, headers={"Location": "/"})
        if not _is_among(token, self.tokens):
            raise Refused(403, OPENED_BEFORE)
        self.tokens.discard(token)
        cookie = secrets.token_urlsafe(TOKEN_BYTES)
        self.cookies.add(cookie)
        response = web.Response(text=ENTRY, content_type="text/html")
        response.set_cookie(
            cookie_name(request),
            cookie,
            max_age=COOKIE_AGE_S,
            path="/",
            httponly=True,
            samesite="Strict",
        )
        self.on_token_used(self.new_token())
        return response


def cookie_name(request: web.Request) -> str:
    """Cookies are shared by all ports of a host, so their name has the port."""
    host = urlsplit(f"http://{request.headers.get('Host', '')}")
    return f"nightpress-{host.port or 80}"


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    if address == "localhost":
        return True
    return _is_address(address) and ipaddress.ip_address(address).is_loopback


def shown(value: object) -> str:
    """What somebody has sent, in ASCII and cut, for a message."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_among(given: str, known: set[str]) -> bool:
    """Compares in a time that says nothing about those that are known."""
    encoded = given.encode("utf-8", "replace")
    return any(secrets.compare_digest(encoded, each.encode()) for each in known)
