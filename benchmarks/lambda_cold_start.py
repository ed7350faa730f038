"""Cold start and memory of the AWS Lambda function, in AWS's own runtime client on one core.

    catdog lambda package --out build/lambda --python 3.11         # the Python that runs this
    python -m benchmarks.lambda_cold_start build/lambda [--starts 10]

Each start is a new process, in turn with .pyc files and without:

    ready    from the process's start until it asks for its first event: imports, model, golden photos
    first    the first answer, for a JPEG of 500x375 px in an event of a Function URL
    next     the median of ten more
    memory   the most that the process has held: when ready, after those answers, after a JPEG of 12 megapixels, and
             after a WebP of 50, the largest photo allowed in the format that takes the most

Seconds of the clock, and of the processor in brackets, which other programs on the machine disturb less. What AWS
adds (a machine found, the package fetched) is not in it. Needs the extra dev. The figures are in docs/lambda.md.
"""

from __future__ import annotations

import base64
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import numpy as np
import typer
from PIL import Image

from catdog.image import encode
from catdog.serving.limits import MAX_PIXELS
from tests.integration.lambda_on_loopback import Served

GOLDEN: Final = Path(__file__).parents[1] / "tests" / "golden" / "lambda" / "function_url.json"
ANSWERS: Final = 10
_TICKS: Final = os.sysconf("SC_CLK_TCK")
Figures = dict[str, tuple[float, float]]


def main(
    package: Annotated[Path, typer.Argument(exists=True, help="What catdog lambda package wrote, for this Python.")],
    starts: Annotated[int, typer.Option(min=1, help="Processes of each kind; their medians are shown.")] = 10,
) -> None:
    """Time cold starts."""
    small, large = (make_event(draw(width, height)) for width, height in ((500, 375), (4000, 3000)))
    side = int(MAX_PIXELS**0.5)
    largest = make_event(encode(Image.new("RGBA", (side, side)), "WEBP", lossless=True, quality=0, method=0))
    kinds: dict[str, dict[str, str]] = {
        "with .pyc": {},
        "without": {"PYTHONPYCACHEPREFIX": "/nowhere"},  # where Python looks for them then
    }
    found: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    with TemporaryDirectory() as folder:
        for start in range(starts + 1):
            for kind, variables in kinds.items():
                (scratch := Path(folder, f"{start} {kind}")).mkdir()
                figures = start_once(package / "task", variables, scratch, small, large, largest)
                if start:  # the first ones fill the disk's cache
                    found[kind].append(figures)
    typer.echo(f"medians of {starts} processes on one core, Python {sys.version.split()[0]}")
    for kind, runs in found.items():
        typer.echo(kind)
        for name in runs[0]:
            first, second = (statistics.median(run[name][i] for run in runs) for i in (0, 1))
            shown = f"{first:8.0f} MB" if name.startswith("memory") else f"{first:8.3f} s ({second:.3f} s)"
            typer.echo(f"  {name:40}{shown}")


def draw(width: int, height: int) -> bytes:
    """A JPEG of this size that has about as much detail as a photo."""
    random = np.random.default_rng(0)
    rough = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
    return encode(rough.resize((width, height), Image.Resampling.BICUBIC), "JPEG", quality=85)


def make_event(photo: bytes) -> dict[str, Any]:
    """A golden event with the photo."""
    headers = {"content-type": "application/octet-stream"}
    return {**json.loads(GOLDEN.read_text()), "body": base64.b64encode(photo).decode("ascii"), "headers": headers}


def start_once(
    task: Path,
    variables: dict[str, str],
    scratch: Path,
    small: dict[str, Any],
    large: dict[str, Any],
    largest: dict[str, Any],
) -> Figures:
    """Start the function and ask it; returns seconds of the clock and of the processor, and megabytes."""
    function = Served(task, variables, scratch)
    function.command = ["taskset", "--cpu-list", "0", *function.command]  # 1,769 MB have one virtual core on Lambda
    with function:
        ready = function.wait_ready()
        pid = function.process.pid

        def ask(event: dict[str, Any]) -> tuple[float, float]:
            return measure(lambda: function.invoke(event)["statusCode"], pid)

        figures = {"ready": (ready, read_cpu_s(pid)), "memory, ready": (read_peak_mb(pid), 0.0)}
        figures["first answer"] = ask(small)
        times = [ask(small) for _ in range(ANSWERS)]
        figures["next answers, each"] = (statistics.median(t for t, _ in times), sum(c for _, c in times) / ANSWERS)
        figures["memory, then"] = (read_peak_mb(pid), 0.0)
        figures["answer for 12 megapixels"] = ask(large)
        figures["memory, then, after 12 megapixels"] = (read_peak_mb(pid), 0.0)
        ask(largest)
        figures["memory, then, after 50 megapixels"] = (read_peak_mb(pid), 0.0)
    return figures


def measure(ask: Callable[[], int], pid: int) -> tuple[float, float]:
    """Seconds of the clock and of the process's processor time that one answer took."""
    began, used = time.perf_counter(), read_cpu_s(pid)
    status = ask()
    assert status == 200, status
    return time.perf_counter() - began, read_cpu_s(pid) - used


def read_cpu_s(pid: int) -> float:
    """Processor time of a process so far, s (proc(5): utime and stime)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICKS


def read_peak_mb(pid: int) -> float:
    """The most memory that a process has held, MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) / 1024


if __name__ == "__main__":
    typer.run(main)
