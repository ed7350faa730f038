"""A real S3 server (moto) in a process of its own, and a proxy before it that fails on purpose."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer

from catdog.image import MAX_BYTES
from tests.integration.aws_on_loopback import QuietHandler

ANSWERS = {
    "slow": (503, "SlowDown", "Please reduce your request rate."),
    "broken": (500, "InternalError", "We encountered an internal error."),
    "forbidden": (403, "AccessDenied", "Access Denied"),
    "archived": (403, "InvalidObjectState", "The operation is not valid for the object's storage class"),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "elsewhere": (400, "IllegalLocationConstraintException", "The constraint is incompatible."),
}
STALL_S = 300.0  # or until the test is over


class Forward(QuietHandler):
    """Hands each request on to the server behind, or does to it what the plan says."""

    server: Proxy

    def do_any(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.next_fault(f"{self.command} {self.path}", self.headers.get("Range", ""))
        if fault == "stall":
            self.server.released.wait(STALL_S)
            self.close_connection = True
        elif fault == "hang up":
            self.close_connection = True
        elif fault == "huge":
            self.answer(200, {"Content-Length": str(MAX_BYTES + 1), "ETag": '"x"'}, b"")
        elif fault in ANSWERS:
            status, code, message = ANSWERS[fault]
            body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            self.answer(status, {"Content-Length": str(len(body))}, body)
        else:
            self.hand_on(sent, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

    def hand_on(self, sent: bytes, fault: str) -> None:
        headers = {k: v for k, v in self.headers.items() if not (fault == "ignore range" and k == "Range")}
        headers = self.server.translate(headers)
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        behind.request(self.command, self.path, sent, headers)
        got = behind.getresponse()
        body = got.read()
        behind.close()
        kept = {k: v for k, v in got.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
        if fault == "cut":
            body = body[: len(body) // 2]
        elif fault == "damage":
            body = body[:-1] + bytes([body[-1] ^ 1])
        elif fault == "lose answer":
            self.close_connection = True
            return
        self.answer(got.status, kept, body[:10] if fault == "stall in body" else body)
        if fault == "stall in body":
            self.wfile.flush()
            self.server.released.wait(STALL_S)
            self.close_connection = True
        self.close_connection |= fault == "cut"

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in {name.title() for name in headers}:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Forward)
        self.behind = behind
        self.plans: dict[str, Iterator[str]] = {}
        """By a part of "METHOD /path?query": what happens to the requests that hold it, one after the other."""
        self.translate: Callable[[dict[str, str]], dict[str, str]] = dict
        """What a request's headers become on their way to the server."""
        self.seen: list[tuple[str, str]] = []
        self.released = threading.Event()
        """Set when what stalls may end."""
        self._lock = threading.Lock()

    def next_fault(self, request: str, byte_range: str) -> str:
        with self._lock:
            self.seen.append((request, byte_range))
            return next((next(plan, "") for part, plan in self.plans.items() if part in request), "")
