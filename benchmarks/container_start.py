"""How the two kinds of serving containers start and answer, on loopback: seconds, memory, milliseconds a photo.

    PYTHONPATH=. python benchmarks/container_start.py PHOTOS [--rounds 5]

PHOTOS: a folder or .zip of JPEGs. AWS's PyTorch container is played by its real toolkit and TorchServe with the archive
of ``catdog aws deploy embedded``, a worker; catdog's own image by what it starts, ``catdog serve``, with the variables
and the archive of ``deploy --image``. Both serve the same int8 file. They take turns. Measured are the time from the
start to the first photo's answer, the memory of all processes after 100 photos (proportional set size), and the median
of those photos' times, one after another. What AWS adds is left out for both: fetching the image (its PyTorch images
have several GB, ours 0.2), and for the PyTorch container pip's installation of the archive's requirements.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
from serving import read_photos

from catdog.aws.hosting import Hosting, container_environment
from catdog.aws.package import build_package, copy_embedded
from tests.integration.server_process import ServerProcess
from tests.integration.toolkits import Serve, serving_python

PHOTOS = 100
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1"  # any name that isn't AWS's own


class Measured(NamedTuple):
    """One start."""

    seconds: float
    """Until the first answer."""
    megabytes: float
    milliseconds: float
    """A photo's median."""


def start_pytorch(photos: list[bytes], folder: Path) -> Measured:
    """Start the toolkit with the archive of ``catdog aws deploy embedded``."""
    package = build_package(copy_embedded(folder / "run"), folder / "model.tar.gz")
    python = serving_python()
    begin = time.perf_counter()
    with Serve(python, package.path, folder / "serve") as server:
        server.wait_ready()
        return ask(f"{server.url}/invocations", photos, begin, server.pid)


def start_own(photos: list[bytes], folder: Path) -> Measured:
    """Start what catdog's image starts, with the archive of ``deploy --image``."""
    package = build_package(copy_embedded(folder / "run"), folder / "model.tar.gz", with_code=False)
    begin = time.perf_counter()
    with tarfile.open(package.path) as archive:
        archive.extractall(folder / "opt/ml/model", filter="data")
    given = container_environment(Hosting(), "us-east-1", IMAGE)
    variables = {name: value.replace("/opt/", f"{folder}/opt/") for name, value in given.items()}
    variables |= {"CATDOG_HOST": "127.0.0.1", "CATDOG_PORT": "0"}
    command = (sys.executable, "-m", "catdog", "serve")
    with ServerProcess(folder / "log", command=command, env=variables) as server:
        server.wait_ready()
        return ask(f"{server.url}/invocations", photos, begin, server.process.pid)


def ask(url: str, photos: list[bytes], begin: float, pid: int) -> Measured:
    """Send the photos one after another; ``begin``: when the start began, ``pid``: the process above all others."""
    taken = []
    with httpx.Client(timeout=60) as client:
        for photo in photos:
            sent = time.perf_counter()
            client.post(url, content=photo, headers={"Content-Type": "image/jpeg"}).raise_for_status()
            taken.append(time.perf_counter() - sent)
            if len(taken) == 1:
                first = time.perf_counter() - begin
    above = psutil.Process(pid)
    memory = sum(process.memory_full_info().pss for process in (above, *above.children(recursive=True)))
    return Measured(first, memory / 1e6, 1000 * statistics.median(taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    photos = read_photos(arguments.photos, PHOTOS)
    ways: dict[str, Callable[[list[bytes], Path], Measured]] = {
        "PyTorch container, inference.py": start_pytorch,
        "catdog's own image": start_own,
    }
    rounds: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, start in ways.items():
            with tempfile.TemporaryDirectory() as scratch:
                rounds[name].append(start(photos, Path(scratch)))
    medians = {name: Measured(*map(statistics.median, zip(*runs, strict=True))) for name, runs in rounds.items()}
    base = next(iter(medians.values()))
    print(f"{arguments.rounds} starts each, {len(photos)} photos, medians, and ratios to the first")
    for name, found in medians.items():
        ratios = [mine / others for mine, others in zip(found, base, strict=True)]
        print(
            f"{name:32} first answer after {found.seconds:5.2f} s ({ratios[0]:.2f}), {found.megabytes:6.0f} MB "
            f"({ratios[1]:.2f}), {found.milliseconds:5.1f} ms a photo ({ratios[2]:.2f})"
        )


if __name__ == "__main__":
    main()
