"""A server of Ray's Jobs API, over real HTTP, whose jobs a test runs by hand."""

import asyncio
import io
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


def nothing() -> None:
    """Do nothing."""


@dataclass
class JobsApi:
    """What the server knows, and how it behaves."""

    token: str | None = None
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    packages: dict[str, bytes] = field(default_factory=dict)
    started: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of the requests that have started jobs."""
    stopped: list[str] = field(default_factory=list)
    num_deaf: int = 0
    """How many requests to stop a job come before it has a process."""
    logs: list[tuple[str, ...]] = field(default_factory=list)
    """For each connection to a log, the pieces that it sends before it breaks."""
    has_logs: bool = True
    """Whether there are connections to logs, which some gateways do not let through."""
    num_cut: int = 0
    """How many of these connections stay open and silent instead of breaking."""
    on_log: Callable[[], None] = nothing
    """Called when a connection has sent its pieces."""
    on_state: Callable[[], None] = nothing
    """Called before each answer about a job."""
    silent: bool = False
    """Whether questions about a job are never answered."""
    url: str = ""

    def end(self, status: str, exit_code: int | None = None, message: str = "") -> None:
        """End every job."""
        for job in self.jobs.values():
            job.update(status=status, driver_exit_code=exit_code, message=message)

    def add(self, job_id: str, status: str = "RUNNING", entrypoint: str = "python") -> None:
        """Add a job."""
        self.jobs[job_id] = {
            "type": "SUBMISSION",
            "submission_id": job_id,
            "status": status,
            "entrypoint": entrypoint,
        }

    def files(self, number: int = -1) -> dict[str, bytes]:
        """The files of the working folder of a job that was started."""
        name = self.started[number]["runtime_env"]["working_dir"].rpartition("/")[2]
        with zipfile.ZipFile(io.BytesIO(self.packages[name])) as archive:
            return {each: archive.read(each) for each in archive.namelist() if each[-1] != "/"}

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._check_token], client_max_size=2**29)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/jobs/", self._list)
        app.router.add_post("/api/jobs/", self._start)
        app.router.add_get("/api/jobs/{id}", self._get)
        app.router.add_post("/api/jobs/{id}/stop", self._stop)
        app.router.add_get("/api/jobs/{id}/logs/tail", self._log)
        app.router.add_get("/api/packages/gcs/{name}", self._has_package)
        app.router.add_put("/api/packages/gcs/{name}", self._put_package)
        return app

    @web.middleware
    async def _check_token(self, request: web.Request, handler: Any) -> web.StreamResponse:
        sent = request.headers.get("Authorization")
        if self.token is not None and sent != f"Bearer {self.token}":
            return web.Response(status=401 if sent is None else 403, text="Unauthorized")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"ray_version": "2.60.0", "version": "4"})

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(list(self.jobs.values()))

    async def _start(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["submission_id"] in self.jobs:
            return web.Response(status=500, text="a job of this id exists")
        self.started.append(body)
        self.add(body["submission_id"], entrypoint=body["entrypoint"])
        return web.json_response({"submission_id": body["submission_id"], "job_id": "1"})

    async def _get(self, request: web.Request) -> web.Response:
        self.on_state()
        while self.silent:
            await asyncio.sleep(0.05)
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            return web.Response(status=404, text=f"Job {request.match_info['id']} does not exist")
        return web.json_response(job)

    async def _stop(self, request: web.Request) -> web.Response:
        self.num_deaf -= 1
        if self.num_deaf >= 0:
            return web.json_response({"stopped": False})
        self.stopped.append(request.match_info["id"])
        return web.json_response({"stopped": True})

    async def _log(self, request: web.Request) -> web.WebSocketResponse:
        if not self.has_logs:
            raise web.HTTPForbidden
        link = web.WebSocketResponse()
        await link.prepare(request)
        for piece in self.logs.pop(0) if self.logs else ():
            await link.send_str(piece)
        self.num_cut -= 1
        if self.num_cut >= 0:
            await link.receive()  # until the client leaves
            return link
        self.on_log()
        return link

    async def _has_package(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self.packages else 404)

    async def _put_package(self, request: web.Request) -> web.Response:
        self.packages[request.match_info["name"]] = await request.read()
        return web.Response()


@contextmanager
def jobs_api(
    token: str | None = None, certificate: ssl.SSLContext | None = None
) -> Iterator[JobsApi]:
    """Serve the API on a free port of this machine, by TLS if there is a certificate."""
    api = JobsApi(token)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(api.app(), shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificate)
        await site.start()
        api.url = f"http{'s' if certificate else ''}://127.0.0.1:{runner.addresses[0][1]}"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield api
    finally:
        api.silent = False
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(10)  # links close
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
