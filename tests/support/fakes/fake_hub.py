"""A model hub on loopback: repositories served from folders, with the real hub's routes."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class FakeHub(ThreadingHTTPServer):
    """Serves `repos` at the revisions `main` and `v1`, and records which files were fetched."""

    def __init__(self, repos: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos = repos
        self.fetched: dict[str, list[str]] = {repo: [] for repo in repos}
        self.failing: int | None = None
        """The HTTP status that every request gets, if it is set."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo: str) -> list[str]:
        root = self.repos[repo]
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


class Handler(BaseHTTPRequestHandler):
    server: FakeHub
    repo: str

    def log_message(self, *_args: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.server.failing is not None:
            self.send_response(self.server.failing)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path = self.path.partition("?")[0].lstrip("/")
        is_api, path = path.startswith("api/models/"), path.removeprefix("api/models/")
        self.repo = "/".join(path.split("/")[:2])
        rest = path.removeprefix(self.repo).lstrip("/")
        if self.repo not in self.server.repos:
            self._missing("RepoNotFound")
        elif not is_api:
            self._file(rest.split("/", 2)[2])
        elif rest.startswith("tree/"):
            self._json([self._tree_entry(file) for file in self.server.files(self.repo)])
        elif rest in ("", "revision/main", "revision/v1"):
            siblings = [{"rfilename": file} for file in self.server.files(self.repo)]
            self._json({"id": self.repo, "sha": COMMIT, "siblings": siblings})
        else:
            self._missing("RevisionNotFound")

    def _tree_entry(self, file: str) -> dict[str, object]:
        data = (self.server.repos[self.repo] / file).read_bytes()
        oid = hashlib.sha1(data).hexdigest()
        return {"type": "file", "path": file, "size": len(data), "oid": oid}

    def _file(self, file: str) -> None:
        if file not in self.server.files(self.repo):
            self._missing("EntryNotFound")
            return
        if self.command == "GET":
            self.server.fetched[self.repo].append(file)
        self._send((self.server.repos[self.repo] / file).read_bytes(), "application/octet-stream")

    def _json(self, values: object) -> None:
        self._send(json.dumps(values).encode(), "application/json")

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def serving(repos: Mapping[str, Path]) -> Iterator[FakeHub]:
    """Run a hub until the block ends."""
    hub = FakeHub(repos)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
