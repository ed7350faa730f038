"""InvokeEndpoint on loopback, in front of a real serving container or of its functions called in this process.

    with RuntimeShim() as shim:
        shim.targets["catdog-a"] = forward("http://127.0.0.1:18080")    # the real toolkit, started by hand
        shim.targets["catdog-b"] = Handler(folder)                      # inference.py, called here
        shim.targets["catdog-c"] = Deployed(sagemaker, s3, "catdog-c", folder)  # so, with the model that is deployed
        shim.targets["catdog-d"] = Served(sagemaker, s3, "catdog-d", folder, python)  # and in the real toolkit
        os.environ["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] = shim.url

    python tests/integration/runtime_shim.py PORT NAME=http://127.0.0.1:18080 ...

Errors have SageMaker's shapes (moto's own invoke_endpoint gives canned text, and fails on bytes that aren't UTF-8).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import sys
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.integration.aws_on_loopback import QuietHandler

LIMIT_BYTES: Final = 6 * 2**20
TIMEOUT_S: Final = 60.0
ROUTE: Final = re.compile(r"/endpoints/([^/]+)/(async-)?invocations")
FAULTS: Final[dict[str, tuple[int, str, dict[str, Any]]]] = {
    "throttle": (400, "ThrottlingException", {"Message": "Rate exceeded"}),
    "unavailable": (503, "ServiceUnavailable", {"Message": "The service is unavailable."}),
    "not ready": (429, "ModelNotReadyException", {"Message": "The model is still being provisioned."}),
    "forbidden": (
        403,
        "AccessDeniedException",
        {"Message": "User: arn:aws:iam::123456789012:user/x is not authorized to perform: sagemaker:InvokeEndpoint"},
    ),
    "busy": (424, "ModelError", {"OriginalStatusCode": 503, "OriginalMessage": "Model queue full", "Message": "503"}),
    "broken": (424, "ModelError", {"OriginalStatusCode": 500, "OriginalMessage": "boom\ntrace", "Message": "500"}),
    "silent": (424, "ModelError", {"Message": "Invocation timed out"}),
}

Target = Callable[[bytes, str, str], tuple[int, bytes, str]]
"""Body, Content-Type, Accept -> status, body, media type: what a container does at /invocations."""


def forward(url: str) -> Target:
    """A container that listens at ``url``."""
    place = urlsplit(url)

    def invoke(body: bytes, content_type: str, accept: str) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=TIMEOUT_S)
        try:
            headers = {"Content-Type": content_type, "Accept": accept}
            connection.request("POST", "/invocations", body, {k: v for k, v in headers.items() if v})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers.get("Content-Type", "")
        finally:
            connection.close()

    return invoke


class Context:
    """The part of TorchServe's context that handlers use."""

    def __init__(self) -> None:
        self.system_properties: dict[str, Any] = {"gpu_id": None}
        self.status = 200

    def set_response_status(self, code: int = 200, phrase: str = "") -> None:
        self.status = code


class Handler:
    """inference.py of this tree, with the model in ``folder``, called as the toolkit calls it."""

    def __init__(self, folder: Path) -> None:
        import inference

        self._functions = inference
        self._model = inference.model_fn(str(folder), Context())

    def __call__(self, body: bytes, content_type: str, accept: str) -> tuple[int, bytes, str]:
        context = Context()
        request = self._functions.input_fn(body, content_type)
        answer, media_type = self._functions.output_fn(
            self._functions.predict_fn(request, self._model), accept, context
        )
        return context.status, answer, media_type


class Deployed:
    """Whatever serves the endpoint ``name`` now, in this process: its model is found as SageMaker finds it."""

    def __init__(self, sagemaker: Any, s3: Any, name: str, folder: Path) -> None:
        self._sagemaker, self._s3, self._name, self._folder = sagemaker, s3, name, folder
        self._handlers: dict[str, Handler] = {}
        self._lock = threading.Lock()

    def __call__(self, body: bytes, content_type: str, accept: str) -> tuple[int, bytes, str]:
        uri = container_of(self._sagemaker, self._name)["ModelDataUrl"]
        with self._lock:
            if uri not in self._handlers:
                self._handlers[uri] = Handler(fetch(self._s3, uri, self._folder / uuid.uuid4().hex))
            handler = self._handlers[uri]
        return handler(body, content_type, accept)


class Served:
    """The same in the real toolkit: TorchServe starts with the first request, anew after each update.

    ``with`` ends the servers. ``python``: toolkits.serving_python().
    """

    def __init__(self, sagemaker: Any, s3: Any, name: str, folder: Path, python: Path) -> None:
        self._sagemaker, self._s3, self._name, self._folder, self._python = sagemaker, s3, name, folder, python
        self._targets: dict[str, Target] = {}
        self._servers = contextlib.ExitStack()
        self._lock = threading.Lock()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()

    def __call__(self, body: bytes, content_type: str, accept: str) -> tuple[int, bytes, str]:
        container = container_of(self._sagemaker, self._name)
        with self._lock:
            if container["ModelDataUrl"] not in self._targets:
                self._targets[container["ModelDataUrl"]] = self._start(container)
            target = self._targets[container["ModelDataUrl"]]
        return target(body, content_type, accept)

    def _start(self, container: dict[str, Any]) -> Target:
        from tests.integration.toolkits import Serve

        folder = self._folder / uuid.uuid4().hex
        archive = download(self._s3, container["ModelDataUrl"], folder)
        # The toolkit's own default fits the folder that stands for /opt/ml here.
        env = {k: v for k, v in container["Environment"].items() if k != "SAGEMAKER_SUBMIT_DIRECTORY"}
        workers = int(env.get("SAGEMAKER_MODEL_SERVER_WORKERS", "1"))
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(Serve(self._python, archive, folder / "serve", env, workers))
            server.wait_ready()
            self._servers.push(stack.pop_all())
        return forward(server.url)


def container_of(sagemaker: Any, endpoint: str) -> dict[str, Any]:
    """The container that CreateModel was given for what serves an endpoint now: image, archive, variables."""
    config = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    variant = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"][0]
    found: dict[str, Any] = sagemaker.describe_model(ModelName=variant["ModelName"])["PrimaryContainer"]
    return found


def download(s3: Any, uri: str, folder: Path) -> Path:
    """A model.tar.gz in S3, as a file in the new ``folder``."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    folder.mkdir(parents=True)
    archive = folder / "model.tar.gz"
    archive.write_bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    return archive


def fetch(s3: Any, uri: str, folder: Path) -> Path:
    """A model.tar.gz in S3, unpacked in the new ``folder``."""
    with tarfile.open(download(s3, uri, folder)) as tar:
        tar.extractall(folder, filter="data")
    return folder


class RuntimeShim(ThreadingHTTPServer):
    """The server; ``with`` runs it in a thread."""

    daemon_threads = True

    def __init__(self, port: int = 0, s3: Any = None) -> None:
        """``s3``: a client, for asynchronous requests."""
        super().__init__(("127.0.0.1", port), _Request)
        self.targets: dict[str, Target] = {}
        self.faults: Iterator[str] = iter(())
        """What happens to the next requests instead: keys of FAULTS, "hang up", "late" (no answer), "" (nothing)."""
        self.asked: list[tuple[str, str, int]] = []
        """Endpoint, media type and size of each request."""
        self.s3 = s3
        self.answers_to: dict[str, str] = {}
        """s3:// prefix of an asynchronous endpoint's answers."""
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """For AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME, which goes before AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self, asked: tuple[str, str, int]) -> str:
        with self._lock:
            self.asked.append(asked)
            return next(self.faults, "")

    def __enter__(self) -> RuntimeShim:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Request(QuietHandler):
    server: RuntimeShim

    def do_POST(self) -> None:  # noqa: N802  http.server's name
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = ROUTE.fullmatch(self.path)
        name = str(found[1]) if found else ""
        headers = self.headers
        content_type = str(headers.get("X-Amzn-SageMaker-Content-Type") or headers.get("Content-Type") or "")
        fault = self.server.next_fault((name, content_type, len(body)))
        if fault == "hang up":
            self.close_connection = True
        elif fault in FAULTS:
            self.fail(*FAULTS[fault])
        elif name not in self.server.targets:
            self.fail(400, "ValidationError", {"Message": f"Endpoint {name} of account 123456789012 not found."})
        elif found and found[2]:
            self.later(name, content_type, fault == "late")
        elif len(body) > LIMIT_BYTES:
            self.fail(413, "ValidationError", {"Message": f"Request {len(body)} bytes exceeds the size limit."})
        else:
            self.now(name, body, content_type)

    def now(self, name: str, body: bytes, content_type: str) -> None:
        status, answer, media_type = self.invoke(name, body, content_type, self.headers.get("Accept", ""))
        if status == 200:
            self.answer(200, answer, media_type, {"x-Amzn-Invoked-Production-Variant": "AllTraffic"})
            return
        said = answer.decode("utf-8", "replace")
        whose = "client" if 400 <= status < 500 else "server"
        message = f'Received {whose} error ({status}) from primary with message "{said}".'
        details = {"OriginalStatusCode": status, "OriginalMessage": said, "LogStreamArn": "arn:aws:logs:local"}
        self.fail(424, "ModelError", {**details, "Message": message})

    def later(self, name: str, content_type: str, is_late: bool) -> None:
        place, number = self.server.answers_to[name].rstrip("/"), uuid.uuid4().hex
        source = self.headers["X-Amzn-SageMaker-InputLocation"]
        bucket, _, key = source.removeprefix("s3://").partition("/")
        body = self.server.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        status, answer, _ = self.invoke(name, body, content_type, self.headers.get("X-Amzn-SageMaker-Accept", ""))
        good, bad = f"{place}/answers/{number}.out", f"{place}/failures/{number}.out"
        bucket, _, key = (good if status == 200 else bad).removeprefix("s3://").partition("/")
        if not is_late:
            self.server.s3.put_object(Bucket=bucket, Key=key, Body=answer)
        places = {"X-Amzn-SageMaker-OutputLocation": good, "X-Amzn-SageMaker-FailureLocation": bad}
        self.answer(202, json.dumps({"InferenceId": number}).encode(), "application/json", places)

    def invoke(self, name: str, body: bytes, content_type: str, accept: str) -> tuple[int, bytes, str]:
        try:
            return self.server.targets[name](body, content_type, accept)
        except Exception as error:
            return 500, repr(error).encode(), "text/plain"

    def fail(self, status: int, code: str, details: dict[str, Any]) -> None:
        self.answer(status, json.dumps(details).encode(), "application/json", {"x-amzn-ErrorType": code})

    def answer(self, status: int, body: bytes, media_type: str, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        ours = {"Content-Type": media_type, "Content-Length": str(len(body)), "x-amzn-RequestId": str(uuid.uuid4())}
        for key, value in {**ours, **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    with RuntimeShim(int(sys.argv[1])) as running:
        running.targets.update({name: forward(url) for name, url in (a.split("=", 1) for a in sys.argv[2:])})
        threading.Event().wait()
