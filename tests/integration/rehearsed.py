"""What the rehearsal's tests do all the time: type a command, look into moto, tell the story."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from catdog.contract import Contract
from tests.integration.control_plane import ControlPlane
from tests.integration.rehearsal import SageMaker
from tests.integration.runtime_shim import RuntimeShim

ROOT: Final = Path(__file__).parents[2]
BUCKET: Final = "catdog-rehearsal"
BEGAN: Final = time.monotonic()


class Said(NamedTuple):
    """What a command gave."""

    out: str
    err: str

    @property
    def answer(self) -> Any:
        return json.loads(self.out)


@dataclass
class Cloud:
    """AWS as far as this machine has it."""

    plane: ControlPlane
    shim: RuntimeShim
    sagemaker: SageMaker
    moto: Callable[[str], Any]
    """A client for a service that reaches moto past the proxy."""
    left_the_machine: Path

    def aws(self, *arguments: object, code: int = 0) -> Said:
        """``catdog aws ...``, which must end with this exit code."""
        return command("catdog.aws", *arguments, code=code)

    def left(self) -> list[str]:
        """All that SageMaker still has that would cost, or be in the way."""
        client = self.moto("sagemaker")
        found = [e["EndpointName"] for e in client.list_endpoints()["Endpoints"]]
        found += [e["EndpointConfigName"] for e in client.list_endpoint_configs()["EndpointConfigs"]]
        return found + [e["ModelName"] for e in client.list_models()["Models"]]

    def put(self, key: str, data: bytes) -> str:
        """An object, and its address."""
        self.moto("s3").put_object(Bucket=BUCKET, Key=key, Body=data)
        return f"s3://{BUCKET}/{key}"


def command(module: str, *arguments: object, code: int = 0) -> Said:
    """A command of the project in a process of its own."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == code, f"{' '.join(line[1:])}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.stdout, done.stderr)


def tell(text: str) -> None:
    """A line of the story, for ``pytest -s``."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


def unpacked(cloud: Cloud, uri: str, folder: Path) -> Path:
    """A model.tar.gz in S3 as a folder."""
    data = cloud.moto("s3").get_object(Bucket=BUCKET, Key=uri.removeprefix(f"s3://{BUCKET}/"))["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder, filter="data")
    Contract.read(folder / "contract.json")
    return folder


def without_contract(data: bytes) -> bytes:
    """A model.tar.gz that lacks its contract."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    return archive({name: content for name, content in files.items() if name != "contract.json"})


def archive(files: dict[str, bytes]) -> bytes:
    """A model.tar.gz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return gzip.compress(packed.getvalue())
