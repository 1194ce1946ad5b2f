"""A web server on loopback that answers as its paths say: `/404`, `/endless`, `/flaky`, `/cut`."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FLAKY_ANSWERS = 2
"""How often `/flaky/...` answers 503 before it answers."""


@dataclass
class WebServer:
    """A running server."""

    url: str
    files: dict[str, bytes]
    """Path without the leading slash -> what is answered; may change at any time."""
    hits: Counter[str] = field(default_factory=Counter)
    """How often each path was asked for."""
    held: threading.Event = field(default_factory=threading.Event)
    """What `/held/...` waits for before it answers."""


@contextmanager
def web_server(files: Mapping[str, bytes]) -> Iterator[WebServer]:
    """Serve files until the block ends."""
    server = WebServer("", dict(files))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].removeprefix("/")
            server.hits[path] += 1
            kind = path.partition("/")[0]
            if kind == "held":
                server.held.wait(30)
            if kind == "endless":
                self.send_endlessly()
            elif kind.isdecimal():
                self.send_error(int(kind))
            elif kind == "cut":
                self.send_less_than_announced()
            elif kind == "away":
                self.send_response(302)
                self.send_header("Location", "file:///etc/hostname")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif kind == "garbage":
                self.wfile.write(b"no HTTP\r\n\r\n")
                self.close_connection = True
            elif kind == "flaky" and server.hits[path] <= FLAKY_ANSWERS:
                self.send_error(503)
            elif path in server.files:
                self.send_response(200)
                self.send_header("Content-Length", str(len(server.files[path])))
                self.end_headers()
                self.wfile.write(server.files[path])
            else:
                self.send_error(404)

        def send_less_than_announced(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1200")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(bytes(1_000))
            self.close_connection = True

        def send_endlessly(self) -> None:
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            try:
                while True:
                    self.wfile.write(bytes(65_536))
            except OSError:  # the client has had enough
                return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.held.set()
            listening.shutdown()
            thread.join()
