"""An S3 server on loopback for every test that wants one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from catdog.score import s3
from tests.integration.s3_server import MOTO, Proxy


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    """The port of an S3 server of its own process."""
    pytest.importorskip("moto.server", reason="no S3 server to test against: pip install 'moto[server]'")
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL  # it logs every request
    with subprocess.Popen([sys.executable, "-c", MOTO], stdin=pipe, stdout=pipe, stderr=quiet) as process:
        assert process.stdout
        yield int(process.stdout.readline())
        process.kill()


@pytest.fixture(scope="module")
def running(moto: int) -> Iterator[Proxy]:
    """The proxy before it; the environment names it as the endpoint."""
    with Proxy(moto) as server, pytest.MonkeyPatch.context() as environment:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "NO_PROXY": "127.0.0.1",
        }.items():
            environment.setenv(name, value)
        s3.close()
        yield server
        s3.close()
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    """The proxy, which lets everything pass until a test gives it a plan."""
    running.seen.clear()
    yield running
    running.plans.clear()


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
