"""The HTTP server of the review page: what it answers to whom."""

import asyncio
import gzip
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import quote

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from nightpress.jobs.reviews.access import HEADERS, Access, Handler, Refused, shown
from nightpress.jobs.reviews.inputs import InputPictures
from nightpress.jobs.reviews.reviewed_run import ReviewedRun
from nightpress.pipelines.errors import ImageNotFound, StoreError
from nightpress.pipelines.review import page
from nightpress.pipelines.review.facts import fact_sheet
from nightpress.pipelines.review.rows import MEDIA_TYPES
from nightpress.pipelines.storage import READ_THREADS

MOST_BYTES = 2 << 20
"""Largest body of a request, in bytes."""

BODY_S = 30.0
"""Seconds that the body of a request may take."""

LIMITS: dict[str, Any] = {"auto_decompress": False, "shutdown_timeout": 5.0}
"""The page sends nothing packed; what is, would be unpacked before it is known who sends it."""

KEPT = "private, max-age=31536000, immutable"
ASKED_AGAIN = "private, no-cache"
NEVER_KEPT = "no-store"

T = TypeVar("T")


class ReviewServer:
    """Answers the requests of the review page.

    Args:
        reviewed: the run.
        access: who may ask.
    """

    def __init__(self, reviewed: ReviewedRun, access: Access) -> None:
        self._reviewed, self._access = reviewed, access
        self._inputs = InputPictures(reviewed.run)
        self._pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="review")
        self._media_type = MEDIA_TYPES[reviewed.run.spec.images.format]

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BYTES)
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/", self._page)
        app.router.add_get("/assets/{name}", self._asset)
        app.router.add_get("/atlas/{name}", self._atlas)
        app.router.add_get("/image/{image_id}", self._image)
        app.router.add_get("/input/{image_id}/{column}", self._input)
        app.router.add_get("/api/rows", self._rows)
        app.router.add_get("/api/thumbs", self._thumbs)
        app.router.add_get("/api/facts/{image_id}", self._facts)
        app.router.add_get("/api/marks", self._marks)
        app.router.add_post("/api/marks", self._add_marks)
        return app

    def close(self) -> None:
        """Finish the requests that threads are working on."""
        self._pool.shutdown()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer only whom may be answered, and every error with one sentence."""
        try:
            if request.path == "/" and "token" in request.query:
                return self._access.open(request)
            self._access.require(request)
            return await handler(request)
        except Refused as refused:
            return _error(refused.status, refused.message)
        except web.HTTPRequestEntityTooLarge:
            return _error(413, f"more than {MOST_BYTES:,} bytes were sent")
        except web.HTTPException as error:
            return _error(error.status, (error.reason or "not answered").lower())
        except StoreError as error:
            return _error(503, f"the store does not answer: {error}")

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(function, *arguments))

    async def _page(self, request: web.Request) -> web.Response:
        return _answer(page.served_page().encode(), "text/html; charset=utf-8")

    async def _asset(self, request: web.Request) -> web.Response:
        try:
            data, content_type = page.asset(request.match_info["name"])
        except KeyError:
            raise Refused(404, "there is no such file") from None
        return _tagged(request, data, content_type)

    async def _rows(self, request: web.Request) -> web.Response:
        body = await self._in_thread(self._reviewed.rows_body)
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return _answer(await self._in_thread(gzip.decompress, body), "application/json")
        response = _answer(body, "application/json")
        response.headers["Content-Encoding"] = "gzip"
        return response

    async def _thumbs(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) < 10):
            raise Refused(400, f"after: must be a number of atlases, not {shown(after)}")
        return _answer(self._reviewed.thumbs_body(int(after)), "application/json")

    async def _atlas(self, request: web.Request) -> web.Response:
        data = await self._in_thread(self._reviewed.atlas, request.match_info["name"])
        return _answer(data, "image/webp", KEPT)

    async def _image(self, request: web.Request) -> web.Response:
        image_id, wanted = request.match_info["image_id"], request.query.get("v")
        digest = await self._in_thread(self._reviewed.sha256_of, image_id)
        if wanted not in (None, digest):
            raise Refused(404, "the image was made again since; reload the page")
        kept = ASKED_AGAIN if wanted is None else KEPT
        if _is_known(request, digest):
            return _unchanged(digest, kept)
        picture = await self._in_thread(self._reviewed.picture, image_id)
        response = _answer(picture.data, self._media_type, kept)
        response.headers["ETag"] = f'"{picture.sha256}"'
        return response

    async def _input(self, request: web.Request) -> web.Response:
        names = request.match_info["image_id"], request.match_info["column"]
        await self._in_thread(self._reviewed.sha256_of, names[0])
        data = await self._in_thread(self._inputs.png, *names)
        return _answer(data, "image/png", ASKED_AGAIN)

    async def _facts(self, request: web.Request) -> web.Response:
        run, image_id = self._reviewed.run, request.match_info["image_id"]
        await self._in_thread(self._reviewed.sha256_of, image_id)
        try:
            sheet = await self._in_thread(fact_sheet, run, image_id)
        except ImageNotFound as error:
            raise Refused(404, str(error)) from error
        return _json_answer({"facts": [list(each) for each in sheet.facts], "job": sheet.job})

    async def _marks(self, request: web.Request) -> web.Response:
        await self._in_thread(self._reviewed.refresh_marks)
        body = await self._in_thread(self._reviewed.marks_body)
        return _tagged(request, body, "application/json")

    async def _add_marks(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise Refused(415, "marks are sent as application/json")
        data = await _body(request)
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            raise Refused(400, "marks are sent as JSON, and this is not JSON") from None
        num_marks = await self._in_thread(self._reviewed.add_marks, values)
        return _json_answer({"stored": num_marks})


async def _body(request: web.Request) -> bytes:
    """The body of a request, which must come within `BODY_S`."""
    try:
        return await asyncio.wait_for(request.read(), BODY_S)
    except TimeoutError:
        raise Refused(408, f"the request was not sent whole within {BODY_S:.0f} s") from None
    except ConnectionResetError:
        raise Refused(400, "the connection was cut") from None  # nobody reads it


class _OwnFaults(logging.Filter):
    """Keeps faults of this server in the log, and no requests that are not HTTP."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError | ConnectionError)


def _log() -> logging.Logger:
    log = logging.getLogger("nightpress.review")
    if not log.filters:
        log.addFilter(_OwnFaults())
    return log


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", NEVER_KEPT)


def _answer(data: bytes, content_type: str, kept: str = NEVER_KEPT) -> web.Response:
    headers = {"Content-Type": content_type, "Cache-Control": kept}
    return web.Response(body=data, headers=headers)


def _json_answer(values: object) -> web.Response:
    return _answer(json.dumps(values, ensure_ascii=False).encode(), "application/json")


def _error(status: int, message: str) -> web.Response:
    body = json.dumps({"error": message}).encode()
    headers = {"Content-Type": "application/json", "Cache-Control": NEVER_KEPT}
    return web.Response(status=status, body=body, headers=headers)


def _tagged(request: web.Request, data: bytes, content_type: str) -> web.Response:
    """An answer that a browser keeps, and asks for again with its tag."""
    digest = sha256(data).hexdigest()[:32]
    if _is_known(request, digest):
        return _unchanged(digest, ASKED_AGAIN)
    response = _answer(data, content_type, ASKED_AGAIN)
    response.headers["ETag"] = f'"{digest}"'
    return response


def _is_known(request: web.Request, digest: str) -> bool:
    return f'"{digest}"' in request.headers.get("If-None-Match", "")


def _unchanged(digest: str, kept: str) -> web.Response:
    return web.Response(status=304, headers={"ETag": f'"{digest}"', "Cache-Control": kept})


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    """As it stands in a URL."""
    port: int

    def url(self, token: str) -> str:
        """The address that opens the page once."""
        return f"http://{self.host}:{self.port}/?token={quote(token)}"


def bound_socket(address: str, port: int) -> socket.socket:
    """A socket that listens at an address and port; port 0 is any that is free.

    Raises:
        OSError: the port is taken, or there is no such address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((address, port))
        found.listen(128)
    except OSError:
        found.close()
        raise
    return found


@contextmanager
def serving(server: ReviewServer, listening: socket.socket) -> Iterator[None]:
    """Answer requests in a thread until the block ends; those under way are finished."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    ended: asyncio.Event | None = None
    errors: list[BaseException] = []

    async def serve() -> None:
        nonlocal ended
        ended = asyncio.Event()
        runner = web.AppRunner(server.app(), access_log=None, logger=_log(), **LIMITS)
        try:
            await runner.setup()
            await web.SockSite(runner, listening).start()
            started.set()
            await ended.wait()
        finally:
            await runner.cleanup()

    def run(work: Callable[[], Awaitable[None]]) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(work())
        except BaseException as error:
            errors.append(error)
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=run, args=(serve,), name="review")
    thread.start()
    started.wait()
    try:
        if errors:
            raise errors[0]
        yield
    finally:
        if not errors and ended is not None:
            loop.call_soon_threadsafe(ended.set)
        thread.join()
        server.close()
