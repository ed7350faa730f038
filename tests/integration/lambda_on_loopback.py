"""AWS Lambda on loopback: a function in AWS's own runtime client, under a Runtime API of ours or AWS's emulator.

    with Served(task, env, folder) as function: function.invoke({"image": ...})
    with Emulated(task, env, folder) as function: ...

``task`` is the folder that Lambda has at /var/task. The function sees it, the runtime client and Python's own library,
and nothing else that is installed here, which stands for AWS's image.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import AbstractContextManager
from http.server import ThreadingHTTPServer
from importlib.metadata import files
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.integration.aws_on_loopback import QuietHandler

ROOT: Final = Path(__file__).parents[2]
HANDLER: Final = "catdog.serving.aws_lambda.handler"
SAM_VERSION: Final = "1.170.0"
EMULATOR: Final = "samcli/local/rapid/aws-lambda-rie-x86_64"
START_S: Final = 60.0
TIMEOUT_S: Final = 29
RUNTIME: Final = ("awslambdaric", "simplejson", "snapshot-restore-py")
_PREFIX: Final = "/2018-06-01/runtime/"


def fetch_emulator() -> Path:
    """AWS's Runtime Interface Emulator, out of aws-sam-cli's wheel; kept in build/ for the next time."""
    folder = ROOT / "build" / "rie" / SAM_VERSION
    binary = folder / Path(EMULATOR).name
    if not binary.is_file():
        # Downloaded, never installed: what it depends on is at odds with much else.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), f"aws-sam-cli=={SAM_VERSION}"], check=True)
        (wheel,) = folder.glob("aws_sam_cli-*.whl")
        written = binary.with_suffix(f".{os.getpid()}")
        written.write_bytes(zipfile.ZipFile(wheel).read(EMULATOR))
        written.chmod(0o755)
        written.replace(binary)
        wheel.unlink()
    return binary


def link_runtime(folder: Path) -> Path:
    """A folder with AWS's runtime client, as its image has it, and without what else is installed here."""
    folder.mkdir(exist_ok=True)
    for package in RUNTIME:
        for file in files(package) or ():
            target, source = folder / file.parts[0], Path(str(file.locate()))
            if not target.is_symlink() and file.parts[0] != "..":
                target.symlink_to(source if len(file.parts) == 1 else source.parents[len(file.parts) - 2])
    return folder


class Function(AbstractContextManager["Function"]):
    """A process that answers events; its output is in ``log``."""

    def __init__(self, task: Path, environment: dict[str, str], folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON", "CATDOG_"))}
        paths = f"{task}:{link_runtime(folder / 'runtime')}"
        self.environment = kept | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"} | environment
        self.log = folder / f"{type(self).__name__}.log"
        # Python itself, not that of a virtual environment, and without what is installed for it.
        python = getattr(sys, "_base_executable", sys.executable)
        self.command = [python, "-S", "-m", "awslambdaric", HANDLER]
        self.cwd = task

    def __enter__(self) -> Function:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=self.cwd, stdout=log, stderr=subprocess.STDOUT
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def invoke(self, event: Any) -> Any:
        """The response, or what Lambda says of a failure: errorType, errorMessage."""
        raise NotImplementedError


class Served(Function):
    """Under a Runtime API of ours."""

    def __init__(self, task: Path, environment: dict[str, str], folder: Path) -> None:
        super().__init__(task, environment, folder)
        self.api = _RuntimeApi()
        self.environment["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{self.api.server_port}"
        self._numbers = itertools.count()

    def __enter__(self) -> Served:
        self._thread = threading.Thread(target=self.api.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.started = time.perf_counter()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.api.events.put(None)
        self.api.shutdown()
        self._thread.join()
        self.api.server_close()

    def wait_ready(self) -> float:
        """Seconds from the process's start until it asked for its first event."""
        assert self.api.ready.wait(START_S), self.log.read_text()
        return self.api.ready_at - self.started

    def invoke(self, event: Any) -> Any:
        number = f"request-{next(self._numbers)}"
        self.api.events.put((number, json.dumps(event).encode()))
        answered, body = self.api.answers.get(timeout=TIMEOUT_S)
        assert answered == number
        return json.loads(body)


class Emulated(Function):
    """Under AWS's Runtime Interface Emulator, which starts the process at the first event."""

    def __init__(self, task: Path, environment: dict[str, str], folder: Path) -> None:
        super().__init__(task, environment, folder)
        self.port, api = (_free_port() for _ in range(2))
        self.environment["AWS_LAMBDA_FUNCTION_TIMEOUT"] = str(TIMEOUT_S)
        addresses = {"interface-emulator": self.port, "api": api}
        options = [
            word for name, port in addresses.items() for word in (f"--runtime-{name}-address", f"127.0.0.1:{port}")
        ]
        self.command = [str(fetch_emulator()), *options, *self.command]

    def __enter__(self) -> Emulated:
        super().__enter__()
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)
            else:
                return self

    def invoke(self, event: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        connection.request("POST", "/2015-03-31/functions/function/invocations", json.dumps(event))
        body = connection.getresponse().read()
        connection.close()
        return json.loads(body)


class _RuntimeApi(ThreadingHTTPServer):
    """What a runtime asks Lambda (docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), as far as ours does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.events: queue.Queue[tuple[str, bytes] | None] = queue.Queue()
        self.answers: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.ready = threading.Event()
        self.ready_at = 0.0
        self.asked: list[str] = []
        """Paths, in order, without those of invocations."""
        self.failure: queue.Queue[dict[str, Any]] = queue.Queue()
        """What the runtime says when it can't start."""


class _Answer(QuietHandler):
    server: _RuntimeApi

    def do_GET(self) -> None:  # noqa: N802  http.server's name
        if self.path == f"{_PREFIX}restore/next":
            self.server.asked.append("restore/next")
            self._send(200, b"")
            return
        assert self.path == f"{_PREFIX}invocation/next", self.path
        if not self.server.ready.is_set():
            self.server.ready_at = time.perf_counter()
            self.server.ready.set()
        event = self.server.events.get()
        if event is None:
            self.close_connection = True
            return
        deadline_ms = int((time.time() + TIMEOUT_S) * 1000)
        self._send(200, event[1], {"Aws-Request-Id": event[0], "Deadline-Ms": str(deadline_ms)})

    def do_POST(self) -> None:  # noqa: N802  http.server's name
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._read_chunks()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what = self.path.removeprefix(_PREFIX)
        self._send(202, b'{"status":"OK"}')
        if what.startswith("invocation/"):
            self.server.answers.put((what.split("/")[1], body))
        else:
            self.server.asked.append(what)
            self.server.failure.put(json.loads(body))

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(f"Lambda-Runtime-{name}", value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
