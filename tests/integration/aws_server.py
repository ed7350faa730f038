"""A proxy before moto that notes what AWS is asked, and can answer in its place: refusals, failures, slow jobs."""

from __future__ import annotations

import http.client
import json
import threading
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from tests.integration.aws_on_loopback import QuietHandler


class _Forward(QuietHandler):
    server: Cloud

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation = self._operation(body)
        reply = self.server.note(operation, self._parameters(body))
        if reply is not None:
            status, answer = reply
            self._answer(status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer).encode())
            return
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        behind.request(self.command, self.path, body, dict(self.headers.items()))
        got = behind.getresponse()
        data = got.read()
        behind.close()
        dropped = ("transfer-encoding", "connection", "content-length")
        headers = {name: value for name, value in got.getheaders() if name.lower() not in dropped}
        if self.command == "HEAD":
            headers["Content-Length"] = got.headers.get("Content-Length", "0")
        self._answer(got.status, headers, data)

    def do_CONNECT(self) -> None:  # noqa: N802  http.server's name
        """The environment names this proxy for all other hosts: what would go to AWS is noted, and all is refused.

        Only AWS, since ONNX Runtime calls home, too, where another test of the same process has loaded it.
        """
        if "amazonaws" in self.path:
            self.server.note(f"CONNECT {self.path}", None)
        self._answer(502, {}, b"")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

    def _operation(self, body: bytes) -> str:
        if target := self.headers.get("X-Amz-Target"):
            return target.rpartition(".")[2]
        if self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            return parse_qs(body.decode())["Action"][0]
        return f"{self.command} {self.path}"

    def _parameters(self, body: bytes) -> Any:
        if self.headers.get("X-Amz-Target"):
            return json.loads(body)
        return {name.lower(): value for name, value in self.headers.items()}

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)


class Cloud(ThreadingHTTPServer):
    """The proxy; everything passes until a test puts an answer into ``replies``."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.behind = behind
        self.seen: list[tuple[str, Any]] = []
        """Operation (``CreateTrainingJob``; of S3 ``PUT /bucket/key``) and its parameters (of S3 the headers)."""
        self.replies: dict[str, list[tuple[int, Any]]] = {}
        """By operation: status and body of the next answers."""
        self._lock = threading.Lock()

    def note(self, operation: str, parameters: Any) -> tuple[int, Any] | None:
        """Remember a request; the answer that a test has for it, if any."""
        with self._lock:
            self.seen.append((operation, parameters))
            waiting = self.replies.get(operation)
            return waiting.pop(0) if waiting else None

    def refuse(self, operation: str, code: str, message: str, times: int = 1, status: int = 400) -> None:
        """Answer the next ``times`` requests with an error, as AWS's JSON services have it."""
        self.replies[operation] = [(status, {"__type": code, "message": message})] * times

    def asked(self, operation: str) -> list[Any]:
        """The parameters of all requests for ``operation``, in order."""
        return [parameters for name, parameters in self.seen if name == operation]
