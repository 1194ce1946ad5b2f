"""A webhook receiver on loopback that answers as its paths say: `/200`, `/500`, `/stall`."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """A running receiver."""

    url: str
    bodies: list[tuple[str, Any]] = field(default_factory=list)
    """Path and JSON of each call."""
    stalled: threading.Event = field(default_factory=threading.Event)
    """What `/stall` waits for."""


@contextmanager
def receiver(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Receive calls until the block ends; with `tls` over https."""
    server = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.bodies.append((self.path, json.loads(body)))
            if self.path.startswith("/stall"):
                server.stalled.wait(30)
                return
            if self.path.startswith("/away"):
                self.send_response(302)
                self.send_header("Location", "/200/elsewhere")
            else:
                self.send_response(int(self.path.split("/")[1]))
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        scheme = "http"
        if tls is not None:
            scheme = "https"
            # The handshake is for the thread of a call, not for the one that accepts.
            http.socket = tls.wrap_socket(
                http.socket, server_side=True, do_handshake_on_connect=False
            )
        server.url = f"{scheme}://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.stalled.set()
            http.shutdown()
            thread.join()
