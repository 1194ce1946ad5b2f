"""Telling webhooks how a start of a run ended: at most once each, and never at the run's expense.

Before a webhook is called, a create-only object in `notified/` claims the call. So it is not called
twice, and not at all if the process dies in between.
"""

import json
import os
import platform
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.formatting import duration
from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.job.notify_section import Ending, NotifySpec
from nightpress.pipelines.storage import Store

NOTIFIED_FOLDER = "notified"

TIMEOUT_S = 5.0
"""What a receiver may take, everything included. A process that was asked to stop is waiting."""

SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")


@dataclass(frozen=True)
class Ended:
    """How a start of a run ended, as receivers are told."""

    event: Ending
    run: str
    url: str
    lease: int
    """Number of the start."""
    exit_code: int
    reason: str | None
    """Why, unless it finished."""
    ended_at: str
    """UTC, ISO 8601."""
    num_images: int
    """Images of the plan; 0 if the start did not get that far."""
    num_done: int
    """Images that are done, those of earlier starts included."""
    num_failed: int
    num_made: int
    elapsed_s: float
    gpu_s: float
    """Seconds of all GPUs of this start together."""
    cost: Cost | None
    """What the whole run has cost."""

    @property
    def text(self) -> str:
        """`cats finished: 64 of 64 images, 2 failed, in 7 h 03 min, 12.40 EUR, ...`."""
        failed = f", {self.num_failed:,} of them failed" if self.num_failed else ""
        done = f"{self.num_done:,} of {self.num_images:,} images done{failed}"
        counted = done if self.num_images else "it did not get as far as counting images"
        cost = f"; {self.cost}" if self.cost is not None else ""
        reason = f"\n{self.reason}" if self.reason else ""
        return (
            f"{self.run} {self.event} (exit code {self.exit_code}): {counted}; "
            f"{self.num_made:,} made in "
            f"{duration(self.elapsed_s)} on {platform.node()}{cost}\n{self.url}{reason}"
        )


@dataclass(frozen=True)
class Answer:
    """What became of a call."""

    url_env: str
    event: Ending
    ok: bool
    detail: str
    """`status 200`, or what went wrong; never the URL."""

    @property
    def warning(self) -> str:
        """What is said about a call that failed."""
        return f"notify: {self.url_env} was not told that the run {self.event}: {self.detail}"


def missing_urls(receivers: tuple[NotifySpec, ...]) -> list[str]:
    """What is said at the start about receivers that cannot be called, a line each."""
    found = ((each.url_env, what_is_wrong(os.environ.get(each.url_env))) for each in receivers)
    return [f"notify: {name} {wrong}; nothing will be sent there" for name, wrong in found if wrong]


def what_is_wrong(url: str | None) -> str | None:
    """Why a receiver cannot be called; None if it can. The URL itself is a secret."""
    if url is None or not url.strip():
        return "is not set in the environment of this process"
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable:
        return "holds no http or https URL"
    if parts.username is not None:
        return "holds a URL with a user name, which is not supported"
    plain = url.strip().isascii() and url.strip().isprintable() and " " not in url.strip()
    return None if plain else "holds a URL with characters that must be percent-encoded"


def notify(
    store: Store,
    receivers: tuple[NotifySpec, ...],
    ended: Ended,
    timeout_s: float = TIMEOUT_S,
) -> list[Answer]:
    """Call each receiver that wants to know, side by side; returns after `timeout_s` at the latest.

    Receivers without a usable URL are left out; `missing_urls` tells of them at the start. A call
    that the store does not let claim is not made; its answer says so.
    """
    calls, unclaimed = [], []
    for each, name in zip(receivers, _claim_names(receivers, ended.event), strict=True):
        url = _url_of(each)
        if ended.event not in each.on or url is None:
            continue
        try:
            if _claim(store, name, each, ended):
                calls.append(_Call(each, url, ended))
        except StoreError as error:
            detail = f"it must not be called without a claim: {one_line(error)}"
            unclaimed.append(Answer(each.url_env, ended.event, False, detail))
    for call in calls:
        call.thread.start()
    end = time.monotonic() + timeout_s
    for call in calls:
        call.thread.join(max(0.0, end - time.monotonic()))
    return [*unclaimed, *(call.answer(timeout_s) for call in calls)]


def not_told(
    store: Store, receivers: tuple[NotifySpec, ...], event: Ending
) -> tuple[NotifySpec, ...]:
    """The receivers, those without their wish to know of an event that any start called for it.

    Raises:
        StoreError: the claims cannot be listed.
    """
    called = {path.partition("-")[2] for path in store.list(NOTIFIED_FOLDER)}
    return tuple(
        each.model_copy(update={"on": tuple(e for e in each.on if e != event)})
        if name in called
        else each
        for each, name in zip(receivers, _claim_names(receivers, event), strict=True)
    )


def _url_of(receiver: NotifySpec) -> str | None:
    url = os.environ.get(receiver.url_env, "").strip()
    return None if what_is_wrong(url) else url


def _claim_names(receivers: tuple[NotifySpec, ...], event: Ending) -> list[str]:
    """The end of each claim's name, which stays when others join the list or leave it.

    Receivers with the same variable, such as in two formats, are numbered.
    """
    earlier: Counter[str] = Counter()
    names = []
    for each in receivers:
        again = f"-{earlier[each.url_env]}" if earlier[each.url_env] else ""
        names.append(f"{event}-{each.url_env}{again}.json")
        earlier[each.url_env] += 1
    return names


def _claim(store: Store, name: str, receiver: NotifySpec, ended: Ended) -> bool:
    path = f"{NOTIFIED_FOLDER}/{ended.lease:05d}-{name}"
    values = {"url_env": receiver.url_env, "event": ended.event, "time": ended.ended_at}
    return store.create(path, (json.dumps(values) + "\n").encode())


def body_of(receiver: NotifySpec, url: str, ended: Ended) -> bytes:
    """What a receiver is sent."""
    is_slack = urlsplit(url).hostname in SLACK_HOSTS
    if (receiver.format or ("slack" if is_slack else "json")) == "slack":
        return json.dumps({"text": _as_slack_text(ended.text)}).encode()
    return json.dumps({"text": ended.text, **asdict(ended)}).encode()


def _as_slack_text(text: str) -> str:
    """The text with Slack's control characters escaped: a reason may hold `<!channel>`.

    docs.slack.dev/messaging/formatting-message-text: these three, and no others.
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET elsewhere."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Call:
    """One call, in a thread: a receiver may send a byte now and then, for ever."""

    def __init__(self, receiver: NotifySpec, url: str, ended: Ended) -> None:
        self._receiver, self._url, self._ended = receiver, url, ended
        self._answer: Answer | None = None
        self.thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    def answer(self, timeout_s: float) -> Answer:
        """What became of the call by now."""
        return self._answer or self._as_answer(f"no answer within {timeout_s:g} s", False)

    def _run(self) -> None:
        try:
            detail, ok = _post(self._url, body_of(self._receiver, self._url, self._ended))
        except Exception as error:  # the boundary of the thread; its message may hold the URL
            detail, ok = f"the call failed with {type(error).__name__}", False
        self._answer = self._as_answer(detail, ok)

    def _as_answer(self, detail: str, ok: bool) -> Answer:
        return Answer(self._receiver.url_env, self._ended.event, ok, detail)


def _post(url: str, body: bytes) -> tuple[str, bool]:
    """Send a body; returns what came of it, and whether that is good."""
    headers = {"Content-Type": "application/json", "User-Agent": "nightpress"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - checked
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return f"status {answer.status}", True
    except urllib.error.HTTPError as error:
        return f"it answered with status {error.code}", False
    except urllib.error.URLError as error:
        if not isinstance(error.reason, TimeoutError):
            return f"it cannot be reached: {_why(error.reason)}", False
    except TimeoutError:
        pass
    return f"no answer within {TIMEOUT_S:g} s", False


def _why(reason: str | BaseException) -> str:
    """Why a connection failed, in words that cannot hold the URL.

    OpenSSL's own sentence may name the host, and so do certificates; its code does not.
    """
    if isinstance(reason, ssl.SSLError):
        code = getattr(reason, "reason", None) or type(reason).__name__
        return f"no TLS connection: {code.lower().replace('_', ' ')}"
    known = isinstance(reason, OSError) and reason.strerror
    return str(known) if known else type(reason).__name__
