"""catdog serve under load, beside other ways to serve the same model over HTTP on this machine.

    PYTHONPATH=. python benchmarks/server.py PHOTOS [--seconds 6 | --requests 200] [--ways catdog,LitServe]
    PYTHONPATH=. python benchmarks/server.py PHOTOS --soak 10000

PHOTOS: a folder or .zip of JPEGs. All answer with the embedded model and catdog's own functions, one photo a request:
what is compared is the serving.

- bare: ``Classifier.predict`` in this process, without HTTP; the latency that can't be beaten.
- catdog: ``catdog serve`` as it comes.
- FastAPI: with uvicorn, each request on a pool of 40 threads, as rembg's server does it.
- LitServe, BentoML: a worker a core, the model with one thread in each.
- TorchServe: in SageMaker's serving toolkit with ``catdog.aws.package``'s handler, a worker a core. Needs Java.

FastAPI, LitServe and BentoML are installed on the first run, each into its own build/benchmark-environments/NAME; a way
that can't be had is left out with a line. All run at once and take turns at each number of callers.

``--soak`` sends catdog alone that many mixed requests instead; see server_soak.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from PIL import Image
from score_processes import WayError, environment_for
from server_soak import soak
from serving import PHOTOS, WARM_UP_REQUESTS, Call, Load, for_seconds, load, read_photos, row

from catdog.aws.package import build_package
from catdog.classifier import Classifier
from catdog.classifier import load as load_model
from catdog.contract import CONTRACT_NAME
from catdog.image import encode
from catdog.machine import usable_cores
from catdog.serving.loading import ONNX_NAME
from tests.integration.server_process import ServerProcess
from tests.integration.toolkits import ROOT, Serve, serving_python

CALLERS: Final = (1, 8, 32)
START_S: Final = 120.0
INSTALLED: Final = {
    "FastAPI": [["fastapi==0.165.0", "uvicorn==0.54.0"]],
    "LitServe": [["litserve==0.2.19"]],
    "BentoML": [["bentoml==1.4.40"]],
}
OTHERS: Final = {
    "FastAPI": """
        import uvicorn
        from anyio.to_thread import run_sync
        from fastapi import FastAPI, Request
        from catdog import load

        app, classifier = FastAPI(), load()

        @app.post("/invocations")
        async def answer(request: Request):
            row = await run_sync(classifier.predict, await request.body())
            return row.to_dict()

        uvicorn.run(app, port=PORT, log_level="error")
    """,
    "LitServe": """
        from typing import Annotated
        import litserve
        from fastapi import Body
        from catdog import load
        from catdog.machine import usable_cores

        class Api(litserve.LitAPI):
            def setup(self, device):
                self.classifier = load(threads=1)

            def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]):
                return request  # of a fastapi.Request it would read JSON or a form

            def predict(self, data):
                return self.classifier.predict(data)

            def encode_response(self, answer):
                return answer.to_dict()

        if __name__ == "__main__":
            api = Api(api_path="/invocations")
            server = litserve.LitServer(api, accelerator="cpu", workers_per_device=usable_cores())
            server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="error")
    """,
    "BentoML": """
        import os, sys
        from pathlib import Path
        from typing import Annotated
        import bentoml
        from bentoml.validators import ContentType
        from catdog import load
        from catdog.machine import usable_cores

        @bentoml.service(workers=usable_cores(), traffic={"timeout": 120}, metrics={"enabled": False})
        class Catdog:
            def __init__(self):
                self.classifier = load(threads=1)

            @bentoml.api(route="/invocations")
            def answer(self, photo: Annotated[Path, ContentType("image/jpeg")], /) -> dict:
                return self.classifier.predict(photo).to_dict()

        if __name__ == "__main__":
            place = Path(__file__)
            words = ["serve", f"{place.stem}:Catdog", "--working-dir", str(place.parent), "--host", "127.0.0.1"]
            os.execv(sys.executable, [sys.executable, "-m", "bentoml", *words, "--port", "PORT"])
    """,
}
ENVIRONMENT: Final = {"BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(ROOT)}


def answer_bare(classifier: Classifier, photos: list[bytes], goes_on: Callable[[int], bool]) -> Load:
    """One caller without HTTP."""
    found, begin = Load(), time.perf_counter()
    while goes_on(len(found.latencies_s)):
        now = time.perf_counter()
        classifier.predict(photos[len(found.latencies_s) % len(photos)])
        found.latencies_s.append(time.perf_counter() - now)
    found.seconds = time.perf_counter() - begin
    return found


@contextmanager
def run_other(name: str, folder: Path) -> Iterator[int]:
    """The port of one of OTHERS, once it answers."""
    python = environment_for(name, INSTALLED)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    script, log = folder / f"serve_{name.lower()}.py", folder / f"{name}.log"
    script.write_text(textwrap.dedent(OTHERS[name]).replace("PORT", str(port)))
    environment = os.environ | ENVIRONMENT | {"BENTOML_HOME": str(folder / "bentoml")}
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, str(script)], stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        _wait_ready(name, process, port, log)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            with suppress(ProcessLookupError):  # its workers are in its group, if it left any
                os.killpg(process.pid, signal.SIGKILL)


def _wait_ready(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Ask until a photo is answered: some listen before they have workers."""
    photo = Call(encode(Image.new("RGB", (64, 48)), "JPEG"), "image/jpeg")
    end = time.monotonic() + START_S
    while True:
        asked = load(port, [photo], 1, lambda number: number < 1)
        if not asked.server_errors and not asked.wrong:
            return
        if process.poll() is not None or time.monotonic() > end:
            raise WayError(f"it doesn't answer a photo:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


@contextmanager
def run_catdog(name: str, folder: Path) -> Iterator[int]:
    with ServerProcess(folder / f"{name}.log") as server:
        yield server.wait_ready().http.base_url.port or 0


@contextmanager
def run_torchserve(name: str, folder: Path) -> Iterator[int]:
    classifier = load_model()
    (run := folder / "run").mkdir()
    (run / CONTRACT_NAME).write_text(classifier.contract.to_json())
    (run / ONNX_NAME).write_bytes(classifier.data)
    try:
        python = serving_python()
    except pytest.skip.Exception as error:
        raise WayError(str(error)) from error
    package = build_package(run, folder / "model.tar.gz").path
    with Serve(python, package, folder / "torchserve", workers=usable_cores()) as server:
        server.wait_ready(START_S)
        yield server.port


WAYS: Final = {"catdog": run_catdog, **dict.fromkeys(OTHERS, run_other), "TorchServe": run_torchserve}


def start(names: list[str], photo: Call, stack: ExitStack) -> dict[str, int]:
    """The ports of the ways that can be had here, warm."""
    ports = {}
    for name in names:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            port = stack.enter_context(WAYS[name](name, folder))
        except (WayError, TimeoutError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        load(port, [photo], usable_cores(), lambda number: number < WARM_UP_REQUESTS)
        ports[name] = port
    return ports


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each bout")
    parser.add_argument("--requests", type=int, help="of each bout, instead of seconds")
    parser.add_argument("--ways", default=",".join(WAYS), help="that are compared; default: %(default)s")
    parser.add_argument("--soak", type=int, metavar="N", help="send N mixed requests to catdog alone")
    arguments = parser.parse_args()
    photos = read_photos(arguments.photos, PHOTOS)
    if arguments.soak:
        raise SystemExit(not soak(photos, arguments.soak))

    def make_goes_on() -> Callable[[int], bool]:
        return (lambda number: number < arguments.requests) if arguments.requests else for_seconds(arguments.seconds)

    good, classifier = [Call(photo, "image/jpeg") for photo in photos], load_model()
    with ExitStack() as stack:
        ports = start(arguments.ways.split(","), good[0], stack)
        print(f"{usable_cores()} cores, {len(photos)} photos\n")
        print("| way | callers | requests/s | to catdog | p50 ms | p95 ms | p99 ms | requests | 5xx | wrong |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        print(row("bare", 1, answer_bare(classifier, photos, make_goes_on())), flush=True)
        for callers in CALLERS:
            found = {name: load(port, good, callers, make_goes_on()) for name, port in ports.items()}
            for name, bout in found.items():
                print(row(name, callers, bout, found["catdog"].rate if "catdog" in found else None), flush=True)


if __name__ == "__main__":
    main()
