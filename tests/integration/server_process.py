"""catdog serve as a process of its own, as a user starts it, on a free port of loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

START_S = 60.0


class ServerProcess:
    """Starts with the ``with`` block, ends with it by SIGTERM."""

    def __init__(
        self,
        log: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "catdog", "serve", "--port", "0"),
        cwd: Path | None = None,
    ) -> None:
        self._log = log
        self._command = [*command, *arguments]
        self._env = os.environ | dict(env or {})
        self._cwd = cwd

    def __enter__(self) -> ServerProcess:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, text=True, env=self._env, cwd=self._cwd
            )
        assert self.process.stdout is not None
        self.says = self.process.stdout.readline()
        assert self.says, self._log.read_text()
        self.url = self.says.split()[0]
        self.http = httpx.Client(base_url=self.url, timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def wait_ready(self) -> ServerProcess:
        end = time.monotonic() + START_S
        while self.http.get("/readyz").status_code != 200:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.02)
        return self

    def predict(self, body: bytes, kind: str = "image/png", **headers: str) -> httpx.Response:
        return self.http.post("/predict", content=body, headers={"Content-Type": kind} | headers)

    def log(self) -> list[dict[str, Any]]:
        """Its lines on stderr; each must be JSON."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def children(self) -> list[int]:
        """The processes below it, of the first generation and further ones, by age."""
        parents = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
        found, new = [], [self.process.pid]
        while new:
            new = [number for number, parent in parents.items() if parent in new]
            found += new
        return sorted(found)

    def decoders(self) -> list[int]:
        return [number for number in self.children() if "catdog.serving.decoding" in _command_line(number)]

    def memory(self) -> int:
        """Bytes that it and all below it hold alone (proportional set size)."""
        total = 0
        for number in (self.process.pid, *self.children()):
            fields = Path(f"/proc/{number}/smaps_rollup").read_text().split()
            total += int(fields[fields.index("Pss:") + 1]) * 1024
        return total


def stop(numbers: list[int]) -> None:
    """Halt the processes, and return once they are halted."""
    for number in numbers:
        os.kill(number, signal.SIGSTOP)
    while any(Path(f"/proc/{n}/stat").read_text().rpartition(")")[2].split()[0] != "T" for n in numbers):
        time.sleep(0.005)


def go_on(numbers: list[int]) -> None:
    for number in numbers:
        os.kill(number, signal.SIGCONT)


def wait_until(condition: Any, what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def _command_line(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
