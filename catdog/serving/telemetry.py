"""What a server tells of itself: a request id in each reply, a log line and metrics of each request.

Nothing that a caller sent gets into them but the request id: no photos, no names, no addresses.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import sys
import time
import traceback
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

REQUEST_ID: Final = "X-Request-Id"
SHARED_METRICS: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder in which several processes of one server keep their metrics."""
_PROBES: Final = ("/ping", "/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")  # not logged
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_GOOD_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_EVERY_REPLY: Final = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_log = logging.getLogger("catdog.requests")


class Metrics:
    """The server's numbers, as Prometheus reads them."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = own = CollectorRegistry()
        labels = ("route", "method", "status")
        self.requests = Counter("catdog_requests", "Requests answered.", labels, registry=own)
        buckets = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
        self.seconds = Histogram("catdog_request_seconds", "Time to answer.", labels[:1], registry=own, buckets=buckets)
        self.photos = Counter("catdog_photos", "Photos answered, by label, or error.", ("label",), registry=own)
        self.decoders = Counter("catdog_decoders_replaced", "Decoders that a photo killed or stalled.", registry=own)
        self.open = Gauge(
            "catdog_requests_open",
            "Requests that are being sent, wait or are at work.",
            registry=own,
            multiprocess_mode="livesum",
        )

    def write(self) -> bytes:
        """Return all of them as text, those of the server's other processes included."""
        registry: Any = self._registry
        if folder := os.environ.get(SHARED_METRICS):
            for path in Path(folder).glob("gauge_live*_*.db"):
                number = path.stem.rpartition("_")[2]
                if not Path("/proc", number).exists():
                    multiprocess.mark_process_dead(number, folder)  # type: ignore[no-untyped-call]
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def observe(app: App, metrics: Metrics, routes: Collection[str]) -> App:
    """Return the application with ids, log lines and metrics. A path that is not in ``routes`` counts as "other"."""

    async def observed(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 0
        given = dict(scope["headers"]).get(REQUEST_ID.lower().encode(), b"").decode("latin-1")
        name = given if _GOOD_ID.fullmatch(given) else secrets.token_hex(8)
        told: Tally[str] = scope.setdefault("state", {}).setdefault("photos", Tally())

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID.lower().encode(), name.encode()), *_EVERY_REPLY]
            await send(message)

        failure: Exception | None = None
        try:
            await app(scope, receive, tell)
        except Exception as error:
            failure = error
        took = time.perf_counter() - begin
        route = scope["path"] if scope["path"] in routes else "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        metrics.requests.labels(route, method, str(status)).inc()
        metrics.seconds.labels(route).observe(took)
        for label, count in told.items():
            metrics.photos.labels(label).inc(count)
        if route in _PROBES and not failure:
            return
        line = {"id": name, "method": method, "route": route, "status": status, "ms": round(1000 * took, 1)}
        _log.log(
            logging.ERROR if failure else logging.INFO,
            "request",
            exc_info=failure,
            extra={"fields": line | ({"photos": dict(told)} if told else {})},
        )

    return observed


def log_to_stderr(as_json: bool | None = None) -> None:
    """Log lines to stderr: as JSON, in a terminal as text. Of errors only their kind and place are told."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line(not sys.stderr.isatty() if as_json is None else as_json))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # that it starts and ends is told by the server itself


class _Line(logging.Formatter):
    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            # Not its message, which may hold a photo's name.
            frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(record.exc_info[2])]
            line |= {"error": record.exc_info[0].__name__, "at": frames}
        if self._as_json:
            return json.dumps(line)
        return " ".join(str(value) for value in line.values())
