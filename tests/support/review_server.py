"""A server of the review page with made-up rows, which can be killed between two marks."""

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from aiohttp import web

from nightpress.pipelines.review import page

from . import review_rows

MOST_MARKS = 2000
"""In one request."""

DISTINCT_ATLASES = 2
"""Drawing them takes long; made-up runs use these again and again."""


class ReviewServer:
    """Serves one made-up run on loopback, and keeps the marks that it is given, in memory.

    `stop` ends it as a kill does: no request is answered any more. `start` takes the same port.
    """

    def __init__(self, rows: dict[str, Any]) -> None:
        self.rows = rows
        self.batches: dict[tuple[str, int], str] = {}
        """(session, n) -> the body of the batch."""
        self.others: list[dict[str, Any]] = []
        self.review: dict[str, Any] = {"policy": "any", "lead": None, "blind": False}
        """Marks of other reviewers, or earlier ones of this one, as `/api/marks` gives them."""
        self.refuse: tuple[int, str] | None = None
        """Status and words with which marks are refused."""
        self.rows_refused: tuple[int, str] | None = None
        """Status and words with which rows are refused."""
        self.unknown: set[str] = set()
        """Names of images that the run no longer has: marks on them are refused."""
        self.answers_lost = 0
        """So many batches are stored, and the connection is cut before the answer."""
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._numbers = {name: n for n, name in enumerate(rows["image_id"])}
        self._packed = gzip.compress(json.dumps(rows).encode(), 1)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Serve; on the port of last time, if there was one."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(20)

    def stop(self) -> None:
        """End at once."""
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def marks(self) -> dict[tuple[str, str], Any]:
        """(image_id, field) -> the value with the highest counter among all stored marks."""
        found: dict[tuple[str, str], tuple[int, Any]] = {}
        for body in self.batches.values():
            for mark in json.loads(body)["marks"]:
                key = (mark["image_id"], mark["field"])
                found[key] = max(found.get(key, (-1, None)), (mark["counter"], mark["value"]))
        return {key: value for key, (_, value) in found.items()}

    def _run(self, started: threading.Event) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._end(runner))
        self._loop.close()

    async def _end(self, runner: web.AppRunner) -> None:
        """Cut all connections, as a kill does; aiohttp alone would wait for some of them."""
        assert runner.server is not None
        for connection in list(runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        with suppress(TimeoutError):
            await asyncio.wait_for(runner.cleanup(), 2)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/assets/{name}", self._asset),
                web.get("/api/rows", self._rows),
                web.get("/api/marks", self._get_marks),
                web.post("/api/marks", self._post_marks),
                web.get("/api/facts/{name}", self._facts),
                web.get("/atlas/{name}.webp", self._atlas),
                web.get("/image/{name}", self._image),
                web.get("/input/{name}/{column}", self._image),
            ]
        )
        return app

    async def _page(self, _: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": page.SERVED_POLICY}
        return web.Response(text=page.served_page(), content_type="text/html", headers=headers)

    async def _asset(self, request: web.Request) -> web.Response:
        body, content_type = page.asset(request.match_info["name"])
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _rows(self, _: web.Request) -> web.Response:
        if self.rows_refused is not None:
            status, words = self.rows_refused
            return web.json_response({"error": words}, status=status)
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return web.Response(body=self._packed, headers=headers)

    async def _get_marks(self, _: web.Request) -> web.Response:
        mine = [
            {**mark, "reviewer": self.rows["run"]["reviewer"]}
            for body in self.batches.values()
            for mark in json.loads(body)["marks"]
        ]
        names = {mark["reviewer"] for mark in mine + self.others}
        return web.json_response(
            {"marks": mine + self.others, "reviewers": sorted(names), **self.review}
        )

    async def _post_marks(self, request: web.Request) -> web.Response:
        body = await request.text()
        sent = json.loads(body)
        if self.refuse is not None:
            status, words = self.refuse
            return web.json_response({"error": words}, status=status)
        unknown = self.unknown & {mark["image_id"] for mark in sent["marks"]}
        if unknown or len(sent["marks"]) > MOST_MARKS:
            words = f"the run has no image {min(unknown)}" if unknown else "too many marks"
            return web.json_response({"error": words}, status=400)
        key = (sent["session"], sent["n"])
        if self.batches.setdefault(key, body) != body:
            return web.json_response({"error": "other marks have this number"}, status=409)
        if self.answers_lost:
            self.answers_lost -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"stored": sent["n"]})

    async def _facts(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        facts = [["Image", name], ["Seed", 1234567], ["Model", "builtin"]]
        return web.json_response({"facts": facts, "job": f"manifest: one.csv  # {name}\n"})

    async def _atlas(self, request: web.Request) -> web.Response:
        number = int(request.match_info["name"]) % DISTINCT_ATLASES
        # Twelve atlases have whole turns of the sizes, so that thumbnails have their proportions.
        body = review_rows.atlas_file(number * 192 + int(request.match_info["name"]) * 64 % 192)
        headers = {"Content-Type": "image/webp", "Cache-Control": "public, max-age=31536000"}
        return web.Response(body=body, headers=headers)

    async def _image(self, request: web.Request) -> web.Response:
        number = self._numbers[request.match_info["name"]]
        if request.match_info.get("column"):
            number += 1
        body = review_rows.image_file(number % 768)
        return web.Response(body=body, headers={"Content-Type": "image/png"})


@contextmanager
def review_server(
    num_images: int, change: Callable[[dict[str, Any]], None] = lambda rows: None, **run: Any
) -> Iterator[ReviewServer]:
    """A started server of a run of so many images; `change` may alter the rows."""
    rows = review_rows.made_rows(num_images, **run)
    change(rows)
    server = ReviewServer(rows)
    server.start()
    try:
        yield server
    finally:
        server.stop()
