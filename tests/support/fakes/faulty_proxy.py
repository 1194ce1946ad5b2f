"""An HTTP proxy on loopback that fails on purpose, in front of a real S3 server."""

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Trouble(Enum):
    """What happens to a request."""

    SLOW_DOWN = auto()
    """503, like a throttling S3; the server never sees the request."""
    BAD_GATEWAY = auto()
    """502, as from a gateway in between."""
    LOST_REQUEST = auto()
    """The connection is reset before the server sees the request."""
    LOST_ANSWER = auto()
    """The server handles the request; the connection is reset instead of a response."""
    CUT_UPLOAD = auto()
    """The connection is reset after part of the request's body."""
    CUT_ANSWER = auto()
    """The server handles the request; the connection is reset in the middle of the response."""
    SLOW_ANSWER = auto()
    """The server handles the request; the response body trickles in over `TRICKLE_S`."""
    STALL = auto()
    """The server handles the request; the response never comes."""


LIST = "LIST"
"""Selects listings only, which are GET requests too."""

TRICKLE_S = 3.0
DROPS = 20


@dataclass
class Limit:
    """A token bucket, as stores limit requests."""

    requests_per_s: float
    burst: float
    """The most tokens that can be saved up."""
    since: float
    """When the tokens were last counted."""
    saved: float = 0.0

    def admits(self, moment: float) -> bool:
        """Whether a request at this moment is within the limit; if so, it takes a token."""
        gained = (moment - self.since) * self.requests_per_s
        self.since, self.saved = moment, min(self.burst, self.saved + gained)
        if self.saved < 1:
            return False
        self.saved -= 1
        return True


class Link:
    """A network link with a bandwidth that all connections share."""

    def __init__(self) -> None:
        self.bytes_per_s: float | None = None
        """None for no limit."""
        self.num_bytes = 0
        """Bytes carried so far."""
        self._free_at = 0.0
        self._lock = threading.Lock()

    def carry(self, num_bytes: int) -> None:
        """Return once the bytes have passed, after all bytes before them."""
        with self._lock:
            self.num_bytes += num_bytes
            if self.bytes_per_s is None:
                return
            starts_at = max(self._free_at, time.monotonic())
            self._free_at = arrives_at = starts_at + num_bytes / self.bytes_per_s
        time.sleep(max(0.0, arrives_at - time.monotonic()))


class FaultyProxy:
    """Forwards requests, except those for which trouble was ordered."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.requests: Counter[str] = Counter()
        """Requests received, by method."""
        self.num_throttled = 0
        """Requests answered with 503 SlowDown."""
        self.upward = Link()
        """The link to the store."""
        self.retry_after: str | None = None
        """The Retry-After header sent with a SlowDown."""
        self._limit: Limit | None = None
        self._troubles: dict[str, list[Trouble]] = {}
        self._silent_until = 0.0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.stopping = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def options(self) -> dict[str, dict[str, str]]:
        """The options for a job file's `storage`."""
        return {"s3": {"endpoint_url": self.endpoint}}

    def order(self, method: str, troubles: Sequence[Trouble]) -> None:
        """Order troubles for the next requests of a method or `LIST`, and reset the counters."""
        with self._lock:
            self.requests.clear()
            self._troubles[method] = list(troubles)

    def limit(self, requests_per_s: float | None) -> None:
        """Answer SlowDown to faster requests; bursts of a tenth of a second are allowed."""
        with self._lock:
            self.num_throttled = 0
            self._limit = None
            if requests_per_s is not None:
                burst = max(1.0, requests_per_s / 10)
                self._limit = Limit(requests_per_s, burst, time.monotonic(), burst)

    def fall_silent(self, seconds: float) -> None:
        """Neither forward nor answer any request for some seconds."""
        self._silent_until = time.monotonic() + seconds

    @property
    def silent(self) -> bool:
        """Whether requests are ignored now."""
        return time.monotonic() < self._silent_until and not self.stopping.is_set()

    @property
    def is_in_trouble(self) -> bool:
        """Whether ordered troubles remain."""
        with self._lock:
            return any(self._troubles.values())

    def next_trouble(self, method: str, path: str) -> Trouble | None:
        """The trouble for the request that has just arrived, if any."""
        with self._lock:
            self.requests[method] += 1
            lists = method == "GET" and "list-type=" in urlsplit(path).query
            waiting = (lists and self._troubles.get(LIST)) or self._troubles.get(method)
            trouble = waiting.pop(0) if waiting else None
            if trouble is None and self._limit and not self._limit.admits(time.monotonic()):
                trouble = Trouble.SLOW_DOWN
            self.num_throttled += trouble is Trouble.SLOW_DOWN
            return trouble

    def run(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def proxy(target: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of an endpoint until the block ends."""
    faulty = FaultyProxy(target)
    thread = threading.Thread(target=faulty.run, daemon=True)
    thread.start()
    try:
        yield faulty
    finally:
        faulty.close()
        thread.join()


def _handler(faulty: FaultyProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length // 2)
            trouble = faulty.next_trouble(self.command, self.path)
            if trouble is Trouble.CUT_UPLOAD:
                self.reset()
                return
            body += self.rfile.read(length - len(body))
            faulty.upward.carry(len(body))
            while faulty.silent:
                if self.gone():
                    self.close_connection = True
                    return
                time.sleep(0.1)
            self.meet(trouble, body)

        def meet(self, trouble: Trouble | None, body: bytes) -> None:
            match trouble:
                case None:
                    self.answer(*self.forward(body))
                case Trouble.SLOW_DOWN:
                    text = "<Error><Code>SlowDown</Code><Message>Slow down.</Message></Error>"
                    headers = [("Content-Type", "application/xml")]
                    if faulty.retry_after is not None:
                        headers.append(("Retry-After", faulty.retry_after))
                    self.answer(503, headers, text.encode())
                case Trouble.BAD_GATEWAY:
                    self.answer(502, [("Content-Type", "text/html")], b"<h1>Bad Gateway</h1>")
                case Trouble.LOST_REQUEST:
                    self.reset()
                case Trouble.LOST_ANSWER:
                    self.forward(body)
                    self.reset()
                case Trouble.CUT_ANSWER:
                    status, headers, answer = self.forward(body)
                    self.answer(status, headers, answer, self.write_half)
                    self.reset()
                case Trouble.SLOW_ANSWER:
                    self.answer(*self.forward(body), self.write_in_drops)
                case Trouble.STALL:
                    self.forward(body)
                    while not faulty.stopping.wait(0.1) and not self.gone():
                        time.sleep(0.05)
                    self.close_connection = True

        def handle(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # the client was killed
                super().handle()

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            upstream = HTTPConnection(faulty.target, timeout=30)
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            with upstream.getresponse() as response:
                answer = response.status, response.getheaders(), response.read()
            upstream.close()
            return answer

        def answer(
            self,
            status: int,
            headers: list[tuple[str, str]],
            body: bytes,
            write: Callable[[bytes], object] | None = None,
        ) -> None:
            self.send_response_only(status)
            length = str(len(body))
            for name, value in headers:
                match name.lower():
                    case "transfer-encoding" | "connection":
                        continue
                    case "content-length":
                        length = value
                    case _:
                        self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                (write or self.wfile.write)(body)

        def write_half(self, body: bytes) -> None:
            self.wfile.write(body[: len(body) // 2])

        def write_in_drops(self, body: bytes) -> None:
            drop = -(-len(body) // DROPS) or 1
            for start in range(0, len(body), drop):
                self.wfile.write(body[start : start + drop])
                faulty.stopping.wait(TRICKLE_S / DROPS)

        def reset(self) -> None:
            """Close without lingering, so that the peer gets RST instead of FIN."""
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True

        def finish(self) -> None:
            if self.connection.fileno() != -1:
                super().finish()

        def gone(self) -> bool:
            """Whether the peer has hung up."""
            self.connection.setblocking(False)
            try:
                return self.connection.recv(1, socket.MSG_PEEK) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True
            finally:
                with suppress(OSError):
                    self.connection.setblocking(True)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler
