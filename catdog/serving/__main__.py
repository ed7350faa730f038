"""catdog serve: a web server that answers photos, with a page to drop them on.

    catdog serve                                          on http://127.0.0.1:8000, with the embedded model
    catdog serve --host 0.0.0.0 --port 8080 --model model.onnx

Exit codes: 0 ended by SIGTERM once all was answered, 130 by Ctrl-C, and those of ``catdog.edge``.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("serve")

import errno
import os
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack
from typing import Annotated

import typer
import uvicorn
from uvicorn.supervisors import Multiprocess

from catdog.detection.models import load_model
from catdog.edge import edge
from catdog.errors import SettingsError
from catdog.serving.limits import MAX_PIXELS
from catdog.serving.requests import ALLOWED_S3, MAX_BODY, parse_prefixes
from catdog.serving.server import SETTINGS, Server, Settings, write_settings
from catdog.serving.telemetry import SHARED_METRICS, log_to_stderr

EXAMPLES = """\b
Examples:
  catdog serve                                                then open http://127.0.0.1:8000
  catdog serve --host 0.0.0.0 --port 8080 --model runs/first
  catdog serve --allow-s3 s3://my-photos/incoming
  curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/predict

Exit codes: 0 ended by SIGTERM once all was answered, 2 a bad argument, model or address, 130 Ctrl-C.
"""
_MIB = 2**20
_KEEP_ALIVE_S = 75  # longer than the idle time of usual proxies, which would else reuse a connection as it is closed
_BACKLOG = 2048

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(epilog=EXAMPLES, help="Answer photos over HTTP, with a page to drop them on.")
@edge("catdog serve", extra="serve")
def main(
    host: Annotated[str, typer.Option(envvar="CATDOG_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="CATDOG_PORT", min=0, max=65535, help="0: any that is free.")] = 8000,
    workers: Annotated[
        int,
        typer.Option(envvar="CATDOG_WORKERS", min=1, max=256, help="Processes; one uses all cores, up to about 16."),
    ] = 1,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", envvar="CATDOG_MODEL", help="An ONNX file, a run folder, or an s3:// address."),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", envvar="CATDOG_FAST", help="Look at a smaller picture first: cheaper, a few answers differ."
        ),
    ] = False,
    allow_s3: Annotated[
        list[str] | None,
        typer.Option(metavar="S3URI", help="Where s3:// addresses in requests may lead; repeat it for more."),
    ] = None,
    max_body: Annotated[
        int, typer.Option(metavar="MIB", envvar=MAX_BODY, min=1, max=1024, help="Most MiB of a request.")
    ] = 32,
    max_pixels: Annotated[
        int, typer.Option(metavar="MP", min=1, max=178, help="Most megapixels that a photo is decoded to.")
    ] = MAX_PIXELS // 1_000_000,
    max_waiting: Annotated[int, typer.Option(min=0, max=10_000, help="Requests that may wait; more get a 429.")] = 64,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds in which a request is answered.")] = 30,
) -> None:
    if allow_s3:
        os.environ[ALLOWED_S3] = " ".join(allow_s3)
    parse_prefixes(os.environ.get(ALLOWED_S3, ""), "--allow-s3" if allow_s3 else ALLOWED_S3)
    settings = Settings(model, workers, max_body * _MIB, max_pixels * 1_000_000, max_waiting, timeout, fast)
    log_to_stderr()
    with _listen(host, port) as listening:
        where = f"[{host}]" if ":" in host else host
        typer.echo(f"http://{where}:{listening.getsockname()[1]} is starting, with {model or 'the embedded model'}")
        sys.stdout.flush()
        _serve(settings, listening)


def _serve(settings: Settings, listening: socket.socket) -> None:
    common = {
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "backlog": _BACKLOG,
        "timeout_keep_alive": _KEEP_ALIVE_S,
        "timeout_graceful_shutdown": int(settings.timeout_s) + 5,
    }
    # uvicorn raises SIGTERM once more when all is done, which would end this process by the signal instead of with 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    if settings.workers == 1:
        server = Server(settings)
        uvicorn.Server(uvicorn.Config(server.make_app(), **common)).run([listening])  # type: ignore[arg-type]
        if server.failure is not None:
            raise server.failure
        return
    load_model(settings.model, threads=1, fast=settings.fast)  # what is wrong with the model is said once, and here
    with ExitStack() as stack:
        os.environ[SHARED_METRICS] = stack.enter_context(tempfile.TemporaryDirectory(prefix="catdog-metrics-"))
        os.environ[SETTINGS] = write_settings(settings)
        name = "catdog.serving.server:make_worker"
        config = uvicorn.Config(name, factory=True, workers=settings.workers, **common)  # type: ignore[arg-type]
        running = _Workers(config, [listening])
        running.run()
    if running.is_interrupted:
        raise KeyboardInterrupt


class _Workers(Multiprocess):
    """uvicorn's, which forgets whether it was Ctrl-C that ended it."""

    is_interrupted = False

    def handle_int(self) -> None:
        self.is_interrupted = True
        super().handle_int()


def _listen(host: str, port: int) -> socket.socket:
    if not host.strip():
        raise SettingsError("--host: is empty; give an address of this machine, or 0.0.0.0 for all that it has")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
    except (OSError, ValueError) as error:  # ValueError: a name that no name can be
        reason = getattr(error, "strerror", None) or "it is no name"
        raise SettingsError(f"--host {host}: has no address ({reason}); give one of this machine") from error
    try:
        listening = socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError(f"--host {host}: is no address of this machine; give one that is") from error
        # Not strerror, to which create_server adds the address.
        reason = os.strerror(error.errno or 0)
        raise SettingsError(f"{host}:{port} can't be listened on ({reason}); choose another --port") from error
    # Connections inherit it. asyncio leaves it off on a socket that it is given; a reply then takes 40 ms more.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.set_inheritable(True)
    return listening
