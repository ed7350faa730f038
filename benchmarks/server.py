"""catdog serve under load, beside other ways to serve the same model over HTTP on this machine.

    PYTHONPATH=. python benchmarks/server.py PHOTOS [--seconds 6] [--mixed 10000]

PHOTOS: a folder or .zip of JPEGs. All answer with the embedded model and catdog's own functions, one photo a request:
what is compared is the serving.

- bare: ``Classifier.predict`` in this process, without HTTP; the latency that can't be beaten.
- catdog: ``catdog serve`` as it comes.
- thread pool: Starlette and uvicorn, each request on a pool of 40 threads, as rembg's server does it.
- litserve: LitServe, a worker a core, where it is installed (pip install litserve).

They take turns at each number of callers. Then catdog alone gets ``--mixed`` requests, a third of them bad in some way,
each answer compared, and its memory is measured before and after.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from serving import PHOTOS, WARM_UP_REQUESTS, Call, Load, for_seconds, load, mixed, read_photos, row

from catdog.classifier import Classifier
from catdog.classifier import load as load_model
from catdog.machine import usable_cores
from tests.integration.server_process import ServerProcess

CALLERS: Final = (1, 8, 32)
OTHERS: Final = {
    "thread pool": """
        import uvicorn
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse
        from starlette.routing import Route
        from catdog import load

        classifier = load()

        async def answer(request):
            row = await run_in_threadpool(classifier.predict, await request.body())
            return JSONResponse(row.to_dict())

        app = Starlette(routes=[Route("/invocations", answer, methods=["POST"])])
        uvicorn.run(app, port=PORT, log_level="error")
    """,
    "litserve": """
        import os
        import litserve
        from fastapi import Request
        from catdog import load

        class Api(litserve.LitAPI):
            def setup(self, device):
                self.classifier = load(threads=1)

            async def decode_request(self, request: Request):
                return await request.body()

            def predict(self, data):
                return self.classifier.predict(data)

            def encode_response(self, answer):
                return answer.to_dict()

        if __name__ == "__main__":
            api = Api(api_path="/invocations")
            server = litserve.LitServer(api, accelerator="cpu", workers_per_device=os.cpu_count())
            server.run(port=PORT, generate_client_file=False, log_level="error")
    """,
}


def answer_bare(classifier: Classifier, photos: list[bytes], seconds: float) -> Load:
    """One caller without HTTP."""
    found, begin = Load(), time.perf_counter()
    while (now := time.perf_counter()) < begin + seconds:
        classifier.predict(photos[len(found.latencies_s) % len(photos)])
        found.latencies_s.append(time.perf_counter() - now)
    found.seconds = time.perf_counter() - begin
    return found


@contextmanager
def run_other(name: str, folder: Path) -> Iterator[int]:
    """The port of one of OTHERS, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    script = folder / f"{name.replace(' ', '_')}.py"
    script.write_text(textwrap.dedent(OTHERS[name]).replace("PORT", str(port)))
    process = subprocess.Popen([sys.executable, str(script)])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each bout")
    parser.add_argument("--mixed", type=int, default=10_000, help="requests, good and bad")
    arguments = parser.parse_args()
    photos = read_photos(arguments.photos, PHOTOS)
    good, classifier = [Call(photo, "image/jpeg") for photo in photos], load_model()
    print(f"{usable_cores()} cores, {len(photos)} photos\n")
    print("| way | callers | requests/s | to catdog | p50 ms | p95 ms | p99 ms | requests | 5xx | wrong |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        server = stack.enter_context(ServerProcess(Path(scratch, "log"))).wait_ready()
        ports = {"catdog": server.http.base_url.port or 0}
        for name in OTHERS:
            if name != "litserve" or find_spec("litserve"):
                ports[name] = stack.enter_context(run_other(name, Path(scratch)))
        for port in ports.values():
            load(port, good, usable_cores(), lambda number: number < WARM_UP_REQUESTS)
        print(row("bare", 1, answer_bare(classifier, photos, arguments.seconds)), flush=True)
        for callers in CALLERS:
            found = {name: load(port, good, callers, for_seconds(arguments.seconds)) for name, port in ports.items()}
            for name, bout in found.items():
                print(row(name, callers, bout, found["catdog"].rate), flush=True)
        calls = mixed(photos, classifier)
        load(ports["catdog"], calls, 8, lambda number: number < len(calls))
        before = server.memory()
        bout = load(ports["catdog"], calls, 8, lambda number: number < arguments.mixed)
        print(row("catdog, good and bad", 8, bout))
        print(f"\nmemory before and after those: {before / 2**20:.0f} and {server.memory() / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
