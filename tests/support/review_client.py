"""A review server on loopback, and a client that sends exactly what a test says."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nightpress.jobs.reviews.access import Access
from nightpress.jobs.reviews.options import ReviewOptions
from nightpress.jobs.reviews.reviewed_run import ReviewedRun
from nightpress.jobs.reviews.server import Address, ReviewServer, bound_socket, serving
from nightpress.jobs.reviews.thumbs import LateThumbs
from nightpress.pipelines.run_directory.reader import Run


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    """In small letters."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass
class Client:
    """Sends requests to a server; with the cookie once `open` was called."""

    port: int
    reviewed: ReviewedRun
    access: Access
    said: list[str]
    cookie: str = ""
    tokens: list[str] = field(default_factory=list)
    """Those that the server has printed."""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> Answer:
        """Open the page with the latest token, as a browser does."""
        answer = self.get(f"/?token={self.tokens[-1]}")
        self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, b"", headers)

    def post(self, values: object, **headers: str) -> Answer:
        body = values if isinstance(values, bytes) else json.dumps(values).encode()
        sent = {"Origin": self.origin, "Content-Type": "application/json"}
        changes = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("POST", "/api/marks", body, sent | changes)

    def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a request as it is; headers with an empty value are left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie} | named
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value:
                    connection.putheader(name, value)
            if method == "POST":
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()


@contextmanager
def review_client(
    run: Run, listen: str = "127.0.0.1", late: LateThumbs | None = None, **options: Any
) -> Iterator[Client]:
    """Serve a run to a client that has not opened the page yet."""
    said: list[str] = []
    seen = ReviewOptions(**{"reviewer": "anna"} | options)
    reviewed = ReviewedRun(run, seen, said.append, late)
    access, tokens = Access.of_address(listen), list[str]()
    access.on_token_used = tokens.append
    tokens.append(access.new_token())
    listening = bound_socket("127.0.0.1", 0)
    address = Address("127.0.0.1", listening.getsockname()[1])
    with serving(ReviewServer(reviewed, access), listening):
        yield Client(address.port, reviewed, access, said, tokens=tokens)
