"""Processes of ways that score.py compares: what they are to have installed, and how long and how large they are.

server.py makes its environments here, too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
ENVIRONMENTS: Final = ROOT / "build" / "benchmark-environments"
# pip's arguments, the library itself first. Left out: spacy, for texts, and a web framework that fastprogress needs
# from 1.1 on (fastai); what draws windows, and what talks to NVIDIA's driver or to Ultralytics' servers (Ultralytics).
INSTALLED: Final[dict[str, list[list[str]]]] = {
    "timm": [["timm==1.0.31"]],
    "Hugging Face": [["transformers==5.23.0", "timm==1.0.31"]],
    "fastai": [
        ["fastai==2.8.12", "fastprogress==1.0.5", "--no-deps"],
        ["fastcore==2.2.39", "fasttransform==0.0.5", "fastdownload==0.0.8", "plum-dispatch<2.10", "pandas>=2",
         "scikit-learn>=1.5", "requests", "cloudpickle"],
    ],
    "Ultralytics": [
        ["ultralytics==8.4.190", "--no-deps"],
        ["opencv-python-headless>=4.12", "polars>=1", "psutil>=7", "requests", "ultralytics-thop>=2.0.18"],
    ],
}  # fmt: skip
KEPT: Final = ("torch", "torchvision", "pillow", "numpy", "onnxruntime", "onnx", "safetensors")  # of the running Python
OFFLINE: Final = {
    "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false",
}  # fmt: skip
SAMPLE_S: Final = 0.1  # between two looks at the memory, or more:
SAMPLING_SHARE: Final = 0.02  # of the time goes into looking; 1 GiB in three processes takes 15 ms
LIMIT_S: Final = 1800  # of one way in one round


class WayError(Exception):
    """A way that gave no answers, and why."""


def run(command: list[str], scratch: Path) -> tuple[float, int]:
    """Run a way to its end -> seconds, and its peak memory in bytes; raises WayError."""
    log = scratch / "log"
    environment = os.environ | OFFLINE | {"YOLO_CONFIG_DIR": str(scratch)}
    with log.open("w") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=ROOT, env=environment, start_new_session=True
        )
        with PeakMemory(process.pid) as memory:
            try:
                process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                raise WayError(f"no end after {LIMIT_S} s") from None
            finally:
                seconds = time.perf_counter() - begin
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    if process.returncode:
        raise WayError((log.read_text().strip().splitlines() or [f"exit code {process.returncode}"])[-1])
    return seconds, memory.peak


class PeakMemory:
    """The highest sum of PSS, bytes, over the processes of a session, while it is entered. Linux only, else 0."""

    def __init__(self, session: int) -> None:
        self.session, self.peak = session, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = SAMPLE_S
        while not self._ended.wait(pause):
            begin = time.perf_counter()
            self.peak = max(self.peak, sum(map(_pss, _processes_of(self.session))))
            pause = max(SAMPLE_S, (time.perf_counter() - begin) / SAMPLING_SHARE)


def _processes_of(session: int) -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()  # state, parent, group, session, ...
        except OSError:
            continue  # it has ended
        if int(fields[3]) == session:
            yield process


def _pss(process: Path) -> int:
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def with_version(name: str) -> str:
    """A way's name with the version of the library that it is about."""
    if name == "torchvision":
        return f"{name} {version(name).partition('+')[0]}"
    if name not in INSTALLED:
        return name
    package, _, number = INSTALLED[name][0][0].partition("==")
    return f"{name} {number}" if package == name.lower() else f"{name} ({package} {number})"


def environment_for(name: str, wanted: Mapping[str, list[list[str]]] = INSTALLED) -> str:
    """The Python that runs a way; installs what it needs on the first run, and raises WayError where that fails."""
    if name not in wanted:
        return sys.executable
    place = ENVIRONMENTS / name.lower().replace(" ", "-")
    python, installed, constraints = place / "bin" / "python", place / "installed.json", place / "constraints.txt"
    kept = [f"{package}=={version(package).partition('+')[0]}" for package in KEPT]
    content = json.dumps([sys.executable, wanted[name], kept])
    if installed.exists() and installed.read_text() == content:
        return str(python)
    print(f"installing {name} into {place}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    purelib = sysconfig.get_path("purelib", vars={"base": str(place)})
    # A venv made from a venv sees the packages of neither; this line shows it those of the running Python.
    (Path(purelib) / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    constraints.write_text("\n".join(kept) + "\n")
    for packages in wanted[name]:
        command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints), *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WayError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    installed.write_text(content)
    return str(python)
