"""The web server's application: routes around the one handler in ``catdog.serving.endpoint``.

A request's body is read, then it is let in (``admission``), and a thread answers it: photos are decoded in processes of
their own (``decoding``), the model runs in the thread, without Python's lock. What is said of it is in ``telemetry``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from importlib.resources import files
from types import FrameType
from typing import Final

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from catdog.detection.answers import NO_PET, Detection
from catdog.detection.models import Model, load_model
from catdog.errors import CatdogError
from catdog.machine import usable_cores
from catdog.prediction import Prediction
from catdog.serving import endpoint, open_inference, openapi, requests
from catdog.serving.admission import Gate, RefusedError
from catdog.serving.decoding import MOST_S, Decoders
from catdog.serving.limits import MAX_PIXELS
from catdog.serving.loading import warm_up
from catdog.serving.telemetry import App, Metrics, observe

SETTINGS: Final = "CATDOG_SERVE_SETTINGS"
"""Holds the settings as JSON for the processes of a server that has several."""
STARTUP_FAILURE: Final = 3  # a worker's exit code after which uvicorn starts no further one
_CLIENT_GONE: Final = 499  # nginx's; nobody reads it but the log
_HELD_BODIES: Final = 8  # of the largest size, at once
_PAGE_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Nothing from elsewhere, no script or style in the HTML itself; blob: shows photos that were not sent yet.
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How to serve."""

    model: str | None = None
    """As ``catdog.load`` takes it."""
    workers: int = 1
    """Processes of the server."""
    max_body: int = 32 * 2**20
    """Bytes of a request's body."""
    max_pixels: int = MAX_PIXELS
    """That a photo may hold while it is decoded."""
    max_waiting: int = 64
    """Requests that wait for a turn; one more gets a 429."""
    timeout_s: float = 30.0
    """For waiting and answering, once a request has arrived."""
    fast: bool = False
    """Whether to answer photos at the contract's smaller size where that is sure."""


Handle = Callable[[bytes, float], tuple[Response, Counter[str]]]
"""(body, seconds that are left) -> the response, and how many photos got which label."""


class Server:
    """What the routes share. It loads its model while it says that it is starting, unless there are several workers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.failure: CatdogError | None = None
        """Why the model could not be loaded."""
        self._cores = max(1, usable_cores() // settings.workers)
        most_bytes = _HELD_BODIES * settings.max_body
        self._gate = Gate(self._cores, settings.max_waiting, most_bytes)
        self._model: Model | None = None
        self._decoders: Decoders | None = None

    def make_app(self) -> App:
        """Return the ASGI application."""
        pages = _read_pages()
        routes = [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/invocations", self.predict, methods=["POST"]),
            Route("/ping", self.say_ready),
            Route("/healthz", self.say_alive),
            Route("/readyz", self.say_ready),
            Route("/metrics", self.show_metrics),
            Route("/openapi.json", _always(openapi.describe(self.settings.max_body), "application/json")),
            Route("/docs", _always(openapi.write_page(self.settings.max_body), "text/html")),
            Route("/v2", self.describe_server),
            Route("/v2/health/live", self.say_alive),
            Route("/v2/health/ready", self.say_ready),
            Route("/v2/models/catdog", self.describe_model),
            Route("/v2/models/catdog/ready", self.say_ready),
            Route("/v2/models/catdog/infer", self.infer, methods=["POST"]),
            *(Route(path, _always(body, kind)) for path, (body, kind) in pages.items()),
        ]
        app = Starlette(
            routes=routes,
            lifespan=self._live,
            exception_handlers={
                HTTPException: _say_http_error,
                RefusedError: _say_refused,
                ClientDisconnect: _say_nothing,
                Exception: _say_broken,
            },
        )
        app.router.redirect_slashes = False
        return observe(app, self.metrics, {route.path for route in routes})

    async def predict(self, request: Request) -> Response:
        """Answer photos as ``catdog predict`` or ``catdog detect`` does."""
        kind, accept = request.headers.get("content-type"), request.headers.get("accept")
        explains, formats = (request.query_params.getlist(name) for name in ("explain", "format"))

        def handle(body: bytes, left_s: float) -> tuple[Response, Counter[str]]:
            answers = self._answer(endpoint.read_request(body, kind, *explains, formats=formats), left_s)
            reply = endpoint.write_reply(answers, accept)
            return Response(reply.body, reply.status, media_type=reply.content_type), _tally(answers)

        return await self._let_in(request, handle)

    async def infer(self, request: Request) -> Response:
        """Answer a request of the Open Inference Protocol."""
        header_length = request.headers.get(open_inference.HEADER_LENGTH)

        def handle(body: bytes, left_s: float) -> tuple[Response, Counter[str]]:
            assert self._model is not None
            asked, photos = open_inference.read_request(body, header_length, self._model.task)
            answers = self._answer(photos, left_s)
            status, data, headers = open_inference.write_reply(asked, answers)
            return Response(data, status, headers), _tally(answers)

        return await self._let_in(request, handle)

    async def say_alive(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def say_ready(self, request: Request) -> Response:
        is_ready = self._gate.is_open and not self._gate.is_closing
        state = "ready" if is_ready else "ending" if self._gate.is_closing else "starting"
        return JSONResponse({"status": state}, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def show_metrics(self, request: Request) -> Response:
        text = await anyio.to_thread.run_sync(self.metrics.write)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def describe_server(self, request: Request) -> Response:
        return JSONResponse(open_inference.describe_server())

    async def describe_model(self, request: Request) -> Response:
        self._gate.check_open()
        assert self._model is not None
        return JSONResponse(open_inference.describe_model(self._model))

    async def _let_in(self, request: Request, handle: Handle) -> Response:
        with self.metrics.open.track_inprogress():
            async with self._gate.read_body(request, self.settings.max_body) as body:
                deadline = time.monotonic() + self.settings.timeout_s
                with self._gate.enter():
                    async with self._gate.work(deadline):
                        if await request.is_disconnected():
                            raise ClientDisconnect
                        response, told = await anyio.to_thread.run_sync(handle, body, deadline - time.monotonic())
        request.state.photos.update(told)
        return response

    def _answer(
        self, photos: requests.Request | endpoint.Refusal, left_s: float
    ) -> endpoint.Answers | endpoint.Refusal:
        assert self._model is not None
        assert self._decoders is not None
        return endpoint.answer_request(photos, self._model, left_s, self._decoders.load)

    @asynccontextmanager
    async def _live(self, app: Starlette) -> AsyncIterator[None]:
        restore = self._take_signals()
        loading = asyncio.create_task(self._open())
        try:
            if self.settings.workers > 1:
                await loading  # others answer meanwhile, and until then this one takes no connection from them
            yield
        finally:
            restore()
            loading.cancel()
            if self._decoders is not None:
                self._decoders.close()

    async def _open(self) -> None:
        """Load the model, then let requests in."""
        try:
            await anyio.to_thread.run_sync(self._load)
        except CatdogError as error:
            self.failure = error
            if self.settings.workers > 1:
                _log.error("the model could not be loaded: %s", error)
                os._exit(STARTUP_FAILURE)
            signal.raise_signal(signal.SIGTERM)  # then the command says it
        else:
            self._gate.is_open = True
            _log.info("ready")

    def _load(self) -> None:
        model = load_model(self.settings.model, threads=self._cores, fast=self.settings.fast)
        # No longer than half of the time that a request has: what then takes too long is the photo, not the server.
        most_s = min(MOST_S, self.settings.timeout_s / 2)
        self._decoders = Decoders(
            self._cores, model.contract, self.settings.max_pixels, self.metrics.decoders.inc, most_s
        )
        warm_up(model)
        self._model = model

    def _take_signals(self) -> Callable[[], None]:
        """Let the first SIGTERM or Ctrl-C close the gate, and reach uvicorn when those who are inside have left."""
        loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.getsignal(number) for number in numbers}

        async def end(number: int) -> None:
            while self._gate.count:
                await asyncio.sleep(0.02)
            pass_on(number, None)

        def pass_on(number: int, frame: FrameType | None) -> None:
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)

        def close(number: int, frame: FrameType | None) -> None:
            if self._gate.is_closing:
                pass_on(number, frame)
                return
            self._gate.is_closing = True
            if self.failure is None:
                _log.info("ending")
            loop.call_soon_threadsafe(lambda: loop.create_task(end(number)))

        def restore() -> None:
            for number in numbers:
                signal.signal(number, before[number])

        for number in numbers:
            signal.signal(number, close)
        return restore


def make_worker() -> App:
    """Return the application of one of several processes; its settings are in the environment."""
    from catdog.serving.telemetry import log_to_stderr

    log_to_stderr()
    return Server(Settings(**json.loads(os.environ[SETTINGS]))).make_app()


def write_settings(settings: Settings) -> str:
    """Return the text that ``make_worker`` reads."""
    return json.dumps(asdict(settings))


def _tally(answers: endpoint.Answers | endpoint.Refusal) -> Counter[str]:
    if isinstance(answers, endpoint.Refusal):
        return Counter()
    tally: Counter[str] = Counter()
    for row in answers.rows:
        tally.update([row.label or "error"] if isinstance(row, Prediction) else _list_labels(row))
    return tally


def _list_labels(row: Detection) -> list[str]:
    """What a photo counts as: a label for each head in it, or that it shows none or has no answer."""
    if row.objects is None:
        return ["error"]
    return [head.label for head in row.objects] or [NO_PET]


def _always(body: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    """Return a handler that always gives the same."""

    async def give(request: Request) -> Response:
        headers = {"Cache-Control": "no-cache"}
        if kind == "text/html":
            headers["Content-Security-Policy"] = _PAGE_POLICY
        return Response(body, media_type=kind, headers=headers)

    return give


def _read_pages() -> dict[str, tuple[bytes, str]]:
    """Return the page's files by path, each with its media type."""
    found = {}
    for file in files("catdog.serving").joinpath("page").iterdir():
        suffix = os.path.splitext(file.name)[1]  # noqa: PTH122
        if suffix in _PAGE_TYPES:
            found["/" if file.name == "index.html" else f"/{file.name}"] = (file.read_bytes(), _PAGE_TYPES[suffix])
    return found


async def _say_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _say_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse({"error": str(error)}, error.status, error.headers)


async def _say_nothing(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)


async def _say_broken(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed; its log says why"}, HTTPStatus.INTERNAL_SERVER_ERROR)
