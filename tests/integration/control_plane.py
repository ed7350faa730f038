"""AWS's control plane on loopback: moto in a process of its own, behind a proxy that fails on purpose.

    with ControlPlane(port_of_moto) as plane:
        plane.faults["CreateEndpoint"] = iter(["throttle", "refuse"])
        plane.states["catdog-x"] = iter([{"EndpointStatus": "Creating"}])

The proxy also does what moto 5.2 doesn't: UpdateEndpoint, and to refuse a name that is taken.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any, Final

from tests.integration.aws_on_loopback import QuietHandler, moto_server

FAULTS: Final = {
    "throttle": (400, "ThrottlingException", "Rate exceeded"),
    "error": (500, "InternalFailure", "An internal failure occurred."),
    "quota": (400, "ResourceLimitExceeded", "The account-level service limit is 0 Instances."),
    "missing": (400, "ValidationException", 'Could not find endpoint "arn:aws:sagemaker:::x".'),
    "refuse": (
        400,
        "AccessDeniedException",
        "User: arn:aws:iam::123456789012:user/x is not authorized to perform: sagemaker:It on resource: y",
    ),
}
KINDS: Final = ("Model", "EndpointConfig", "Endpoint", "TransformJob")
Headers = dict[str, str]


class ControlPlane(ThreadingHTTPServer):
    """The proxy; ``with`` runs it in a thread."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.behind = behind
        self.faults: dict[str, Iterator[str]] = {}
        """By operation ("CreateModel", "PUT /bucket/..."): what happens to its requests, one after the other.

        A key of FAULTS, "hang up" (nothing is done), "lose answer" (it is done), "" (nothing special).
        """
        self.states: dict[str, Iterator[dict[str, Any]]] = {}
        """By the name of an endpoint or a job: what Describe... says differently, one answer after the other."""
        self.on_done: Callable[[str, dict[str, Any]], None] = lambda operation, asked: None
        """Called with what SageMaker has granted, before the answer: operation and parameters."""
        self.seen: list[str] = []
        self.taken: set[tuple[str, str]] = set()
        """Kind and name of what was made and not deleted."""
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """For AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def reset(self) -> None:
        """Forget plans and what was seen."""
        self.faults.clear()
        self.states.clear()
        self.seen.clear()

    def next_fault(self, operation: str) -> str:
        with self._lock:
            self.seen.append(operation)
            return next(self.faults.get(operation, iter(())), "")

    def __enter__(self) -> ControlPlane:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Request(QuietHandler):
    server: ControlPlane

    def do_any(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = self.headers.get("X-Amz-Target", "")
        operation = target.rpartition(".")[2] or f"{self.command} {self.path.partition('?')[0]}"
        fault = self.server.next_fault(operation)
        if fault == "hang up":
            self.close_connection = True
        elif fault in FAULTS:
            status, code, message = FAULTS[fault]
            body = json.dumps({"__type": code, "message": message}).encode()
            self.answer(status, {"Content-Type": "application/x-amz-json-1.1"}, body)
        elif taken := self.refusal(operation, sent):
            body = json.dumps({"__type": "ValidationException", "message": taken}).encode()
            self.answer(400, {"Content-Type": "application/x-amz-json-1.1"}, body)
        else:
            status, headers, body = self.update(sent) if operation == "UpdateEndpoint" else self.ask(sent)
            self.note(operation, sent, status)
            if operation.startswith("Describe") and status == 200:
                body = self.disguised(operation.removeprefix("Describe"), sent, body)
            if fault == "lose answer":
                self.close_connection = True
            else:
                self.answer(status, headers, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

    def ask(self, sent: bytes, operation: str | None = None) -> tuple[int, Headers, bytes]:
        """Hand a request on to moto, or another one of the same service."""
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        if operation:
            headers |= {"X-Amz-Target": f"SageMaker.{operation}", "Content-Length": str(len(sent))}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        try:
            connection.request(self.command, self.path, sent, headers)
            got = connection.getresponse()
            kept = {k: v for k, v in got.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
            return got.status, kept, got.read()
        finally:
            connection.close()

    def refusal(self, operation: str, sent: bytes) -> str:
        """What SageMaker says when a name is taken, where moto would replace what has it."""
        kind = operation.removeprefix("Create")
        if kind not in KINDS or (kind, json.loads(sent)[f"{kind}Name"]) not in self.server.taken:
            return ""
        return f'Cannot create already existing {kind.lower()} "arn:aws:sagemaker:::{json.loads(sent)[f"{kind}Name"]}".'

    def note(self, operation: str, sent: bytes, status: int) -> None:
        for kind in KINDS if status == 200 else ():
            if operation == f"Create{kind}":
                self.server.taken.add((kind, json.loads(sent)[f"{kind}Name"]))
            elif operation == f"Delete{kind}":
                self.server.taken.discard((kind, json.loads(sent)[f"{kind}Name"]))
        if status == 200 and self.headers.get("X-Amz-Target", "").startswith("SageMaker."):
            self.server.on_done(operation, json.loads(sent))

    def update(self, sent: bytes) -> tuple[int, Headers, bytes]:
        """UpdateEndpoint, as far as it can be seen: the endpoint serves the new config and keeps its tags."""
        asked = json.loads(sent)
        name = {"EndpointName": asked["EndpointName"]}
        status, headers, body = self.ask(json.dumps(name).encode(), "DescribeEndpoint")
        if status != 200:
            return status, headers, body
        arn = json.loads(body)["EndpointArn"]
        tags = json.loads(self.ask(json.dumps({"ResourceArn": arn}).encode(), "ListTags")[2])["Tags"]
        self.ask(json.dumps(name).encode(), "DeleteEndpoint")
        made = {**name, "EndpointConfigName": asked["EndpointConfigName"], "Tags": tags}
        return self.ask(json.dumps(made).encode(), "CreateEndpoint")

    def disguised(self, kind: str, sent: bytes, body: bytes) -> bytes:
        state = next(self.server.states.get(json.loads(sent).get(f"{kind}Name"), iter(())), {})
        return json.dumps({**json.loads(body), **state}).encode()

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.title() != "Content-Length":
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)


if __name__ == "__main__":
    with moto_server() as port, ControlPlane(port) as running:
        sys.stdout.write(f"{running.url}\n")
        sys.stdout.flush()
        threading.Event().wait()
