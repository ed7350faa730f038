"""What tests with a simulated AWS start from: moto in a process, a quiet HTTP handler, no other configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

import pytest

MOTO: Final = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
DUMMY: Final = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1",
}


@contextmanager
def moto_server(**settings: str) -> Iterator[int]:
    """The port of a moto server of its own process, with these environment variables."""
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL  # it logs every request
    with subprocess.Popen(
        [sys.executable, "-c", MOTO], stdin=pipe, stdout=pipe, stderr=quiet, env=os.environ | settings
    ) as process:
        assert process.stdout
        yield int(process.stdout.readline())
        process.kill()


def use(
    environment: pytest.MonkeyPatch, endpoint: str, forget: Sequence[str] = ("AWS_",), kept: str = "", **more: str
) -> None:
    """The environment for an AWS at ``endpoint``: variables that begin with ``forget`` go, but for ``kept``."""
    for name in [name for name in os.environ if name.startswith(tuple(forget)) and name != kept]:
        environment.delenv(name)
    for name, value in {**DUMMY, "AWS_ENDPOINT_URL": endpoint, **more}.items():
        environment.setenv(name, value)
    environment.setattr("botocore.loaders.Loader.FILE_LOADER_CLASS", staticmethod(_file_loader))


@cache
def _file_loader() -> Any:
    """What reads botocore's descriptions of services: each once, not once a session, since SageMaker's takes 0.1 s."""
    from botocore.loaders import JSONFileLoader

    loader = JSONFileLoader()
    loader.load_file = cache(loader.load_file)
    return loader


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections, answers at once, and says nothing of clients that hang up."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True  # the client hung up first

    def log_message(self, *args: object) -> None:
        pass
