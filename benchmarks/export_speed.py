"""How long an export takes and what it gains: size and photos/s of torch, ONNX float and ONNX int8.

    python benchmarks/export_speed.py [CHECKPOINT] [--photos 128] [--size 224]

Without a checkpoint a ResNet-18 of random weights is exported, on noise: speed and size don't depend on the values.
The engines take turns on the same batch, all usable cores each; medians, and ratios to eager torch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from catdog.contract import Contract
from catdog.export.onnx_file import to_onnx, write_onnx
from catdog.export.proof import Engine
from catdog.export.quantize import Quantizer
from catdog.training.model import ImageModel, load_checkpoint, new_network

BATCH_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="a run folder; default: random weights")
    parser.add_argument("--photos", type=int, default=128, help="photos to calibrate on")
    parser.add_argument("--size", type=int, default=224, help="px, for random weights")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    if arguments.checkpoint:
        model = load_checkpoint(arguments.checkpoint)
        contract = model.contract
    else:
        contract = Contract(class_names=("cat", "dog"), input_size=arguments.size, arch="resnet18")
        model = ImageModel(new_network("resnet18", 2), contract).eval()
    shape = (BATCH_SIZE, contract.input_size, contract.input_size, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    with TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        write_onnx(to_onnx(model), contract, folder / "float.onnx")
        exported = time.perf_counter()
        quantizer = Quantizer(folder / "float.onnx", [noise] * (arguments.photos // BATCH_SIZE))
        write_onnx(quantizer.quantize(), contract, folder / "int8.onnx")
        quantized = time.perf_counter()
        engines = {
            "torch": Engine.of_checkpoint(model),
            "ONNX float": Engine.of_file("float", folder / "float.onnx"),
            "ONNX int8": Engine.of_file("int8", folder / "int8.onnx"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(arguments.rounds + 1):
            for name, engine in engines.items():
                begin = time.perf_counter()
                engine.model.probabilities(noise)
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first round warms up
    print(f"export {exported - start:.1f} s, calibration on {arguments.photos} photos {quantized - exported:.1f} s")
    print(f"{torch.get_num_threads()} threads, {contract.input_size} px, batches of {BATCH_SIZE}")
    for name, engine in engines.items():
        rate, ratio = BATCH_SIZE / medians[name], medians["torch"] / medians[name]
        print(f"{name:<18} {engine.size_bytes / 1e6:6.1f} MB {rate:7.0f} photos/s  {ratio:5.2f} x torch")


if __name__ == "__main__":
    main()
