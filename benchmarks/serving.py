"""The endpoint under load, in SageMaker's serving toolkit on loopback, beside the toolkit's default handler.

    python -m benchmarks.serving RUN PHOTOS [--seconds 6] [--mixed 2000]

RUN: a ResNet-18's run folder with model.safetensors and model-int8.onnx (or model.onnx). PHOTOS: a folder or .zip of
JPEGs. Both handlers get the same weights, the same photos, one photo a request, and a worker a core:

- catdog: the archive of ``catdog.aws.package``, int8 ONNX, one thread a worker.
- default: ``benchmarks/default_handler.py``, torch eager, as it comes: every worker takes all cores.
- default, 1 thread: the same with OMP_NUM_THREADS=1.

They take turns at each number of callers (all servers run, one is asked). Then catdog alone gets ``--mixed`` requests,
a third of them bad in some way; every answer is compared with what this process computes from the same file.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import statistics
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from catdog.aws.archive import make_archive
from catdog.aws.package import ONNX_CHOICES, build_package
from catdog.classifier import Classifier
from catdog.contract import WEIGHTS_NAME
from catdog.machine import usable_cores
from tests.integration.toolkits import Serve, serving_python

CALLERS: Final = (1, 2, 4, 8, 16, 32)
PHOTOS: Final = 100
WARM_UP_REQUESTS: Final = 20
DEFAULT_HANDLER: Final = Path(__file__).with_name("default_handler.py")


@dataclass(frozen=True)
class Call:
    """One request and what must come back: a status, and for 200 the answer's JSON, None where it isn't compared."""

    body: bytes
    content_type: str
    status: int = 200
    answer: Any = None


@dataclass
class Load:
    """What one bout of load gave."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    server_errors: int = 0
    """5xx, and connections that broke."""
    wrong: int = 0
    """Another status than expected (not 5xx), or another answer."""

    @property
    def rate(self) -> float:
        """Requests/s."""
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """Milliseconds that ``percent`` of the requests took at most."""
        if len(self.latencies_s) < 2:
            return 1000 * self.latencies_s[0]
        return 1000 * statistics.quantiles(self.latencies_s, n=100, method="inclusive")[percent - 1]


def load(port: int, calls: Sequence[Call], callers: int, goes_on: Callable[[int], bool]) -> Load:
    """Callers that each wait for an answer before they ask again, in turn from ``calls``, while ``goes_on(number)``."""
    found, lock, numbers = Load(), threading.Lock(), iter(range(10**9))

    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                number = next(numbers)
            if not goes_on(number):
                connection.close()
                return
            asked = calls[number % len(calls)]
            begin = time.perf_counter()
            try:
                connection.request("POST", "/invocations", asked.body, {"Content-Type": asked.content_type})
                response = connection.getresponse()
                status, body = response.status, response.read()
            except (OSError, http.client.HTTPException):
                status, body = 599, b""
                connection.close()
            took = time.perf_counter() - begin
            right = status == asked.status and (asked.answer is None or json.loads(body) == asked.answer)
            with lock:
                found.latencies_s.append(took)
                found.server_errors += status >= 500
                found.wrong += status < 500 and not right

    threads = [threading.Thread(target=call) for _ in range(callers)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.seconds = time.perf_counter() - begin
    return found


def for_seconds(seconds: float) -> Callable[[int], bool]:
    """A ``goes_on`` by time."""
    end = time.perf_counter() + seconds
    return lambda number: time.perf_counter() < end


def mixed(photos: Sequence[bytes], classifier: Classifier) -> list[Call]:
    """Good and bad requests: two thirds single photos, lists, and each kind of mistake."""

    def answer(data: bytes, name: str) -> dict[str, Any]:
        return classifier.predict(data).to_dict() | {"source": name}

    calls = []
    for i, data in enumerate(photos):
        other = photos[i - 1]
        text = [base64.b64encode(x).decode() for x in (data, b"junk", other)]
        junk = answer(b"junk", "images[1]")
        junk["error"] = junk["error"].replace("<bytes>", "images[1]")
        several = [answer(data, "images[0]"), junk, answer(other, "images[2]")]
        bad = (
            Call(b"junk", "image/jpeg", 422),
            Call(data[: len(data) // 2], "image/jpeg", 422),
            Call(data, "text/plain", 415),
            Call(b"{", "application/json", 400),
            Call(b'{"image": "file:///etc/passwd"}', "application/json", 400),
            Call(json.dumps({"images": ["x"] * 101}).encode(), "application/json", 413),
        )
        calls += [Call(data, "image/jpeg", 200, answer(data, "image"))] * 2
        calls += [bad[i % len(bad)]]
        if i % 10 == 0:
            calls += [Call(json.dumps({"images": text}).encode(), "application/json", 200, several)]
    return calls


def read_photos(place: Path, count: int) -> list[bytes]:
    """The first JPEGs of a folder or .zip, evenly over it."""
    if place.is_dir():
        files = sorted(path for path in place.rglob("*.jpg"))
        return [path.read_bytes() for path in files[:: max(1, len(files) // count)][:count]]
    with zipfile.ZipFile(place) as photos:
        names = sorted(name for name in photos.namelist() if name.lower().endswith(".jpg"))
        return [photos.read(name) for name in names[:: max(1, len(names) // count)][:count]]


def default_package(run: Path, out: Path) -> Path:
    """The same weights with the ordinary handler."""
    handler = {"code/inference.py": DEFAULT_HANDLER.read_bytes()}
    out.write_bytes(make_archive({WEIGHTS_NAME: (run / WEIGHTS_NAME).read_bytes()} | handler))
    return out


def row(name: str, callers: int, found: Load, rate: float | None = None) -> str:
    """A line of the table; ``rate``: requests/s to divide by."""
    ratio = "" if rate is None else f"{found.rate / rate:.2f}"
    times = " | ".join(f"{found.percentile_ms(p):.0f}" for p in (50, 95, 99))
    counts = f"{len(found.latencies_s)} | {found.server_errors} | {found.wrong}"
    return f"| {name} | {callers} | {found.rate:.1f} | {ratio} | {times} | {counts} |"


def servers(stack: ExitStack, run: Path, scratch: Path) -> Iterator[tuple[str, Serve]]:
    """All of them, ready."""
    ours = build_package(run, scratch / "catdog.tar.gz").path
    theirs = default_package(run, scratch / "default.tar.gz")
    ways: list[tuple[str, Path, Mapping[str, str]]] = [
        ("catdog", ours, {}),
        ("default", theirs, {}),
        ("default, 1 thread", theirs, {"OMP_NUM_THREADS": "1"}),
    ]
    for i, (name, package, env) in enumerate(ways):
        server = stack.enter_context(Serve(serving_python(), package, scratch / str(i), env, workers=usable_cores()))
        server.wait_ready()
        yield name, server


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each bout")
    parser.add_argument(
        "--mixed", type=int, default=2000, help="requests, good and bad, at each of 1, 8 and 32 at once"
    )
    arguments = parser.parse_args()
    photos = read_photos(arguments.photos, PHOTOS)
    onnx = next(arguments.run / name for name in ONNX_CHOICES if (arguments.run / name).is_file())
    good = [Call(photo, "image/jpeg") for photo in photos]
    print(f"{usable_cores()} cores, a worker each, {onnx.name}, {len(photos)} photos\n")
    print("| handler | callers | requests/s | to default | p50 ms | p95 ms | p99 ms | requests | 5xx | wrong |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        running = dict(servers(stack, arguments.run, Path(scratch)))
        for server in running.values():
            load(server.port, good, usable_cores(), lambda number: number < WARM_UP_REQUESTS)
        for callers in CALLERS:
            found = {
                name: load(server.port, good, callers, for_seconds(arguments.seconds))
                for name, server in running.items()
            }
            for name, bout in found.items():
                print(row(name, callers, bout, found["default"].rate), flush=True)
        calls = mixed(photos, Classifier(onnx, threads=1))
        for callers in (1, 8, 32):
            bout = load(running["catdog"].port, calls, callers, lambda number: number < arguments.mixed)
            print(row("catdog, good and bad", callers, bout), flush=True)


if __name__ == "__main__":
    main()
