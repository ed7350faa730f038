"""How fast catdog's detector is beside others of its kind: the ONNX files alone, photo by photo, on the same cores.

    python benchmarks/detectors.py DETECTOR.onnx [MORE.onnx] [--ultralytics FOLDER] [--rounds 7] [--seconds 2]

The others have random weights, which change no time: torchvision's SSDlite (MobileNetV3) and, with a folder in which
``pip install --target FOLDER --no-deps ultralytics ultralytics-thop opencv-python-headless`` put it, Ultralytics'
smallest model, both at the first file's input size; what they do after the network (suppression) is left out, as it is
of ours. Each way has one ONNX Runtime session with all usable cores; they take turns, so that a machine others share
treats them alike. Medians over the rounds, and ratios to the first file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from catdog.detection.detector import load_detector
from catdog.machine import usable_cores

EXPORT_YOLO = """
import os, sys
sys.path.insert(0, sys.argv[1])
from ultralytics import YOLO
YOLO("yolo11n.yaml").export(format="onnx", imgsz=int(sys.argv[2]), simplify=False, opset=17)
"""


class _SsdLite(nn.Module):
    """What torchvision's SSDlite computes before it decodes and suppresses."""

    def __init__(self) -> None:
        from torchvision.models.detection import ssdlite320_mobilenet_v3_large

        super().__init__()
        self.model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model.head(list(self.model.backbone(images).values()))
        return outputs["bbox_regression"], outputs["cls_logits"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="+", help="catdog's detectors; the first one is what the others are compared with"
    )
    parser.add_argument("--ultralytics", help="the folder with Ultralytics' package")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each way in each round")
    arguments = parser.parse_args()
    size = load_detector(arguments.files[0]).contract.input_size
    with tempfile.TemporaryDirectory() as scratch:
        ways = {Path(file).name: Path(file) for file in arguments.files}
        ways[f"torchvision SSDlite, {size} px"] = _export_ssdlite(Path(scratch), size)
        if arguments.ultralytics:
            ways[f"Ultralytics YOLO11n, {size} px"] = _export_yolo(Path(scratch), arguments.ultralytics, size)
        sessions = {name: _open(path) for name, path in ways.items()}
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(arguments.rounds):
            for name, session in sessions.items():
                times[name].append(_time(session, arguments.seconds))
        sizes = {name: path.stat().st_size / 1e6 for name, path in ways.items()}
    own = statistics.median(times[Path(arguments.files[0]).name])
    print(f"{usable_cores()} cores, batch of 1, {arguments.rounds} rounds of {arguments.seconds:g} s")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:36} {sizes[name]:6.1f} MB  {1000 * median:7.1f} ms a photo  {median / own:5.2f} times the first")


def _export_ssdlite(folder: Path, size: int) -> Path:
    path = folder / "ssdlite.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _SsdLite().eval(), (torch.zeros(1, 3, size, size),), str(path), opset_version=17, dynamo=False
        )
    return path


def _export_yolo(folder: Path, package: str, size: int) -> Path:
    environment = os.environ | {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(folder)}
    command = [sys.executable, "-c", EXPORT_YOLO, str(Path(package).resolve()), str(size)]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=sys.stderr)
    return next(folder.glob("yolo11n.onnx"))


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _time(session: ort.InferenceSession, seconds: float) -> float:
    """Return the median seconds of one photo."""
    (first,) = session.get_inputs()
    shape = [side if isinstance(side, int) else 1 for side in first.shape]
    dice = np.random.default_rng(0)
    photo = dice.integers(0, 256, shape, np.uint8) if "uint8" in first.type else dice.random(shape, np.float32)
    feeds = {first.name: photo}
    session.run(None, feeds)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        begin = time.perf_counter()
        session.run(None, feeds)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
