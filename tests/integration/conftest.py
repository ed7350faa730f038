"""An S3 server on loopback, and a disk that is soon full, for every test that wants one."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catdog.sources import objects
from tests.integration.aws_on_loopback import moto_server, use
from tests.integration.s3_server import Proxy

PAGE_KEYS = 10  # that the server lists at once, so that few keys are several pages


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    """The port of an S3 server of its own process."""
    pytest.importorskip("moto.server", reason="no S3 server to test against: pip install 'moto[server]'")
    with moto_server(MOTO_S3_DEFAULT_MAX_KEYS=str(PAGE_KEYS)) as port:
        yield port


@pytest.fixture(scope="module")
def running(moto: int) -> Iterator[Proxy]:
    """The proxy before it; the environment names it as the endpoint."""
    with Proxy(moto) as server, pytest.MonkeyPatch.context() as environment:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        use(environment, f"http://127.0.0.1:{server.server_port}")
        objects.close()
        yield server
        objects.close()
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    """The proxy, which lets everything pass until a test gives it a plan."""
    running.seen.clear()
    running.released.clear()
    yield running
    running.plans.clear()
    running.released.set()


@pytest.fixture(scope="module")
def admin(running: Proxy, moto: int) -> Iterator[Any]:
    """A client that reaches the server past the proxy."""
    boto3 = pytest.importorskip("boto3", reason="s3:// needs boto3")
    made = boto3.session.Session().client("s3", endpoint_url=f"http://127.0.0.1:{moto}")
    yield made
    made.close()


@pytest.fixture
def bucket(proxy: Proxy, admin: Any, request: pytest.FixtureRequest) -> str:
    """A new, empty bucket."""
    name = f"photos-{time.monotonic_ns()}"
    admin.create_bucket(Bucket=name)
    return name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "catdog-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
