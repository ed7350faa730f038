"""SageMaker's own toolkits on loopback: an environment that has them, and the model server started in it.

    with Serve(serving_python(), Path("model.tar.gz"), tmp_path) as server:
        server.wait_ready()
        server.post(data, "image/jpeg")         # Answer(status, content_type, body)

Environments are made once, under build/toolkits, from the package index; later tests find them there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import signal
import site
import socket
import subprocess
import sys
import tarfile
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / "build" / "toolkits"
# What the container has (PyTorch inference 2.6.0, py312), as far as the index has it. pyyaml: TorchServe needs it and
# doesn't say so; without it every request hangs. setuptools: the toolkit imports pkg_resources.
SERVING: Final = ("sagemaker-pytorch-inference==2.0.25", "torchserve==0.12.0", "pyyaml", "setuptools<81", "wheel")
LAUNCHER: Final = Path(__file__).with_name("serve_on_loopback.py")
START_S: Final = 60.0
STOP_S: Final = 20.0


class Answer(NamedTuple):
    """What the server said."""

    status: int
    content_type: str
    body: bytes


def serving_python() -> Path:
    """A Python with the serving toolkit, torch and catdog's packages; skips the test where it can't be had."""
    if shutil.which("java") is None:
        pytest.skip("TorchServe needs Java, which is not here (Debian: apt-get install default-jre-headless)")
    return environment("serving", SERVING)


def environment(name: str, requirements: Sequence[str]) -> Path:
    """The Python of an environment with pinned packages, made on first use; it sees this Python's packages, too.

    So torch, of several GB, need not be there twice. Skips the test where the index can't be reached.
    """
    parents = [path for path in sys.path if path.endswith("site-packages")] or site.getsitepackages()
    key = hashlib.sha256("\n".join([sys.version, *requirements, *parents]).encode()).hexdigest()[:8]
    folder = CACHE / f"{name}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once make it once
        python = folder / "bin" / "python"
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True, symlinks=True)
            site_packages = next((folder / "lib").glob("python*/site-packages"))
            lines = [f"import site; site.addsitedir({path!r})" for path in parents]
            (site_packages / "parent.pth").write_text("\n".join(lines) + "\n")
            # The toolkits come as sources that build with the setuptools here, not with the newest.
            for step in ([r for r in requirements if r.startswith(("setuptools", "wheel"))], requirements):
                command = [str(python), "-m", "pip", "install", "--quiet", "--no-build-isolation", *step]
                done = subprocess.run(command, capture_output=True, text=True, timeout=600)
                if done.returncode:
                    pytest.skip(f"pip could not install {', '.join(step)}: {done.stderr.strip()[-300:]}")
            (folder / "made").touch()
    return python


class Serve:
    """The real ``serve`` of the toolkit with one ``model.tar.gz``, unpacked as SageMaker does it."""

    def __init__(
        self,
        python: Path,
        model: Path,
        folder: Path,
        env: Mapping[str, str] | None = None,
        workers: int = 1,
        start: bool = True,
    ) -> None:
        """``folder``: for all that it writes. ``env``: variables of the endpoint. ``start``: at once when entered."""
        self._python, self._folder, self._workers, self._env = python, folder, workers, dict(env or {})
        self._start_at_once = start
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "base/model").mkdir(parents=True)
        (folder / "tmp").mkdir()
        with tarfile.open(model) as archive:
            archive.extractall(folder / "base/model", filter="data")

    def __enter__(self) -> Serve:
        if self._start_at_once:
            self.start()
        return self

    def start(self) -> None:
        """Start the server, which then takes some seconds."""
        foreign = ("TS_", "SAGEMAKER_", "AWS_", "CATDOG_")
        address = f"http://127.0.0.1:{self.port}"
        environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
            "PATH": f"{self._python.parent}:{os.environ['PATH']}",
            "SAGEMAKER_BASE_DIR": str(self._folder / "base"),
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "SAGEMAKER_MODEL_SERVER_WORKERS": str(self._workers),
            "TS_INFERENCE_ADDRESS": address,  # else it would listen to the whole network
            "TS_MANAGEMENT_ADDRESS": address,
            "TS_METRICS_ADDRESS": f"http://127.0.0.1:{free_port()}",
            "TS_GRPC_INFERENCE_PORT": str(free_port()),
            "TS_GRPC_MANAGEMENT_PORT": str(free_port()),
            "TS_DISABLE_SYSTEM_METRICS": "true",
            "TMPDIR": str(self._folder / "tmp"),
            "TEMP": str(self._folder / "tmp"),
            "CATDOG_TEST_TS_CONFIG": str(self._folder / "ts.properties"),
            # All that code/requirements.txt asks for is in the environment: the network isn't needed, and not used.
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        environ.pop("PYTHONPATH", None)  # the archive's own code must be enough
        with (self._folder / "serve.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(self._python), str(LAUNCHER)],
                cwd=self._folder,
                env=environ | self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        with contextlib.suppress(ProcessLookupError):  # one that died early leaves Java behind, in its own group
            os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        """The process above all others of the server, once it is started."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """All that the server and its workers have said."""
        return (self._folder / "serve.log").read_text(errors="replace")

    def workers(self) -> list[dict[str, Any]]:
        """TorchServe's word on its workers: id, status, pid, ...; none while it starts."""
        try:
            answer = self.request("GET", "/models/model", timeout=5)
        except OSError:
            return []
        return list(json.loads(answer.body)[0].get("workers", [])) if answer.status == 200 else []

    def wait_ready(self, timeout: float = START_S) -> None:
        """Until all workers have loaded the model: /ping says 200 long before."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            found = self.workers()
            if len(found) == self._workers and all(worker["status"] == "READY" for worker in found):
                return
            time.sleep(0.1)
        raise TimeoutError(f"not ready after {timeout} s:\n{self.log()[-5000:]}")

    def wait_logged(self, text: str, timeout: float = START_S) -> str:
        """The line of the log that holds ``text``, as soon as there is one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := [line for line in self.log().splitlines() if text in line]:
                return found[0]
            time.sleep(0.1)
        raise TimeoutError(f"{text!r} isn't in the log after {timeout} s:\n{self.log()[-5000:]}")

    def post(self, body: bytes, content_type: str | None, accept: str | None = None, path: str = "") -> Answer:
        """POST /invocations; ``path`` goes behind it."""
        headers = {} if content_type is None else {"Content-Type": content_type}
        headers |= {} if accept is None else {"Accept": accept}
        return self.request("POST", f"/invocations{path}", body, headers)

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Answer:
        """One request on a connection of its own; raises OSError where there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers.get("Content-Type") or "", response.read())
        except http.client.HTTPException as error:
            raise ConnectionError(repr(error)) from error
        finally:
            connection.close()


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
